//! The incremental reader: bytes in, stream headers, stanzas and other first-level elements out.

use super::chars::{check, floor, forbidden, space_len};
use super::element::{Element, Text};
use super::prolog;
use super::scan::{Env, Mode, Progress, Scan};
use super::scope::Scope;
use super::stanza::assemble;
use super::tag::Tag;
use crate::jid::Jid;
use crate::ns;
use crate::stanza::Stanza;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a reader refuses (RFC 6120 §13.12). All but `stanza_bytes` are fixed per stream.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first `<` to the last `>` of a first-level element; checked while bytes arrive.
    pub stanza_bytes: usize,
    /// Levels below the first-level element.
    pub depth: usize,
    /// Elements in one first-level element.
    pub elements: usize,
    /// Attributes of one element, namespace declarations included.
    pub attributes: usize,
}

/// The attributes of `<stream:stream>` or `<open/>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamHeader {
    /// Content namespace: the default namespace of a TCP stream; `jabber:client` for `<open/>`.
    pub content_ns: String,
    /// Unprepared `to`.
    pub to: Option<String>,
    /// Unprepared `from`.
    pub from: Option<String>,
    /// `id`, sent by servers only.
    pub id: Option<String>,
    /// `xml:lang`.
    pub lang: Option<String>,
    /// `version`.
    pub version: Option<String>,
}

/// Which address of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// `from`
    From,
    /// `to`
    To,
}

/// One first-level event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `<stream:stream …>` or `<open …/>`.
    Open(StreamHeader),
    /// `<message/>`, `<presence/>` or `<iq/>` in the content namespace.
    Stanza(Stanza),
    /// A stanza whose `from` or `to` does not parse, without its bad addresses: the stream lives,
    /// the stanza is answered `jid-malformed` (RFC 6120 §8.3.3.8). Where both are bad, `From`.
    Malformed(Stanza, Address),
    /// Any other first-level element.
    Element(Element),
    /// `</stream:stream>` or `<close/>`.
    Close,
}

/// Why a stream cannot go on; the variant names the stream error (RFC 6120 §4.9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// XML or namespace well-formedness (`not-well-formed`).
    #[error("not well-formed")]
    NotWellFormed,
    /// Comment, processing instruction, DTD or entity reference (`restricted-xml`).
    #[error("restricted XML")]
    Restricted,
    /// Not UTF-8 (`unsupported-encoding`).
    #[error("unsupported encoding")]
    Encoding,
    /// One of [`Limits`], or a name or its prefix above 1,024 bytes (`policy-violation`).
    #[error("limit exceeded: {0}")]
    Limit(&'static str),
    /// The stream element is not in the streams namespace (`invalid-namespace`).
    #[error("invalid namespace")]
    InvalidNamespace,
    /// The stream element has the wrong prefix (`bad-namespace-prefix`).
    #[error("bad namespace prefix")]
    BadPrefix,
    /// Text between first-level elements, a root that is no stream and the like (`bad-format`).
    #[error("bad format")]
    BadFormat,
}

/// Declarations of a stream header that are kept for its stanzas.
const MAX_HEADER_PREFIXES: usize = 64;

/// Positions in an element are kept in 32 bits.
const MAX_STANZA_BYTES: usize = i32::MAX as usize;

/// What a spare buffer may hold at most.
const MAX_SPARE: usize = 64 * 1024;

thread_local! {
    /// The buffer of the reader that was last through with its own: most have it for one turn.
    static SPARE: Cell<String> = const { Cell::new(String::new()) };
}

/// Keeps a buffer for the next reader of this thread.
fn spare(mut text: String) {
    if text.capacity() > 0 && text.capacity() <= MAX_SPARE {
        text.clear();
        SPARE.set(text);
    }
}

/// Incremental, push in and pull out. Holds no buffer while no first-level element is unfinished.
///
/// Events and errors depend on the bytes alone, not on how they were split. An element is
/// checked token by token as it arrives, so what is wrong is found at the end of the first wrong
/// tag, and no byte is searched twice.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    /// What was fed, checked for UTF-8 and XML characters; consumed up to `at`.
    text: String,
    at: usize,
    /// The start of a character whose rest has not arrived.
    tail: ([u8; 3], u8),
    /// Why nothing behind `text` is taken.
    poison: Option<XmlError>,
    /// WebSocket: where the messages in `text` end.
    frames: Option<VecDeque<usize>>,
    state: State,
    /// The element that `text[at..]` begins with, once more bytes are needed for it.
    scan: Option<Box<Scan>>,
    header: Option<Box<Header>>,
    last: Option<Box<Last>>,
}

