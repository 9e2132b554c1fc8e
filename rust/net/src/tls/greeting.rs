//! What the handshake tells on its way and the connection does not keep: the name the client asked
//! for, and the keying material of `tls-exporter` (RFC 9266). rustls gives both to a callback, on the
//! thread that runs the handshake and within its call.

use ring::{digest, hkdf};
use rustls::KeyLog;
use std::cell::RefCell;

/// The label of the secret that RFC 8446 §7.5 exports from.
const SECRET: &str = "EXPORTER_SECRET";
/// RFC 9266 §2.
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// Bytes of the channel binding.
const BYTES: usize = 32;

thread_local! {
    static HEARD: RefCell<Greeting> = const { RefCell::new(Greeting::empty()) };
}

/// What a handshake told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The server name, in lower case.
    pub(crate) sni: Option<String>,
    /// `tls-exporter` keying material, under TLS 1.3 alone.
    pub(crate) exporter: Option<[u8; BYTES]>,
}

impl Greeting {
    const fn empty() -> Self {
        Self {
            sni: None,
            exporter: None,
        }
    }

    /// Runs a part of the handshake and takes note of what it tells.
    pub(crate) fn hear<T>(&mut self, part: impl FnOnce() -> T) -> T {
        // A handshake that panicked may have left something behind.
        HEARD.set(Self::empty());
        let result = part();
        let heard = HEARD.take();
        self.sni = heard.sni.or_else(|| self.sni.take());
        self.exporter = heard.exporter.or(self.exporter);
        result
    }
}

/// The client has asked for this name (or for none).
pub(crate) fn tell_name(name: Option<&str>) {
    HEARD.with_borrow_mut(|heard| heard.sni = name.map(str::to_ascii_lowercase));
}

/// Takes the exporter's secret as it is made and turns it into the channel binding at once. The
/// secret itself stays nowhere, and no other is asked for.
#[derive(Debug)]
pub(crate) struct ExporterOnly;

impl KeyLog for ExporterOnly {
    fn will_log(&self, label: &str) -> bool {
        label == SECRET
    }

    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == SECRET {
            HEARD.with_borrow_mut(|heard| heard.exporter = channel_binding(secret));
        }
    }
}

/// RFC 8446 §7.5 with the label of RFC 9266 §2 and an empty context. The secret is as long as the
/// cipher suite's hash.
fn channel_binding(secret: &[u8]) -> Option<[u8; BYTES]> {
    let (hkdf, hash) = match secret.len() {
        32 => (hkdf::HKDF_SHA256, &digest::SHA256),
        48 => (hkdf::HKDF_SHA384, &digest::SHA384),
        _ => return None,
    };
    let nothing = digest::digest(hash, b"");
    let nothing = nothing.as_ref();
    let prk = hkdf::Prk::new_less_safe(hkdf, secret);
    let derived = hkdf_label(secret.len(), LABEL, nothing);
    let info = [derived.as_slice()];
    let prk = hkdf::Prk::from(prk.expand(&info, hkdf).ok()?);
    let exported = hkdf_label(BYTES, b"exporter", nothing);
    let info = [exported.as_slice()];
    let mut binding = [0; BYTES];
    prk.expand(&info, Length).ok()?.fill(&mut binding).ok()?;
    Some(binding)
}

struct Length;
impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        BYTES
    }
}

/// `HkdfLabel` (RFC 8446 §7.1). None of the lengths here reaches 256.
fn hkdf_label(length: usize, label: &[u8], context: &[u8]) -> Vec<u8> {
    let octet = |n: usize| [u8::try_from(n).unwrap_or(u8::MAX)];
    let (prefix, sizes) = (b"tls13 ", [[0], octet(length)].concat());
    let name = octet(prefix.len() + label.len());
    [
        &sizes,
        &name[..],
        prefix,
        label,
        &octet(context.len()),
        context,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exporters_secret_is_asked_for() {
        assert!(ExporterOnly.will_log(SECRET));
        for other in ["CLIENT_RANDOM", "CLIENT_TRAFFIC_SECRET_0", ""] {
            assert!(!ExporterOnly.will_log(other));
        }
        let mut greeting = Greeting::default();
        greeting.hear(|| ExporterOnly.log("CLIENT_RANDOM", &[], &[1; 48]));
        assert_eq!(greeting, Greeting::default());
        greeting.hear(|| ExporterOnly.log(SECRET, &[], &[1; 47]));
        assert_eq!(greeting, Greeting::default());
    }

    #[test]
    fn what_is_told_outside_of_a_handshake_is_not_heard() {
        tell_name(Some("old.example"));
        ExporterOnly.log(SECRET, &[], &[1; 32]);
        let mut greeting = Greeting::default();
        greeting.hear(|| ());
        assert_eq!(greeting, Greeting::default());
        greeting.hear(|| tell_name(Some("Capulet.Example")));
        greeting.hear(|| ExporterOnly.log(SECRET, &[], &[1; 32]));
        assert_eq!(greeting.sni.as_deref(), Some("capulet.example"));
        assert_eq!(greeting.exporter, channel_binding(&[1; 32]));
        assert_eq!(HEARD.take(), Greeting::default());
    }
}
