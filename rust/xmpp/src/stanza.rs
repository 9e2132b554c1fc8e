//! Stanzas (RFC 6120 §8): the addressing in parsed form, the payload as checked bytes that are
//! shared by everything that forwards it.

use crate::jid::Jid;
use crate::ns;
use crate::xml::writer::{write_attr, write_attrs, write_element, write_node};
use crate::xml::{Attr, Element, Event, Limits, Node, Reader, Text, parse_child, parse_element};
use smallvec::SmallVec;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// The three kinds of stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StanzaKind {
    /// `<message/>`
    Message,
    /// `<presence/>`
    Presence,
    /// `<iq/>`
    Iq,
}

impl StanzaKind {
    /// The element's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Iq => "iq",
        }
    }
    /// The kind with this element name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "message" => Some(Self::Message),
            "presence" => Some(Self::Presence),
            "iq" => Some(Self::Iq),
            _ => None,
        }
    }
}

/// Where a direct child element stands in [`Payload::content`], and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildRef {
    /// Resolved namespace; `jabber:client` for a child in the content namespace of any stream.
    pub ns: Text,
    /// Local name.
    pub name: Text,
    /// The child's bytes in [`Payload::content`], from `<` to `>`.
    pub span: Range<u32>,
}

/// The children of a stanza: checked, well-formed, and portable into any stream whose default
/// namespace is the content namespace. Never changed once built.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Serialised children, text between them included.
    pub content: Box<[u8]>,
    /// The direct child elements in document order.
    pub children: SmallVec<[ChildRef; 4]>,
}

impl Payload {
    /// No children; shared by all stanzas without any.
    pub(crate) fn empty() -> Arc<Self> {
        static EMPTY: LazyLock<Arc<Payload>> = LazyLock::new(Arc::default);
        Arc::clone(&EMPTY)
    }
    /// The children of `root` as they stand on a stream with the root's namespace as default.
    pub(crate) fn write(root: &Element) -> Self {
        let mut out = Vec::new();
        let mut children = SmallVec::new();
        for node in &root.children {
            let start = out.len();
            write_node(node, &root.ns, &mut out);
            if let Node::Element(child) = node {
                children.push(ChildRef::new(child, &root.ns, start..out.len()));
            }
        }
        Self {
            content: out.into_boxed_slice(),
            children,
        }
    }
    /// A child's bytes.
    fn bytes(&self, child: &ChildRef) -> &[u8] {
        self.content
            .get(child.span.start as usize..child.span.end as usize)
            .unwrap_or_default()
    }
}

impl ChildRef {
    /// The reference to a child written to `span` where `content_ns` is the default namespace.
    fn new(child: &Element, content_ns: &str, span: Range<usize>) -> Self {
        let ns = if child.ns == content_ns {
            Text::Borrowed(ns::CLIENT)
        } else {
            child.ns.clone()
        };
        // Payloads stay far below 4 GiB: the limits on a stanza say so.
        Self {
            ns,
            name: child.name.clone(),
            span: span.start as u32..span.end as u32,
        }
    }
}

/// What an error answer repeats of the stanza at most.
const MAX_REPEATED: usize = 4096;

/// For bytes that we wrote ourselves.
const NO_LIMITS: Limits = Limits {
    stanza_bytes: usize::MAX / 8,
    depth: usize::MAX,
    elements: usize::MAX,
    attributes: usize::MAX,
};

/// One stanza. Cloning shares the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Stanza {
    /// Message, presence or IQ.
    pub kind: StanzaKind,
    /// Prepared `from`.
    pub from: Option<Jid>,
    /// Prepared `to`.
    pub to: Option<Jid>,
    /// `type`, verbatim.
    pub type_: Option<Arc<str>>,
    /// `id`, verbatim.
    pub id: Option<Arc<str>>,
    /// `xml:lang`; the reader fills in the stream's where the stanza has none.
    pub lang: Option<Arc<str>>,
    /// Other attributes and namespace declarations of the root that the payload needs, serialised
    /// with a leading space each; nearly always empty.
    pub extra: Arc<str>,
    /// The children.
    pub payload: Arc<Payload>,
    /// By which the archives of both sides know a message, 0 before its sender's home has given it
    /// one. Never on the wire.
    pub uid: u64,
}

