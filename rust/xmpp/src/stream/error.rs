//! Stream errors (RFC 6120 §4.9).

use super::framing::{Framing, Outgoing};
use crate::ns;
use crate::xml::writer::{escape_text, write_element};
use crate::xml::{Element, XmlError};

macro_rules! conditions {
    ($($variant:ident = $name:literal;)*) => {
        /// The defined conditions of stream errors (RFC 6120 §4.9.3).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum StreamCondition { $(#[doc = concat!("`", $name, "`")] $variant,)* }
        impl StreamCondition {
            /// All of them, in the order of the RFC.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The element's name.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
        }
    };
}

conditions! {
    BadFormat = "bad-format";
    BadNamespacePrefix = "bad-namespace-prefix";
    Conflict = "conflict";
    ConnectionTimeout = "connection-timeout";
    HostGone = "host-gone";
    HostUnknown = "host-unknown";
    ImproperAddressing = "improper-addressing";
    InternalServerError = "internal-server-error";
    InvalidFrom = "invalid-from";
    InvalidNamespace = "invalid-namespace";
    InvalidXml = "invalid-xml";
    NotAuthorized = "not-authorized";
    NotWellFormed = "not-well-formed";
    PolicyViolation = "policy-violation";
    RemoteConnectionFailed = "remote-connection-failed";
    Reset = "reset";
    ResourceConstraint = "resource-constraint";
    RestrictedXml = "restricted-xml";
    SeeOtherHost = "see-other-host";
    SystemShutdown = "system-shutdown";
    UndefinedCondition = "undefined-condition";
    UnsupportedEncoding = "unsupported-encoding";
    UnsupportedFeature = "unsupported-feature";
    UnsupportedStanzaType = "unsupported-stanza-type";
    UnsupportedVersion = "unsupported-version";
}

/// A stream error: always the end of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamError {
    /// Defined condition.
    pub condition: StreamCondition,
    /// English text for people. For `see-other-host` it is the place to go to, `host` or
    /// `host:port` with IPv6 in brackets (RFC 6120 §4.9.3.19), and becomes the condition's content.
    pub text: Option<String>,
    /// Application-specific condition.
    pub app: Option<Box<Element>>,
}

impl From<StreamCondition> for StreamError {
    fn from(condition: StreamCondition) -> Self {
        Self {
            condition,
            text: None,
            app: None,
        }
    }
}

impl StreamError {
    /// The same with a text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The same with an application-specific condition (RFC 6120 §4.9.4).
    #[must_use]
    pub fn with_app(mut self, app: Element) -> Self {
        self.app = Some(Box::new(app));
        self
    }

    /// Appends `<stream:error/>`; on WebSocket it declares its prefix itself (RFC 7395 §3.3.3).
    pub fn write(&self, out: &mut Outgoing) {
        let framing = out.framing();
        out.message(|bytes| self.write_bytes(framing, bytes));
    }

    fn write_bytes(&self, framing: Framing, bytes: &mut Vec<u8>) {
        match framing {
            Framing::Tcp | Framing::Relay => bytes.extend_from_slice(b"<stream:error>"),
            Framing::WebSocket => {
                bytes.extend_from_slice(b"<stream:error xmlns:stream='");
                bytes.extend_from_slice(ns::STREAM.as_bytes());
                bytes.extend_from_slice(b"'>");
            }
        }
        let is_redirect = self.condition == StreamCondition::SeeOtherHost;
        let name = self.condition.name().as_bytes();
        bytes.push(b'<');
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b" xmlns='");
        bytes.extend_from_slice(ns::STREAM_ERRORS.as_bytes());
        match self.text.as_deref().filter(|_| is_redirect) {
            Some(host) => {
                bytes.extend_from_slice(b"'>");
                escape_text(host, bytes);
                bytes.extend_from_slice(b"</");
                bytes.extend_from_slice(name);
                bytes.push(b'>');
            }
            None => bytes.extend_from_slice(b"'/>"),
        }
        if let Some(text) = self.text.as_deref().filter(|_| !is_redirect) {
            bytes.extend_from_slice(b"<text xmlns='");
            bytes.extend_from_slice(ns::STREAM_ERRORS.as_bytes());
            bytes.extend_from_slice(b"' xml:lang='en'>");
            escape_text(text, bytes);
            bytes.extend_from_slice(b"</text>");
        }
        if let Some(app) = &self.app {
            write_element(app, framing.default_ns(), bytes);
        }
        bytes.extend_from_slice(b"</stream:error>");
    }
}

impl From<XmlError> for StreamError {
    /// The condition that RFC 6120 §4.9.3 names for what the reader refused. A limit is local
    /// policy (§4.9.3.14) and says which one it was.
    fn from(error: XmlError) -> Self {
        let condition = match error {
            XmlError::NotWellFormed => StreamCondition::NotWellFormed,
            XmlError::Restricted => StreamCondition::RestrictedXml,
            XmlError::Encoding => StreamCondition::UnsupportedEncoding,
            XmlError::InvalidNamespace => StreamCondition::InvalidNamespace,
            XmlError::BadPrefix => StreamCondition::BadNamespacePrefix,
            XmlError::BadFormat => StreamCondition::BadFormat,
            XmlError::Limit(which) => {
                return Self::from(StreamCondition::PolicyViolation)
                    .with_text(format!("limit exceeded: {which}"));
            }
        };
        condition.into()
    }
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.condition.name())?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StreamError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(error: &StreamError, framing: Framing) -> String {
        let mut out = Outgoing::new(framing);
        error.write(&mut out);
        String::from_utf8(out.bytes).unwrap()
    }

    #[test]
    fn every_condition_is_written_under_its_name() {
        for condition in StreamCondition::ALL {
            assert_eq!(
                written(&(*condition).into(), Framing::Tcp),
                format!(
                    "<stream:error><{} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
                    condition.name()
                )
            );
        }
    }

    #[test]
    fn text_and_application_condition_follow_the_condition_in_the_order_of_the_rfc() {
        let error = StreamError::from(StreamCondition::NotWellFormed)
            .with_text("Some <special> diagnostic")
            .with_app(Element::new("http://example.org/ns", "escape-your-data"));
        assert_eq!(
            written(&error, Framing::Tcp),
            "<stream:error><not-well-formed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>\
             Some &lt;special&gt; diagnostic</text>\
             <escape-your-data xmlns='http://example.org/ns'/></stream:error>"
        );
    }

    #[test]
    fn on_websocket_the_prefix_is_declared_by_the_error_itself() {
        let text = written(&StreamCondition::Conflict.into(), Framing::WebSocket);
        assert!(text.starts_with("<stream:error xmlns:stream='http://etherx.jabber.org/streams'>"));
    }

    #[test]
    fn see_other_host_carries_the_host_as_content() {
        let error = StreamError::from(StreamCondition::SeeOtherHost)
            .with_text("[2001:41D0:1:A49b::1]:9222");
        assert_eq!(
            written(&error, Framing::Tcp),
            "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>\
             [2001:41D0:1:A49b::1]:9222</see-other-host></stream:error>"
        );
    }

    #[test]
    fn limits_are_policy_and_say_which() {
        let error = StreamError::from(XmlError::Limit("stanza_bytes"));
        assert_eq!(error.condition, StreamCondition::PolicyViolation);
        assert_eq!(error.text.as_deref(), Some("limit exceeded: stanza_bytes"));
    }
}
