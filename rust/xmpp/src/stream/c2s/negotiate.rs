//! Headers, features and STARTTLS (RFC 6120 §4 and §5, RFC 7395 §3).

use super::{Action, HostConfig, Owed, Phase, Stream};
use crate::jid::Jid;
use crate::ns;
use crate::sasl;
use crate::stream::error::{StreamCondition, StreamError};
use crate::stream::framing::{Framing, Outgoing};
use crate::xml::writer::escape_attr;
use crate::xml::{Element, StreamHeader};
use std::sync::Arc;

/// Stream feature of in-band registration (XEP-0077 #streamfeature).
const REGISTER_FEATURE: &[u8] = b"<register xmlns='http://jabber.org/features/iq-register'/>";

/// Whether the peer speaks XMPP 1.0 or later; the numbers are integers, not decimals (RFC 6120
/// §4.7.5).
fn is_version_ok(version: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    version.split_once('.').is_some_and(|(major, minor)| {
        is_number(major) && is_number(minor) && major.bytes().any(|digit| digit != b'0')
    })
}

impl Stream {
    pub(super) fn on_header(&mut self, header: StreamHeader, out: &mut Outgoing) -> Option<Action> {
        let error = self.judge_header(&header).err();
        // RFC 6120 §4.7.5 rule 4: a peer of before 1.0 gets no version.
        self.write_header_with(header.version.is_some(), out);
        if let Some(error) = error {
            return self.fail(error, out);
        }
        self.write_features(out);
        self.phase = match self.account {
            Some(_) => Phase::Bind,
            None => Phase::Login,
        };
        None
    }

    /// Takes what the header says into the stream.
    fn judge_header(&mut self, header: &StreamHeader) -> Result<(), StreamError> {
        let claimed = header.from.as_deref().map(Jid::parse).transpose();
        self.claimed = claimed
            .as_ref()
            .ok()
            .cloned()
            .flatten()
            .map(|jid| jid.bare());
        let asked = self.find_host(header.to.as_deref());
        let is_other =
            matches!((&asked, &self.host), (Some(new), Some(old)) if new.domain != old.domain);
        if is_other && self.account.is_some() {
            // An account of one domain must not become a user of another (CVE-2018-10847).
            return Err(StreamError::from(StreamCondition::NotAuthorized)
                .with_text("the stream was authenticated for another domain"));
        }
        if let Some(host) = &asked {
            self.host = Some(Arc::clone(host));
        }
        if header.content_ns != ns::CLIENT {
            return Err(StreamCondition::InvalidNamespace.into());
        }
        if !header.version.as_deref().is_some_and(is_version_ok) {
            return Err(StreamCondition::UnsupportedVersion.into());
        }
        if asked.is_none() {
            return Err(StreamCondition::HostUnknown.into());
        }
        if claimed.is_err() {
            return Err(StreamError::from(StreamCondition::InvalidFrom)
                .with_text("the from of the stream is no address"));
        }
        if self
            .account
            .as_ref()
            .is_some_and(|account| !self.is_claim_of(account))
        {
            return Err(StreamCondition::InvalidFrom.into());
        }
        Ok(())
    }

    /// Whether the header's `from` fits the account (RFC 6120 §6.4.6). Without one it does, and an
    /// account that we made up replaces whatever the client thought it was.
    pub(super) fn is_claim_of(&self, account: &Jid) -> bool {
        self.is_anonymous
            || self
                .claimed
                .as_ref()
                .is_none_or(|claimed| claimed == account)
    }

    /// The served domain that the client means. RFC 6120 §4.7.2 lets SNI stand in for `to`.
    fn find_host(&self, to: Option<&str>) -> Option<Arc<HostConfig>> {
        let sni = self.channel.as_ref().and_then(|c| c.sni.as_deref());
        let name = Jid::parse(to.or(sni)?).ok()?;
        let host = self.config.hosts.iter().find(|host| host.domain == name)?;
        Some(Arc::clone(host))
    }

