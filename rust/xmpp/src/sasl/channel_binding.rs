//! Channel bindings: `tls-exporter` (RFC 9266) and `tls-server-end-point` (RFC 5929 §4).
//!
//! `tls-unique` is left out: TLS 1.3 does not define it, and before 1.3 it is broken without the
//! extended master secret (RFC 9266 §1).

use crate::stream::c2s::Channel;

const EXPORTER: &str = "tls-exporter";
const SERVER_END_POINT: &str = "tls-server-end-point";

/// The binding types this channel has, for the announcement of XEP-0440. Empty means that no
/// `-PLUS` mechanism and no `<sasl-channel-binding/>` may be offered.
pub fn binding_types(channel: &Channel) -> impl Iterator<Item = &'static str> {
    [EXPORTER, SERVER_END_POINT]
        .into_iter()
        .filter(|name| binding(channel, name).is_some())
}

/// The data of the binding type with this name, `None` where it is unknown or not to be had.
pub(super) fn binding<'a>(channel: &'a Channel, name: &str) -> Option<&'a [u8]> {
    let bound = match name {
        _ if !channel.secure => None,
        EXPORTER => channel.exporter.as_deref(),
        SERVER_END_POINT => channel.server_end_point.as_deref(),
        _ => None,
    };
    // An empty value would bind nothing, whoever handed it in.
    bound.filter(|bytes| !bytes.is_empty())
}