/// What the stanza before had; the next often has the same, and then shares it.
#[derive(Debug, Default)]
struct Last {
    type_: Option<Arc<str>>,
    to: Option<Jid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was read: a byte order mark or an XML declaration may come.
    Start,
    /// The header must come.
    Prolog,
    Body,
    /// The header was an empty element.
    Closing,
    Closed,
    Failed(XmlError),
}

/// What is kept of the stream header.
#[derive(Debug)]
struct Header {
    /// The name as written, which the end tag repeats.
    qname: Text,
    /// One of the content namespaces.
    content: &'static str,
    scope: Scope,
    lang: Option<Arc<str>>,
}

impl Reader {
    /// A reader for a TCP stream (`<stream:stream>` … `</stream:stream>`).
    #[must_use]
    pub fn tcp(limits: Limits) -> Self {
        Self {
            limits,
            text: String::new(),
            at: 0,
            tail: ([0; 3], 0),
            poison: None,
            frames: None,
            state: State::Start,
            scan: None,
            header: None,
            last: None,
        }
    }
    /// A reader for RFC 7395 framing: each [`Reader::feed`] is one whole WebSocket message.
    #[must_use]
    pub fn websocket(limits: Limits) -> Self {
        Self {
            frames: Some(VecDeque::new()),
            state: State::Body,
            ..Self::tcp(limits)
        }
    }
    /// Adds bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.poison.is_some() || matches!(self.state, State::Closed | State::Failed(_)) {
            return;
        }
        if self.text.capacity() == 0 {
            self.text = SPARE.take();
        }
        let rest = self.complete_tail(bytes);
        let (text, rest) = check(rest);
        self.text.push_str(text);
        match rest {
            // At most the first three bytes of a character.
            Ok(tail) if !tail.is_empty() => {
                self.tail.0[..tail.len()].copy_from_slice(tail);
                self.tail.1 = tail.len() as u8;
            }
            Ok(_) => {}
            Err(error) => self.poison = self.poison.or(Some(error)),
        }
        if let Some(frames) = &mut self.frames {
            frames.push_back(self.text.len());
            if self.tail.1 > 0 {
                self.poison = self.poison.or(Some(XmlError::Encoding));
            }
        }
    }
    /// The next event, `None` when more bytes are needed. After an error the reader is dead.
    ///
    /// # Errors
    /// [`XmlError`].
    #[allow(
        clippy::should_implement_trait,
        reason = "an event may be followed by an error"
    )]
    pub fn next(&mut self) -> Result<Option<Event>, XmlError> {
        let result = self.step();
        if let Err(error) = result {
            self.state = State::Failed(error);
        }
        match &result {
            Ok(Some(Event::Close)) | Err(_) => {
                self.drop_unread();
                self.scan = None;
            }
            Ok(_) => self.release(),
        }
        result
    }
    /// Forgets stream context and unread bytes: a restart after STARTTLS (RFC 6120 §5.4.3.3).
    ///
    /// Kept unread bytes lose their leading white space: it separated elements of the old stream,
    /// and an XML declaration may stand at the very start of the new one only.
    pub fn restart(&mut self, keep_unread: bool) {
        if keep_unread {
            if self.frames.is_none() {
                self.at += space_len(&self.text.as_bytes()[self.at..]);
            }
        } else {
            self.drop_unread();
        }
        self.scan = None;
        self.header = None;
        self.state = if self.frames.is_some() {
            State::Body
        } else {
            State::Start
        };
        self.release();
    }
    /// Other limits from now on (after login).
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }
    /// Bytes fed and not yet consumed.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.text.len() - self.at + usize::from(self.tail.1)
    }

    fn drop_unread(&mut self) {
        self.text = String::new();
        self.at = 0;
        self.tail.1 = 0;
        self.poison = None;
        if let Some(frames) = &mut self.frames {
            frames.clear();
        }
    }
    /// Gives back what is read. An unfinished element moves to the front once, when the reader
    /// has nothing else to give.
    fn release(&mut self) {
        if self.at == self.text.len() {
            if self.frames.as_ref().is_none_or(VecDeque::is_empty) {
                spare(std::mem::take(&mut self.text));
                self.at = 0;
            }
        } else if self.scan.is_some() && self.at > 0 {
            self.text.drain(..self.at);
            self.at = 0;
            if self.text.capacity() > 2 * self.text.len() + 1024 {
                self.text.shrink_to_fit();
            }
        }
    }
    /// Finishes the character that the bytes before began.
    fn complete_tail<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let held = usize::from(self.tail.1);
        if held == 0 {
            return bytes;
        }
        let mut joined = [0; 7];
        joined[..held].copy_from_slice(&self.tail.0[..held]);
        let taken = bytes.len().min(4);
        joined[held..held + taken].copy_from_slice(&bytes[..taken]);
        let (text, rest) = check(&joined[..held + taken]);
        match (text.chars().next(), rest) {
            (Some(c), _) => {
                self.text.push(c);
                self.tail.1 = 0;
                &bytes[c.len_utf8() - held..]
            }
            (None, Ok(tail)) => {
                self.tail.0[..tail.len()].copy_from_slice(tail);
                self.tail.1 = tail.len() as u8;
                &[]
            }
            (None, Err(error)) => {
                self.poison = Some(error);
                &[]
            }
        }
    }

    fn step(&mut self) -> Result<Option<Event>, XmlError> {
        match self.state {
            State::Failed(error) => return Err(error),
            State::Closed => return Ok(None),
            State::Closing => {
                self.state = State::Closed;
                return Ok(Some(Event::Close));
            }
            State::Start => {
                if !self.start()? {
                    return self.starved();
                }
            }
            State::Prolog | State::Body => {}
        }
        match &self.frames {
            None => self.step_stream(),
            Some(frames) => match frames.front() {
                Some(&end) => self.step_frame(end),
                None => self.starved(),
            },
        }
    }
    /// What to say when all text is used up.
    fn starved(&self) -> Result<Option<Event>, XmlError> {
        self.poison.map_or(Ok(None), Err)
    }
    /// A byte order mark and an XML declaration; true when what may come there is through.
    fn start(&mut self) -> Result<bool, XmlError> {
        let rest = &self.text[self.at..];
        // RFC 6120 §11.6 forbids sending U+FEFF; where it comes nevertheless it does no harm.
        let mark = if rest.starts_with('\u{FEFF}') { 3 } else { 0 };
        let Some(len) = prolog::declaration(&rest[mark..])? else {
            return Ok(false);
        };
        self.at += mark + len;
        self.state = State::Prolog;
        Ok(true)
    }

    fn step_stream(&mut self) -> Result<Option<Event>, XmlError> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += space_len(rest);
        let body = self.state == State::Body;
        match self.text.as_bytes().get(self.at) {
            None => return self.starved(),
            Some(b'<') => {}
            // Text around the root element is not XML; between first-level elements it is,
            // but nothing that a stream may hold (RFC 6120 §11.7).
            Some(_) if body => return Err(XmlError::BadFormat),
            Some(_) => return Err(XmlError::NotWellFormed),
        }
        let limit = self.limits.stanza_bytes.min(MAX_STANZA_BYTES);
        let over = self.text.len() - self.at > limit;
        let end = if over {
            floor(&self.text, self.at + limit)
        } else {
            self.text.len()
        };
        match self.element(end, body)? {
            Some(event) => Ok(Some(event)),
            None if over => Err(XmlError::Limit("stanza size")),
            None => self.starved(),
        }
    }

    /// One WebSocket message, which ends at `end` (RFC 7395 §3.3.3: exactly one element, `<` first).
    fn step_frame(&mut self, end: usize) -> Result<Option<Event>, XmlError> {
        // What poisons is the last message, and that is then not whole.
        if self.poison.is_some() && end == self.text.len() {
            return self.starved();
        }
        let frame = &self.text[self.at..end];
        // There is no XML declaration on WebSocket, nor white space as a keepalive.
        if !frame.starts_with('<') || frame.starts_with("<?xml ") {
            return Err(XmlError::BadFormat);
        }
        let limit = self.limits.stanza_bytes.min(MAX_STANZA_BYTES);
        let over = frame.len() > limit;
        let window = if over {
            floor(&self.text, self.at + limit)
        } else {
            end
        };
        let event = match self.element(window, true)? {
            Some(event) => event,
            None if over => return Err(XmlError::Limit("stanza size")),
            None => return Err(XmlError::NotWellFormed),
        };
        let rest = &self.text.as_bytes()[self.at..end];
        if space_len(rest) < rest.len() {
            return Err(XmlError::BadFormat);
        }
        self.at = end;
        if let Some(frames) = &mut self.frames {
            frames.pop_front();
        }
        Ok(Some(self.framing(event)))
    }
    /// Recognises `<open/>` and `<close/>` (RFC 7395 §3.4, §3.6).
    fn framing(&mut self, event: Event) -> Event {
        match event {
            Event::Element(element) if element.is(ns::FRAMING, "open") => {
                let header = StreamHeader::of(&element);
                let lang = header.lang.as_deref().map(Arc::from);
                let (qname, scope) = (Text::Borrowed("open"), Scope::default());
                self.header = Some(Box::new(Header {
                    qname,
                    content: ns::CLIENT,
                    scope,
                    lang,
                }));
                Event::Open(header)
            }
            Event::Element(element) if element.is(ns::FRAMING, "close") => {
                self.state = State::Closed;
                Event::Close
            }
            event => event,
        }
    }

    /// Reads on in the first-level element (or header) at `at`, as far as `end`.
    fn element(&mut self, end: usize, body: bool) -> Result<Option<Event>, XmlError> {
        // A whole element is scanned on the stack; only an unfinished one is kept.
        if let Some(mut kept) = self.scan.take() {
            let event = self.scan_on(&mut kept, end, body)?;
            if event.is_none() {
                self.scan = Some(kept);
            }
            return Ok(event);
        }
        let mut fresh = Scan::default();
        let event = self.scan_on(&mut fresh, end, body)?;
        if event.is_none() {
            self.scan = Some(Box::new(fresh));
        }
        Ok(event)
    }
    /// The event of the element when it is whole.
    fn scan_on(
        &mut self,
        scan: &mut Scan,
        end: usize,
        body: bool,
    ) -> Result<Option<Event>, XmlError> {
        let around = Scope::default();
        let header = self.header.as_deref();
        let mode = match header {
            _ if !body => Mode::Header,
            Some(header) => Mode::Stream(header.content),
            None => Mode::Stream(ns::CLIENT),
        };
        let env = Env {
            mode,
            limits: self.limits,
            scope: header.map_or(&around, |h| &h.scope),
            lang: header.and_then(|h| h.lang.as_ref()),
            last_type: self.last.as_ref().and_then(|last| last.type_.as_ref()),
            last_to: self.last.as_ref().and_then(|last| last.to.as_ref()),
        };
        let text = &self.text[self.at..end];
        let (event, len) = match scan.advance(text, &env)? {
            Progress::More => return Ok(None),
            Progress::Done(len) if !body => {
                let (event, header, empty) = open(&text[..len], scan, self.limits)?;
                self.header = Some(Box::new(header));
                self.state = if empty { State::Closing } else { State::Body };
                (event, len)
            }
            Progress::Done(len) => (finish(scan, &text[..len], &env)?, len),
            Progress::EndTag(len) => {
                let name = text[2..len - 1].strip_prefix(header.map_or("", |h| &*h.qname));
                let name = name
                    .filter(|rest| header.is_some() && space_len(rest.as_bytes()) == rest.len());
                if name.is_none() || !body || self.frames.is_some() {
                    return Err(XmlError::NotWellFormed);
                }
                self.state = State::Closed;
                (Event::Close, len)
            }
        };
        if let Event::Stanza(stanza) | Event::Malformed(stanza, _) = &event {
            let last = self.last.get_or_insert_default();
            last.type_.clone_from(&stanza.type_);
            if stanza.to.is_some() && stanza.to != last.to {
                last.to.clone_from(&stanza.to);
            }
        }
        self.at += len;
        Ok(Some(event))
    }
}