impl Stanza {
    /// A stanza without addresses and children.
    #[must_use]
    pub fn new(kind: StanzaKind) -> Self {
        Self {
            kind,
            from: None,
            to: None,
            type_: None,
            id: None,
            lang: None,
            extra: Arc::default(),
            payload: Payload::empty(),
            uid: 0,
        }
    }
    /// The same stanza to another address; the payload is shared.
    #[must_use]
    pub fn to(mut self, to: Jid) -> Self {
        self.to = Some(to);
        self
    }
    /// The same stanza from another address; the payload is shared.
    #[must_use]
    pub fn from(mut self, from: Jid) -> Self {
        self.from = Some(from);
        self
    }
    /// The same with this `type`.
    #[must_use]
    pub fn with_type(mut self, type_: &str) -> Self {
        self.type_ = Some(type_.into());
        self
    }
    /// The same with this `id`.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.into());
        self
    }
    /// The same with one more child, serialised behind the others (a new payload is made).
    #[must_use]
    pub fn with_child(self, child: &Element) -> Self {
        let mut written = Vec::with_capacity(128);
        write_element(child, ns::CLIENT, &mut written);
        self.appended(&written, |span| ChildRef::new(child, ns::CLIENT, span))
    }
    /// As [`Stanza::with_child`] for a child that is written already, as it stands on a client
    /// stream, its namespace declared.
    #[must_use]
    pub fn with_written(self, ns: &'static str, name: &'static str, child: &[u8]) -> Self {
        self.appended(child, |span| ChildRef {
            ns: Text::Borrowed(ns),
            name: Text::Borrowed(name),
            // Payloads stay far below 4 GiB: the limits on a stanza say so.
            span: span.start as u32..span.end as u32,
        })
    }
    fn appended(mut self, child: &[u8], reference: impl FnOnce(Range<usize>) -> ChildRef) -> Self {
        let old = &self.payload;
        let mut content = Vec::with_capacity(old.content.len() + child.len());
        content.extend_from_slice(&old.content);
        let start = content.len();
        content.extend_from_slice(child);
        let mut children = old.children.clone();
        children.push(reference(start..content.len()));
        self.payload = Arc::new(Payload {
            content: content.into_boxed_slice(),
            children,
        });
        self
    }
    /// The same with only those children for which `keep` holds (a new payload if one goes).
    #[must_use]
    pub fn retain(mut self, keep: impl Fn(&ChildRef) -> bool) -> Self {
        let old = &self.payload;
        if old.children.iter().all(&keep) {
            return self;
        }
        let mut content = Vec::with_capacity(old.content.len());
        let mut children = SmallVec::new();
        let mut copied = 0;
        for child in &old.children {
            let (start, end) = (child.span.start as usize, child.span.end as usize);
            content.extend_from_slice(old.content.get(copied..start).unwrap_or_default());
            copied = end;
            if keep(child) {
                let start = content.len();
                content.extend_from_slice(old.bytes(child));
                children.push(ChildRef {
                    span: start as u32..content.len() as u32,
                    ..child.clone()
                });
            }
        }
        content.extend_from_slice(old.content.get(copied..).unwrap_or_default());
        self.payload = Arc::new(Payload {
            content: content.into_boxed_slice(),
            children,
        });
        self
    }
    /// `type`, or "".
    #[must_use]
    pub fn type_str(&self) -> &str {
        self.type_.as_deref().unwrap_or("")
    }
    /// Whether there is a direct child with this namespace and name.
    #[must_use]
    pub fn has(&self, ns: &str, name: &str) -> bool {
        self.payload
            .children
            .iter()
            .any(|c| &*c.ns == ns && &*c.name == name)
    }
    /// Whether there is a direct child in this namespace.
    #[must_use]
    pub fn has_ns(&self, ns: &str) -> bool {
        self.payload.children.iter().any(|c| &*c.ns == ns)
    }
    /// The first direct child with this namespace and name, parsed.
    #[must_use]
    pub fn child(&self, ns: &str, name: &str) -> Option<Element> {
        self.parse(
            self.payload
                .children
                .iter()
                .find(|c| c.ns == ns && c.name == name)?,
        )
    }
    /// A direct child, parsed.
    #[must_use]
    pub fn parse(&self, child: &ChildRef) -> Option<Element> {
        parse_child(self.payload.bytes(child), &self.extra).ok()
    }
    /// The first direct child, parsed: the payload of an IQ.
    #[must_use]
    pub fn first_child(&self) -> Option<Element> {
        self.parse(self.payload.children.first()?)
    }
    /// The whole stanza as a tree (root namespace `jabber:client`).
    #[must_use]
    pub fn element(&self) -> Element {
        let bytes = self.to_bytes();
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        // What `write` gives is well-formed, as the payload is; the fallback is never taken.
        parse_element(text, "", NO_LIMITS)
            .unwrap_or_else(|_| Element::new(ns::CLIENT, self.kind.name()))
    }
    /// Builds a stanza from a tree made by us, in any of the content namespaces.
    ///
    /// # Errors
    /// `bad-request` when the root is no stanza or a name is no XML name, `jid-malformed` when an
    /// address does not parse.
    pub fn from_element(element: &Element) -> Result<Self, StanzaError> {
        let content_ns = matches!(&*element.ns, ns::CLIENT | ns::SERVER | ns::COMPONENT_ACCEPT);
        let kind = StanzaKind::from_name(&element.name)
            .filter(|_| content_ns && element.has_valid_names());
        let mut stanza = Self::new(kind.ok_or(StanzaCondition::BadRequest)?);
        let jid = |text: &str| {
            Jid::parse(text).map_err(|_| StanzaError::new(StanzaCondition::JidMalformed))
        };
        let mut others: Vec<Attr> = Vec::new();
        for attr in &element.attrs {
            match (&*attr.ns, &*attr.name) {
                ("", "from") => stanza.from = Some(jid(&attr.value)?),
                ("", "to") => stanza.to = Some(jid(&attr.value)?),
                ("", "type") => stanza.type_ = Some(attr.value.as_str().into()),
                ("", "id") => stanza.id = Some(attr.value.as_str().into()),
                (ns::XML, "lang") => stanza.lang = Some(attr.value.as_str().into()),
                _ => others.push(attr.clone()),
            }
        }
        if !others.is_empty() {
            let mut extra = Vec::new();
            write_attrs(&others, &mut extra);
            stanza.extra = String::from_utf8_lossy(&extra).into();
        }
        if !element.children.is_empty() {
            stanza.payload = Arc::new(Payload::write(element));
        }
        Ok(stanza)
    }
    /// Appends the stanza as it stands on a stream whose default namespace is its content
    /// namespace. With `xmlns` the root declares that namespace itself (RFC 7395 §3.3.3).
    pub fn write(&self, xmlns: Option<&str>, out: &mut Vec<u8>) {
        let name = self.kind.name().as_bytes();
        let content = &self.payload.content;
        out.reserve(content.len() + self.extra.len() + 256);
        out.push(b'<');
        out.extend_from_slice(name);
        if let Some(xmlns) = xmlns {
            write_attr("xmlns", xmlns, out);
        }
        let attrs = [
            ("from", self.from.as_ref().map(Jid::as_str)),
            ("to", self.to.as_ref().map(Jid::as_str)),
            ("id", self.id.as_deref()),
            ("type", self.type_.as_deref()),
            ("xml:lang", self.lang.as_deref()),
        ];
        for (name, value) in attrs {
            if let Some(value) = value {
                write_attr(name, value, out);
            }
        }
        out.extend_from_slice(self.extra.as_bytes());
        if content.is_empty() {
            out.extend_from_slice(b"/>");
            return;
        }
        out.push(b'>');
        out.extend_from_slice(content);
        out.extend_from_slice(b"</");
        out.extend_from_slice(name);
        out.push(b'>');
    }
    /// The stanza as bytes for the store (root with `xmlns='jabber:client'`).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(Some(ns::CLIENT), &mut out);
        out
    }
    /// Reads what [`Stanza::to_bytes`] wrote.
    ///
    /// # Errors
    /// `bad-request` when the bytes are not one stanza, `jid-malformed` when an address does not
    /// parse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StanzaError> {
        let mut reader = Reader::websocket(NO_LIMITS);
        reader.feed(bytes);
        match reader.next() {
            Ok(Some(Event::Stanza(stanza))) => Ok(stanza),
            Ok(Some(Event::Malformed(..))) => Err(StanzaCondition::JidMalformed.into()),
            _ => Err(StanzaCondition::BadRequest.into()),
        }
    }
    /// An empty IQ result to this request, addresses swapped.
    #[must_use]
    pub fn result(&self) -> Self {
        let mut result = Self::new(StanzaKind::Iq).with_type("result");
        result.from.clone_from(&self.to);
        result.to.clone_from(&self.from);
        result.id.clone_from(&self.id);
        result
    }
    /// The error answer to this stanza: addresses swapped, same id, `type='error'`. `None` for a
    /// stanza that must never be answered with an error: errors, IQ results (RFC 6120 §8.3.1).
    /// The original payload is repeated for messages and IQs up to 4 KiB, then left out.
    #[must_use]
    pub fn error(&self, error: &StanzaError) -> Option<Self> {
        if self.type_str() == "error"
            || (self.kind == StanzaKind::Iq && self.type_str() == "result")
        {
            return None;
        }
        let mut answer = Self::new(self.kind).with_type("error");
        answer.from.clone_from(&self.to);
        answer.to.clone_from(&self.from);
        answer.id.clone_from(&self.id);
        if self.kind != StanzaKind::Presence && self.payload.content.len() <= MAX_REPEATED {
            answer.lang.clone_from(&self.lang);
            answer.extra = Arc::clone(&self.extra);
            answer.payload = Arc::clone(&self.payload);
            // An `<error/>` that was sent along must not pass for ours.
            answer = answer.retain(|c| !(c.ns == ns::CLIENT && c.name == "error"));
        }
        Some(answer.with_child(&error.element()))
    }
    /// Bytes this stanza takes in memory, for budgets.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.content.len() + self.extra.len() + 512
    }
}

