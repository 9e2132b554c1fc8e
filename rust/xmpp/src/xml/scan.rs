//! One first-level element as its bytes arrive: tokens, well-formedness, limits, and on the way
//! what a stanza or a tree is made of. Every byte is looked at once, however it was split.

use super::chars::space_len;
use super::element::{Attr, Element, Node, Text};
use super::reader::{Limits, XmlError};
use super::scope::{Bindings, Ns, Scope};
use super::tag::{Kind, RawAttr, Tag, check_text, unescape};
use super::{intern, stanza};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::ChildRef;
use memchr::{memchr, memmem};
use quick_xml::parser::{ElementParser, Parser};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// Direct children of a stanza; each is kept as some 60 bytes while four are sent. Deeper elements
/// are kept as their bytes alone.
const CHILDREN: usize = 1_000;
/// Elements of what is no stanza on a stream, which is kept as a tree, some 100 bytes each. Those
/// that a client or component may send have less than ten.
const NEGOTIATION: usize = 256;

/// What the element is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A start tag only: the stream header.
    Header,
    /// A stanza if it is one in this content namespace, otherwise a tree.
    Stream(&'static str),
    /// A tree.
    Tree,
}

/// What is known around the element; the same for each [`Scan::advance`] of it.
pub(super) struct Env<'a> {
    pub mode: Mode,
    pub limits: Limits,
    pub scope: &'a Scope,
    /// `xml:lang` of the stream.
    pub lang: Option<&'a Arc<str>>,
    /// The `type` of the stanza before, which is often the same.
    pub last_type: Option<&'a Arc<str>>,
    /// The last `to`: who writes once mostly writes again.
    pub last_to: Option<&'a Jid>,
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The element goes on behind the text given.
    More,
    /// The element (or header) ends here.
    Done(usize),
    /// What stands here is an end tag of something around: from `</` to behind `>`.
    EndTag(usize),
}

#[derive(Debug, Clone, Copy)]
enum Token {
    /// Between two tokens.
    Boundary,
    Start(ElementParser),
    End,
    Text,
    Cdata,
}

#[derive(Debug)]
struct Open {
    /// The name as written, in the text of the element.
    qname: Range<u32>,
    /// Bindings before it.
    mark: usize,
    /// Default namespace around it.
    default: Ns,
    /// It and all around it are in the content namespace.
    content: bool,
}

/// An unfinished first-level element. Its text begins at the element's `<` and only grows.
#[derive(Debug)]
pub(super) struct Scan {
    token: Token,
    /// Where the token starts.
    start: usize,
    /// How far its end was looked for.
    seen: usize,
    open: SmallVec<[Open; 6]>,
    bindings: Bindings,
    elements: usize,
    /// Set when the root is a stanza.
    head: Option<stanza::Head>,
    children: SmallVec<[ChildRef; 4]>,
    /// Where the root's content starts and ends.
    content: Range<usize>,
    /// Content cannot be copied as it is: it names the content namespace itself.
    rewrite: bool,
    /// Elements of the tree that are not closed, when one is built.
    tree: Vec<Element>,
    /// The finished tree.
    root: Option<Element>,
}

/// What a finished scan hands to the maker of a stanza.
pub(super) struct Parts<'a> {
    pub head: stanza::Head,
    pub children: &'a mut SmallVec<[ChildRef; 4]>,
    pub content: Range<usize>,
    pub rewrite: bool,
    pub bindings: &'a Bindings,
}

impl Default for Scan {
    #[inline]
    fn default() -> Self {
        Self {
            token: Token::Boundary,
            start: 0,
            seen: 0,
            open: SmallVec::new(),
            bindings: Bindings::default(),
            elements: 0,
            head: None,
            children: SmallVec::new(),
            content: 0..0,
            rewrite: false,
            tree: Vec::new(),
            root: None,
        }
    }
}