    /// The header that precedes an error where none has been sent (RFC 6120 §4.9.1.2).
    pub(super) fn write_header(&mut self, out: &mut Outgoing) {
        self.write_header_with(true, out);
    }

    fn write_header_with(&mut self, has_version: bool, out: &mut Outgoing) {
        let host = self.host.as_ref().or(self.config.hosts.first());
        let from = host.map_or("", |host| host.domain.as_str());
        let id = std::mem::take(&mut self.next_id);
        let to = self.claimed.as_ref().map(Jid::as_str);
        let framing = self.framing;
        out.message(|bytes| {
            bytes.extend_from_slice(match framing {
                Framing::Tcp | Framing::Relay => {
                    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'"
                        .as_slice()
                }
                Framing::WebSocket => b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'",
            });
            // Only a driver that closes before it ever polled finds no id drawn.
            let id = if id.is_empty() { "0" } else { &id };
            for (name, value) in [("id", Some(id)), ("from", Some(from)), ("to", to)] {
                if let Some(value) = value {
                    bytes.extend_from_slice(format!(" {name}='").as_bytes());
                    escape_attr(value, bytes);
                    bytes.push(b'\'');
                }
            }
            if has_version {
                bytes.extend_from_slice(b" version='1.0'");
            }
            bytes.extend_from_slice(b" xml:lang='en'");
            bytes.extend_from_slice(match framing {
                Framing::Tcp | Framing::Relay => b">".as_slice(),
                Framing::WebSocket => b"/>",
            });
        });
        self.is_header_sent = true;
    }

    pub(super) fn write_footer(&self, out: &mut Outgoing) {
        out.raw(match self.framing {
            Framing::Tcp | Framing::Relay => b"</stream:stream>",
            Framing::WebSocket => b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
        });
    }

    fn write_features(&self, out: &mut Outgoing) {
        out.message(|bytes| {
            bytes.extend_from_slice(match self.framing {
                Framing::Tcp | Framing::Relay => b"<stream:features>".as_slice(),
                Framing::WebSocket => {
                    b"<stream:features xmlns:stream='http://etherx.jabber.org/streams'>"
                }
            });
            match self.account {
                None => self.features_before_login(bytes),
                Some(_) => self.features_after_login(bytes),
            }
            bytes.extend_from_slice(b"</stream:features>");
        });
    }

