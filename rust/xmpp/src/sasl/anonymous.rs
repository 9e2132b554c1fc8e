//! ANONYMOUS (RFC 4505, XEP-0175): a fresh account that nobody can have had before.

use super::Failure;
use crate::jid::Jid;
use std::fmt::Write;

/// A temporary bare JID at this host, with a random UUID as its localpart as XEP-0175
/// §3 "Recommendations" has it. Trace data that the client may have sent is not looked at.
pub(super) fn account(host: &Jid, random: &mut dyn FnMut(&mut [u8])) -> Result<Jid, Failure> {
    let mut bytes = [0_u8; 16];
    random(&mut bytes);
    // Version 4, variant 1 (RFC 9562 §5.4).
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut name = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            name.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Jid::from_parts(Some(&name), host.domain(), None).map_err(|_| Failure::TemporaryAuthFailure)
}