impl Scan {
    /// Reads on. `text` is the element from its `<` as far as it is known.
    pub fn advance(&mut self, text: &str, env: &Env) -> Result<Progress, XmlError> {
        let bytes = text.as_bytes();
        loop {
            let end = match &mut self.token {
                Token::Boundary => {
                    if !self.begin(bytes)? {
                        return Ok(Progress::More);
                    }
                    continue;
                }
                Token::Start(parser) => parser.feed(&bytes[self.seen..]),
                Token::End => memchr(b'>', &bytes[self.seen..]),
                Token::Text => memchr(b'<', &bytes[self.seen..]),
                Token::Cdata => memmem::find(&bytes[self.seen..], b"]]>"),
            };
            let Some(end) = end.map(|found| self.seen + found) else {
                // The first two bytes of `]]>` may be there already.
                let overlap = if matches!(self.token, Token::Cdata) {
                    2
                } else {
                    0
                };
                self.seen = self.seen.max(bytes.len().saturating_sub(overlap));
                return Ok(Progress::More);
            };
            let (token, start) = (self.token, self.start);
            self.token = Token::Boundary;
            match token {
                Token::Boundary => {}
                Token::Start(_) => {
                    self.start = end + 1;
                    if self.start_tag(text, start..end + 1, env)? {
                        return Ok(Progress::Done(end + 1));
                    }
                }
                Token::End => {
                    self.start = end + 1;
                    if self.open.is_empty() {
                        return Ok(Progress::EndTag(end + 1));
                    }
                    self.end_tag(text, start..end + 1)?;
                    if self.open.is_empty() {
                        return Ok(Progress::Done(end + 1));
                    }
                }
                Token::Text => {
                    self.start = end;
                    check_text(&text[start..end])?;
                    self.add_text(&text[start..end], Kind::Text);
                }
                Token::Cdata => {
                    self.start = end + 3;
                    self.add_text(&text[start + 9..end], Kind::Cdata);
                }
            }
        }
    }

    /// Finds out what token begins; false when that needs more bytes.
    fn begin(&mut self, bytes: &[u8]) -> Result<bool, XmlError> {
        let rest = &bytes[self.start..];
        let (token, skip) = match rest {
            [] | [b'<'] => return Ok(false),
            [b'<', b'/', ..] => (Token::End, 2),
            // RFC 6120 §11.1: processing instructions; an XML declaration stands at the start only.
            [b'<', b'?', ..] => return Err(XmlError::Restricted),
            [b'<', b'!'] => return Ok(false),
            [b'<', b'!', b'[', ..] => {
                let start = b"<![CDATA[";
                let len = rest.len().min(start.len());
                if rest[..len] != start[..len] {
                    return Err(XmlError::NotWellFormed);
                }
                if len < start.len() {
                    return Ok(false);
                }
                if self.open.is_empty() {
                    return Err(XmlError::BadFormat);
                }
                (Token::Cdata, start.len())
            }
            // RFC 6120 §11.1: comments and DTD.
            [b'<', b'!', ..] => return Err(XmlError::Restricted),
            [b'<', ..] => (Token::Start(ElementParser::default()), 1),
            _ => (Token::Text, 0),
        };
        self.token = token;
        self.seen = self.start + skip;
        Ok(true)
    }