/// The event of a finished first-level element.
fn finish(scan: &mut Scan, text: &str, env: &Env) -> Result<Event, XmlError> {
    match scan.parts() {
        Some(parts) => assemble(parts, text, env),
        None => scan
            .take_tree()
            .map(Event::Element)
            .ok_or(XmlError::NotWellFormed),
    }
}

/// The event of a stream header, what is kept of it, and whether it is an empty element.
fn open(text: &str, scan: &mut Scan, limits: Limits) -> Result<(Event, Header, bool), XmlError> {
    let tag = Tag::parse(&text[1..text.len() - 1], limits.attributes)?;
    let around = Scope::default();
    let mut bindings = scan.take_bindings();
    let ns = match tag.prefix {
        "" => bindings.default,
        prefix => bindings.resolve(text, prefix, &around, false)?,
    };
    let is_stream = bindings.name(text, &around, ns) == ns::STREAM;
    let scope = bindings.into_scope(text, &around);
    judge_header(&tag, is_stream, &scope)?;
    let mut header = StreamHeader {
        content_ns: scope.default.to_string(),
        ..StreamHeader::default()
    };
    for attr in &tag.attrs {
        let prefix = if attr.prefix == "xml" {
            ns::XML
        } else {
            attr.prefix
        };
        header.set(prefix, attr.local, &attr.value());
    }
    let contents = [ns::CLIENT, ns::SERVER, ns::COMPONENT_ACCEPT];
    let content = contents.into_iter().find(|known| *known == scope.default);
    let qname = match tag.qname {
        "stream:stream" => Text::Borrowed("stream:stream"),
        other => Text::Owned(other.to_owned()),
    };
    let kept = Header {
        qname,
        content: content.unwrap_or(ns::CLIENT),
        scope,
        lang: header.lang.as_deref().map(Arc::from),
    };
    Ok((Event::Open(header), kept, tag.empty))
}