impl fmt::Debug for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        self.write(None, &mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

/// `type` of a stanza error (RFC 6120 §8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// Retry after providing credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// Proceed (a warning).
    Continue,
    /// Retry after changing what was sent.
    Modify,
    /// Retry after waiting.
    Wait,
}

impl ErrorType {
    /// The attribute's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Continue => "continue",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }
    /// The type of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Auth,
            Self::Cancel,
            Self::Continue,
            Self::Modify,
            Self::Wait,
        ]
        .into_iter()
        .find(|t| t.name() == name)
    }
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $type:ident;)*) => {
        /// The defined conditions of stanza errors (RFC 6120 §8.3.3).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum StanzaCondition { $($(#[$doc])* #[doc = concat!("`", $name, "`")] $variant,)* }
        impl StanzaCondition {
            /// All of them, in the order of the RFC.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The element's name.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// The error type that usually goes with it.
            #[must_use]
            pub fn usual_type(self) -> ErrorType { match self { $(Self::$variant => ErrorType::$type,)* } }
            /// The condition of this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)* _ => None } }
        }
    };
}

conditions! {
    BadRequest = "bad-request", Modify;
    Conflict = "conflict", Cancel;
    FeatureNotImplemented = "feature-not-implemented", Cancel;
    Forbidden = "forbidden", Auth;
    Gone = "gone", Cancel;
    InternalServerError = "internal-server-error", Cancel;
    ItemNotFound = "item-not-found", Cancel;
    JidMalformed = "jid-malformed", Modify;
    NotAcceptable = "not-acceptable", Modify;
    NotAllowed = "not-allowed", Cancel;
    NotAuthorized = "not-authorized", Auth;
    PolicyViolation = "policy-violation", Modify;
    RecipientUnavailable = "recipient-unavailable", Wait;
    Redirect = "redirect", Modify;
    RegistrationRequired = "registration-required", Auth;
    RemoteServerNotFound = "remote-server-not-found", Cancel;
    RemoteServerTimeout = "remote-server-timeout", Wait;
    ResourceConstraint = "resource-constraint", Wait;
    ServiceUnavailable = "service-unavailable", Cancel;
    SubscriptionRequired = "subscription-required", Auth;
    UndefinedCondition = "undefined-condition", Cancel;
    UnexpectedRequest = "unexpected-request", Wait;
}