    /// A start tag with its `<` and `>`; true when nothing more belongs to the element.
    fn start_tag(&mut self, text: &str, at: Range<usize>, env: &Env) -> Result<bool, XmlError> {
        let mut tag = Tag::default();
        tag.read(&text[at.start + 1..at.end - 1], env.limits.attributes)?;
        let level = self.open.len();
        self.elements += 1;
        if self.elements > env.limits.elements {
            return Err(XmlError::Limit("elements"));
        }
        if level > env.limits.depth {
            return Err(XmlError::Limit("depth"));
        }
        let (mark, default) = (self.bindings.mark(), self.bindings.default);
        self.bindings.declare(text, &tag)?;
        if level == 0 {
            self.bindings.end_root();
        }
        let ns = match tag.prefix {
            "" => self.bindings.default,
            prefix => self.bindings.resolve(text, prefix, env.scope, level > 0)?,
        };
        let budget = env.limits.stanza_bytes.saturating_mul(4);
        self.bindings.count(text, env.scope, ns, budget)?;
        self.check_attrs(text, &tag, env)?;
        let content = match env.mode {
            Mode::Stream(content) => {
                let same = self.bindings.name(text, env.scope, ns) == content;
                self.note_content(&tag, level, same, mark);
                same && self.open.last().is_none_or(|parent| parent.content)
            }
            Mode::Header | Mode::Tree => false,
        };
        if level == 0 && env.mode == Mode::Header {
            return Ok(true);
        }
        self.enter(text, &tag, at.clone(), (ns, content), env)?;
        self.check_kept(env)?;
        if tag.empty {
            // What the root declares is still asked for when the stanza is made.
            if level > 0 {
                self.bindings.leave(mark, default);
            }
            self.leave(at.end, at.end, level);
            return Ok(level == 0);
        }
        let start = at.start + 1;
        let qname = start as u32..(start + tag.qname.len()) as u32;
        self.open.push(Open {
            qname,
            mark,
            default,
            content,
        });
        Ok(false)
    }

    /// An end tag with its `</` and `>` (XML 1.0 §3.1 [42]).
    fn end_tag(&mut self, text: &str, at: Range<usize>) -> Result<(), XmlError> {
        let Some(open) = self.open.pop() else {
            return Err(XmlError::NotWellFormed);
        };
        let qname = &text[open.qname.start as usize..open.qname.end as usize];
        let rest = text[at.start + 2..at.end - 1]
            .strip_prefix(qname)
            .ok_or(XmlError::NotWellFormed)?;
        if space_len(rest.as_bytes()) < rest.len() {
            return Err(XmlError::NotWellFormed);
        }
        if !self.open.is_empty() {
            self.bindings.leave(open.mark, open.default);
        }
        self.leave(at.start, at.end, self.open.len());
        Ok(())
    }

    /// Attribute prefixes, and that no attribute is there twice (Namespaces in XML §6.3).
    fn check_attrs(&mut self, text: &str, tag: &Tag, env: &Env) -> Result<(), XmlError> {
        let budget = env.limits.stanza_bytes.saturating_mul(4);
        let mut resolved: SmallVec<[(Ns, &str); 4]> = SmallVec::new();
        for attr in tag
            .attrs
            .iter()
            .filter(|a| !a.prefix.is_empty() && a.declares().is_none())
        {
            let ns = self.bindings.resolve(text, attr.prefix, env.scope, true)?;
            self.bindings.count(text, env.scope, ns, budget)?;
            resolved.push((ns, attr.local));
        }
        let names = |a: &RawAttr, b: &RawAttr| a.local == b.local && a.prefix == b.prefix;
        let expanded = |a: &(Ns, &str), b: &(Ns, &str)| {
            let (bindings, scope) = (&self.bindings, env.scope);
            a.1 == b.1 && bindings.name(text, scope, a.0) == bindings.name(text, scope, b.0)
        };
        if repeats(&tag.attrs, names) || repeats(&resolved, expanded) {
            return Err(XmlError::NotWellFormed);
        }
        Ok(())
    }

    /// Notes whether an element keeps a copy of the content from being portable: RFC 6120 §4.8.5
    /// forbids prefixes for the content namespace, and an explicit `xmlns='jabber:client'` on a
    /// child would be wrong on a server's stream (§4.8.3).
    fn note_content(&mut self, tag: &Tag, level: usize, same: bool, mark: usize) {
        let inside = self.open.last().is_some_and(|parent| parent.content);
        let explicit = !tag.prefix.is_empty()
            || (level > 0 && self.bindings.mark() > mark && declares_default(tag));
        self.rewrite |= same && explicit && (level == 0 || inside);
    }