/// Name, namespace and prefix of the root (RFC 6120 §4.8).
fn judge_header(tag: &Tag, is_stream: bool, scope: &Scope) -> Result<(), XmlError> {
    if tag.local != "stream" {
        return Err(XmlError::BadFormat);
    }
    if !is_stream {
        // RFC 6120 §4.9.3.2: also "no namespace prefix on an element that needs such a prefix".
        let declared = scope.prefixes.iter().any(|(_, uri)| uri == ns::STREAM);
        let missing = declared && tag.prefix.is_empty();
        return Err(if missing {
            XmlError::BadPrefix
        } else {
            XmlError::InvalidNamespace
        });
    }
    // RFC 6120 §4.8.5 lets a server insist on `stream`, or none in prefix-free style (§4.8.2).
    if !matches!(tag.prefix, "" | "stream") {
        return Err(XmlError::BadPrefix);
    }
    if scope.prefixes.len() > MAX_HEADER_PREFIXES {
        return Err(XmlError::Limit("namespaces"));
    }
    Ok(())
}

impl StreamHeader {
    fn of(open: &Element) -> Self {
        let mut header = Self {
            content_ns: ns::CLIENT.to_owned(),
            ..Self::default()
        };
        for attr in &open.attrs {
            header.set(&attr.ns, &attr.name, &attr.value);
        }
        header
    }
    fn set(&mut self, ns: &str, name: &str, value: &str) {
        let field = match (ns, name) {
            ("", "to") => &mut self.to,
            ("", "from") => &mut self.from,
            ("", "id") => &mut self.id,
            ("", "version") => &mut self.version,
            (ns::XML, "lang") => &mut self.lang,
            _ => return,
        };
        *field = Some(value.to_owned());
    }
}