/// A stanza error before it is written into an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaError {
    /// Defined condition.
    pub condition: StanzaCondition,
    /// Usually `condition.usual_type()`.
    pub type_: ErrorType,
    /// English text for people, or none.
    pub text: Option<String>,
    /// Application-specific condition element.
    pub app: Option<Box<Element>>,
}

impl StanzaError {
    /// The condition with its usual type.
    #[must_use]
    pub fn new(condition: StanzaCondition) -> Self {
        Self {
            condition,
            type_: condition.usual_type(),
            text: None,
            app: None,
        }
    }
    /// The same with a text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
    /// The same with another type.
    #[must_use]
    pub fn with_type(mut self, type_: ErrorType) -> Self {
        self.type_ = type_;
        self
    }
    /// The same with an application-specific condition.
    #[must_use]
    pub fn with_app(mut self, app: Element) -> Self {
        self.app = Some(Box::new(app));
        self
    }
    /// `<error/>` in `jabber:client` (RFC 6120 §8.3.2).
    #[must_use]
    pub fn element(&self) -> Element {
        let mut error = Element::new(ns::CLIENT, "error")
            .with_attr("type", self.type_.name())
            .with_child(Element::new(ns::STANZA_ERRORS, self.condition.name()));
        if let Some(text) = &self.text {
            let text = Element::new(ns::STANZA_ERRORS, "text").with_text(text.as_str());
            error.push(text.with_attr_ns(ns::XML, "lang", "en"));
        }
        if let Some(app) = &self.app {
            error.push(app.as_ref().clone());
        }
        error
    }
    /// Reads an `<error/>`. An unknown condition is `undefined-condition`, an unknown type that of
    /// the condition.
    #[must_use]
    pub fn from_element(error: &Element) -> Self {
        let named = error
            .elements()
            .find(|e| e.ns == ns::STANZA_ERRORS && e.name != "text");
        let condition = named.and_then(|e| StanzaCondition::from_name(&e.name));
        let condition = condition.unwrap_or(StanzaCondition::UndefinedCondition);
        let type_ = error.attr("type").and_then(ErrorType::from_name);
        Self {
            condition,
            type_: type_.unwrap_or(condition.usual_type()),
            text: error.child(ns::STANZA_ERRORS, "text").map(Element::text),
            app: error
                .elements()
                .find(|e| e.ns != ns::STANZA_ERRORS)
                .map(|e| Box::new(e.clone())),
        }
    }
}

impl From<StanzaCondition> for StanzaError {
    fn from(condition: StanzaCondition) -> Self {
        Self::new(condition)
    }
}