    fn enter(
        &mut self,
        text: &str,
        tag: &Tag,
        at: Range<usize>,
        (ns, content): (Ns, bool),
        env: &Env,
    ) -> Result<(), XmlError> {
        match (self.open.len(), env.mode) {
            (0, Mode::Stream(_)) => {
                let uri = self.bindings.name(text, env.scope, ns);
                // A second header never ends, so it is refused where it starts.
                if uri == ns::STREAM && tag.local == "stream" {
                    return Err(XmlError::BadFormat);
                }
                self.content = at.end..at.end;
                if content {
                    self.head = stanza::Head::read(tag, env);
                }
            }
            (1, _) if self.head.is_some() => {
                let ns = if content {
                    Text::Borrowed(ns::CLIENT)
                } else {
                    self.bindings.owned(text, env.scope, ns)
                };
                let start = (at.start - self.content.start) as u32;
                self.children.push(ChildRef {
                    ns,
                    name: intern::name(tag.local),
                    span: start..start,
                });
            }
            _ => {}
        }
        if self.head.is_none() {
            let mut element = Element::new(
                self.bindings.owned(text, env.scope, ns),
                intern::name(tag.local),
            );
            for attr in tag.attrs.iter().filter(|a| a.declares().is_none()) {
                let ns = match attr.prefix {
                    "" => Text::Borrowed(""),
                    prefix => {
                        let ns = self.bindings.resolve(text, prefix, env.scope, true)?;
                        self.bindings.owned(text, env.scope, ns)
                    }
                };
                element.attrs.push(Attr {
                    ns,
                    name: intern::name(attr.local),
                    value: attr.value().into_owned(),
                });
            }
            self.tree.push(element);
        }
        Ok(())
    }

    /// What an unfinished element keeps stays in proportion to its bytes, unless elements are not
    /// bounded at all.
    fn check_kept(&self, env: &Env) -> Result<(), XmlError> {
        if env.limits.elements == usize::MAX {
            return Ok(());
        }
        let is_tree = self.head.is_none() && matches!(env.mode, Mode::Stream(_));
        if self.children.len() > CHILDREN || (is_tree && self.elements > NEGOTIATION) {
            return Err(XmlError::Limit("elements"));
        }
        Ok(())
    }

    /// An element at `level` is over; its end tag goes from `end_tag` to `end`.
    fn leave(&mut self, end_tag: usize, end: usize, level: usize) {
        if self.head.is_none() {
            if let Some(element) = self.tree.pop() {
                match self.tree.last_mut() {
                    Some(parent) => parent.children.push(Node::Element(element)),
                    None => self.root = Some(element),
                }
            }
        } else if level == 1
            && let Some(child) = self.children.last_mut()
        {
            child.span.end = (end - self.content.start) as u32;
        }
        if level == 0 {
            self.content.end = end_tag.max(self.content.start);
        }
    }

    fn add_text(&mut self, raw: &str, kind: Kind) {
        let Some(parent) = self.tree.last_mut() else {
            return;
        };
        let text = unescape(raw, kind);
        if text.is_empty() {
            return;
        }
        match parent.children.last_mut() {
            Some(Node::Text(before)) => before.push_str(&text),
            _ => parent.children.push(Node::Text(text.into_owned())),
        }
    }

    /// The tree of a finished element that is no stanza.
    pub fn take_tree(&mut self) -> Option<Element> {
        self.root.take()
    }
    /// What a finished stanza is made of.
    pub fn parts(&mut self) -> Option<Parts<'_>> {
        Some(Parts {
            head: self.head.take()?,
            children: &mut self.children,
            content: self.content.clone(),
            rewrite: self.rewrite,
            bindings: &self.bindings,
        })
    }
    /// The declarations of a header.
    pub fn take_bindings(&mut self) -> Bindings {
        std::mem::take(&mut self.bindings)
    }
}

fn declares_default(tag: &Tag) -> bool {
    tag.attrs.iter().any(|a| a.declares() == Some(""))
}

/// Whether two items are the same. Attribute lists are short and bounded by [`Limits`].
fn repeats<T>(items: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    items
        .iter()
        .enumerate()
        .any(|(index, item)| items[..index].iter().any(|before| same(before, item)))
}