/// Parses one complete element of trusted or untrusted origin into a tree; `default_ns` is the
/// default namespace in force around it. White space around the element is ignored.
///
/// # Errors
/// [`XmlError`].
pub fn parse_element(xml: &str, default_ns: &str, limits: Limits) -> Result<Element, XmlError> {
    parse_scoped(xml, &Scope::with_default(default_ns), limits)
}

/// [`parse_element`] with prefixes around it.
pub(super) fn parse_scoped(xml: &str, scope: &Scope, limits: Limits) -> Result<Element, XmlError> {
    let leading = space_len(xml.as_bytes());
    let xml = &xml[leading..];
    let limit = limits.stanza_bytes.min(MAX_STANZA_BYTES);
    if let Some(at) = forbidden(xml) {
        return Err(if at > limit {
            XmlError::Limit("stanza size")
        } else {
            XmlError::NotWellFormed
        });
    }
    if !xml.starts_with('<') {
        return Err(XmlError::NotWellFormed);
    }
    let window = &xml[..floor(xml, limit)];
    let env = Env {
        mode: Mode::Tree,
        limits,
        scope,
        lang: None,
        last_type: None,
        last_to: None,
    };
    let mut scan = Scan::default();
    match scan.advance(window, &env)? {
        Progress::Done(len) if space_len(&xml.as_bytes()[len..]) == xml.len() - len => {
            scan.take_tree().ok_or(XmlError::NotWellFormed)
        }
        Progress::More if xml.len() > limit => Err(XmlError::Limit("stanza size")),
        _ => Err(XmlError::NotWellFormed),
    }
}