    /// TLS, registration, SASL: the order of XEP-0170 #c2s.
    fn features_before_login(&self, bytes: &mut Vec<u8>) {
        if self.is_starttls_offered() {
            if !self.config.allow_plaintext {
                // Mandatory, hence alone (RFC 6120 §5.3.1).
                bytes.extend_from_slice(
                    b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>",
                );
                return;
            }
            bytes.extend_from_slice(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        }
        if self.is_registration_offered() {
            bytes.extend_from_slice(REGISTER_FEATURE);
        }
        let mechanisms = self.offered();
        if mechanisms.iter().any(|mechanism| mechanism.is_plus()) {
            bytes.extend_from_slice(b"<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>");
            for name in self.channel.iter().flat_map(|c| sasl::binding_types(c)) {
                bytes.extend_from_slice(format!("<channel-binding type='{name}'/>").as_bytes());
            }
            bytes.extend_from_slice(b"</sasl-channel-binding>");
        }
        if !mechanisms.is_empty() {
            bytes.extend_from_slice(b"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>");
            for mechanism in mechanisms {
                let name = mechanism.name();
                bytes.extend_from_slice(format!("<mechanism>{name}</mechanism>").as_bytes());
            }
            bytes.extend_from_slice(b"</mechanisms>");
        }
        self.write_limits(self.config.limits_before_login.stanza_bytes, bytes);
    }

    fn features_after_login(&self, bytes: &mut Vec<u8>) {
        // The session of RFC 3921 asks for nothing any more; old clients look for it.
        bytes.extend_from_slice(
            b"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><required/></bind>\
              <session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session>",
        );
        if self.offers(|host| host.is_sm_on) {
            bytes.extend_from_slice(b"<sm xmlns='urn:xmpp:sm:3'/>");
        }
        if self.offers(|host| host.is_csi_on) {
            bytes.extend_from_slice(b"<csi xmlns='urn:xmpp:csi:0'/>");
        }
        bytes.extend_from_slice(
            b"<ver xmlns='urn:xmpp:features:rosterver'/>\
              <sub xmlns='urn:xmpp:features:pre-approval'/>",
        );
        self.write_limits(self.config.limits.stanza_bytes, bytes);
        if let Some(host) = &self.host {
            bytes.extend_from_slice(&host.extra_features);
        }
    }

    /// Whether the domain of this stream has something turned on.
    pub(super) fn offers(&self, is_on: impl FnOnce(&HostConfig) -> bool) -> bool {
        self.host.as_deref().is_some_and(is_on)
    }

    /// XEP-0478 #server-advertises.
    fn write_limits(&self, max_bytes: usize, bytes: &mut Vec<u8>) {
        let idle = self.config.idle_seconds;
        bytes.extend_from_slice(
            format!("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>{max_bytes}</max-bytes>")
                .as_bytes(),
        );
        if idle > 0 {
            bytes.extend_from_slice(format!("<idle-seconds>{idle}</idle-seconds>").as_bytes());
        }
        bytes.extend_from_slice(b"</limits>");
    }

    /// The mechanisms of this host on this channel.
    pub(super) fn offered(&self) -> Vec<sasl::Mechanism> {
        let (Some(host), Some(channel)) = (&self.host, &self.channel) else {
            return Vec::new();
        };
        sasl::offered(&host.mechanisms, channel, self.config.allow_plaintext)
    }

    /// Whether an account may be made on this stream, which needs the same protection as login.
    pub(super) fn is_registration_offered(&self) -> bool {
        (self.is_secure || self.config.allow_plaintext) && self.offers(|host| host.registration)
    }

    /// Never inside TLS, so never with direct TLS (XEP-0368), nor on WebSocket (RFC 7395 §3.9).
    fn is_starttls_offered(&self) -> bool {
        self.config.starttls && self.framing == Framing::Tcp && !self.is_secure
    }

    pub(super) fn on_tls(&mut self, element: &Element, out: &mut Outgoing) -> Option<Action> {
        if element.name != "starttls" {
            return self.fail(StreamCondition::UnsupportedStanzaType, out);
        }
        let host = self.host.as_ref().filter(|_| self.is_starttls_offered());
        let Some(domain) = host.map(|host| host.domain.clone()) else {
            // RFC 6120 §5.4.2.2: failure, and the stream ends.
            out.raw(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            self.write_footer(out);
            let text = "STARTTLS was not offered";
            let error = StreamError::from(StreamCondition::PolicyViolation).with_text(text);
            self.finish(Some(Some(error)));
            return None;
        };
        out.raw(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        // What came in clear behind `<starttls/>` must not be read as if TLS had protected it
        // (RFC 6120 §5.4.3.3); nor does what was said before survive.
        self.reader.restart(false);
        self.login = None;
        self.claimed = None;
        self.phase = Phase::Header;
        self.is_header_sent = false;
        self.owed = Some(Owed::Tls);
        Some(Action::StartTls(domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_integers() {
        for (version, is_ok) in [
            ("1.0", true),
            ("1.1", true),
            ("01.0", true),
            ("2.13", true),
            ("0.9", false),
            ("00.9", false),
            ("1", false),
            ("", false),
            (".", false),
            ("1.", false),
            ("a.b", false),
            ("-1.0", false),
            ("1.0 ", false),
        ] {
            assert_eq!(is_version_ok(version), is_ok, "{version:?}");
        }
    }
}
