//! Namespace declarations in scope, and the rules of Namespaces in XML for them.

use super::XmlError;
use super::element::Text;
use super::intern::{self, Known};
use super::tag::{RawAttr, Tag};
use super::uri::is_namespace_name;
use crate::ns;
use memchr::memchr;
use smallvec::SmallVec;
use std::ops::Range;

/// The namespace of declarations; never to be declared (Namespaces in XML §3).
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";

/// Declarations in scope at once, so that looking one up has a bound.
const MAX_BINDINGS: usize = 256;

/// Declarations around a first-level element: those of the stream header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// The default namespace, empty for none.
    pub default: Text,
    /// Prefix and namespace; a later one hides an earlier one.
    pub prefixes: Vec<(Text, Text)>,
}

impl Scope {
    /// Only a default namespace.
    pub fn with_default(uri: &str) -> Self {
        Self {
            default: intern::namespace(uri),
            prefixes: Vec::new(),
        }
    }
}

/// A declared namespace name, without a copy where possible.
#[derive(Debug)]
enum Uri {
    Known(Known),
    /// As it is written, in the text of the element.
    Raw(Range<u32>),
    Owned(Box<str>),
}

#[derive(Debug)]
struct Binding {
    /// In the text of the element; empty for the default namespace.
    prefix: Range<u32>,
    uri: Uri,
    /// A name below the root uses it.
    used: bool,
}

/// A namespace that a name resolved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ns {
    Known(Known),
    /// Index of a binding of the element.
    Bound(u16),
    /// Index of a prefix of the scope around.
    Outer(u16),
    /// That of the `xml` prefix.
    Xml,
    /// The default namespace of the scope around.
    OuterDefault,
}

/// The declarations of an unfinished element, innermost last.
#[derive(Debug)]
pub(super) struct Bindings {
    stack: SmallVec<[Binding; 4]>,
    /// How many of `stack` stand on the root.
    root: usize,
    /// Which prefixes of the scope around names below the root use; the reader allows 64.
    outer_used: u64,
    /// What the default namespace is now.
    pub default: Ns,
    /// Bytes of namespace names that a tree of the element would hold.
    copied: usize,
}

impl Default for Bindings {
    #[inline]
    fn default() -> Self {
        Self {
            stack: SmallVec::new(),
            root: 0,
            outer_used: 0,
            default: Ns::OuterDefault,
            copied: 0,
        }
    }
}

fn span(text: &str, part: &str) -> Range<u32> {
    if part.is_empty() {
        return 0..0;
    }
    // `part` is a slice of `text`, and the reader keeps elements below 2 GiB.
    let start = (part.as_ptr() as usize - text.as_ptr() as usize) as u32;
    start..start + part.len() as u32
}

fn slice<'a>(text: &'a str, span: &Range<u32>) -> &'a str {
    &text[span.start as usize..span.end as usize]
}

impl Bindings {
    /// How many there are; to be handed to [`Bindings::leave`].
    pub fn mark(&self) -> usize {
        self.stack.len()
    }
    /// Forgets what was declared since `mark`.
    pub fn leave(&mut self, mark: usize, default: Ns) {
        self.stack.truncate(mark);
        self.default = default;
    }
    /// What is declared so far stands on the root.
    pub fn end_root(&mut self) {
        self.root = self.stack.len();
    }
    /// Whether a name below the root uses a prefix declared on the root or around it.
    pub fn uses_outer(&self) -> bool {
        self.outer_used != 0 || self.stack[..self.root].iter().any(|b| b.used)
    }

    /// Adds the declarations of a tag, `text` being the text of the element so far.
    pub fn declare(&mut self, text: &str, tag: &Tag) -> Result<(), XmlError> {
        for attr in &tag.attrs {
            let Some(prefix) = attr.declares() else {
                continue;
            };
            let uri = declared(text, attr)?;
            let is_xml = uri.text(text) == ns::XML;
            let lawful = match prefix {
                "xml" => is_xml,
                "xmlns" => false,
                // Namespaces in XML 1.0 §5: only the default namespace can be undeclared.
                "" => !is_xml,
                _ => !is_xml && !uri.text(text).is_empty(),
            };
            if !lawful || uri.text(text) == XMLNS || !uri.is_lawful(text) {
                return Err(XmlError::NotWellFormed);
            }
            if self.stack.len() >= MAX_BINDINGS {
                return Err(XmlError::Limit("namespaces"));
            }
            if prefix.is_empty() {
                self.default = match uri {
                    Uri::Known(known) => Ns::Known(known),
                    _ => Ns::Bound(self.stack.len() as u16),
                };
            }
            self.stack.push(Binding {
                prefix: span(text, prefix),
                uri,
                used: false,
            });
        }
        Ok(())
    }

    /// What a prefix stands for; `below` tells that the name stands below the root or is an
    /// attribute of it, so that a copy of the content needs the declaration.
    pub fn resolve(
        &mut self,
        text: &str,
        prefix: &str,
        scope: &Scope,
        below: bool,
    ) -> Result<Ns, XmlError> {
        if prefix == "xml" {
            return Ok(Ns::Xml);
        }
        let root = self.root;
        for (index, binding) in self.stack.iter_mut().enumerate().rev() {
            if slice(text, &binding.prefix) == prefix {
                binding.used |= below && index < root;
                return Ok(match binding.uri {
                    Uri::Known(known) => Ns::Known(known),
                    _ => Ns::Bound(index as u16),
                });
            }
        }
        let index = scope
            .prefixes
            .iter()
            .rposition(|(p, _)| p == prefix)
            .ok_or(XmlError::NotWellFormed)?;
        if below {
            self.outer_used |= 1 << (index & 63);
        }
        Ok(Ns::Outer(index as u16))
    }

    /// The namespace name.
    pub fn name<'a>(&'a self, text: &'a str, scope: &'a Scope, ns: Ns) -> &'a str {
        match ns {
            Ns::Known(known) => known.name(),
            Ns::Xml => ns::XML,
            Ns::Bound(index) => self
                .stack
                .get(usize::from(index))
                .map_or("", |b| b.uri.text(text)),
            Ns::Outer(index) => scope
                .prefixes
                .get(usize::from(index))
                .map_or("", |(_, uri)| uri),
            Ns::OuterDefault => &scope.default,
        }
    }
    /// The namespace name to keep.
    pub fn owned(&self, text: &str, scope: &Scope, ns: Ns) -> Text {
        match ns {
            Ns::Known(known) => Text::Borrowed(known.name()),
            Ns::Xml => Text::Borrowed(ns::XML),
            Ns::Outer(index) => scope
                .prefixes
                .get(usize::from(index))
                .map_or(Text::Borrowed(""), |(_, uri)| uri.clone()),
            Ns::OuterDefault => scope.default.clone(),
            Ns::Bound(_) => Text::Owned(self.name(text, scope, ns).to_owned()),
        }
    }
    /// Counts a name in this namespace. One long declaration used by many short names would make
    /// a tree grow with the square of what was sent.
    pub fn count(&mut self, text: &str, scope: &Scope, ns: Ns, max: usize) -> Result<(), XmlError> {
        let free = match ns {
            Ns::Known(_) | Ns::Xml => true,
            Ns::Bound(_) => false,
            Ns::Outer(index) => matches!(
                scope.prefixes.get(usize::from(index)),
                Some((_, Text::Borrowed(_)))
            ),
            Ns::OuterDefault => matches!(scope.default, Text::Borrowed(_)),
        };
        if free {
            return Ok(());
        }
        self.copied += self.name(text, scope, ns).len();
        if self.copied > max {
            Err(XmlError::Limit("namespaces"))
        } else {
            Ok(())
        }
    }

    /// Prefixes and namespaces of the root and around it that names below the root use.
    pub fn outer<'a>(
        &'a self,
        text: &'a str,
        scope: &'a Scope,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let around = scope.prefixes.iter().enumerate();
        let around = around.filter(|(index, _)| self.outer_used & (1 << (index & 63)) != 0);
        let root = self.stack[..self.root].iter().filter(|b| b.used);
        around
            .map(|(_, (prefix, uri))| (&**prefix, &**uri))
            .chain(root.map(|b| (slice(text, &b.prefix), b.uri.text(text))))
    }
    /// All declarations of the root with a prefix, and its default namespace.
    pub fn into_scope(self, text: &str, scope: &Scope) -> Scope {
        let default = self.owned(text, scope, self.default);
        let prefixed = self.stack.iter().filter(|b| !b.prefix.is_empty());
        let prefixes = prefixed
            .map(|b| {
                let prefix = slice(text, &b.prefix);
                (intern::name(prefix), intern::namespace(b.uri.text(text)))
            })
            .collect();
        Scope { default, prefixes }
    }
}

impl Uri {
    fn is_lawful(&self, text: &str) -> bool {
        matches!(self, Self::Known(_)) || is_namespace_name(self.text(text))
    }
    fn text<'a>(&'a self, text: &'a str) -> &'a str {
        match self {
            Self::Known(known) => known.name(),
            Self::Raw(span) => slice(text, span),
            Self::Owned(uri) => uri,
        }
    }
}

fn declared(text: &str, attr: &RawAttr) -> Result<Uri, XmlError> {
    if let Some(known) = Known::find(attr.raw) {
        return Ok(Uri::Known(known));
    }
    // White space is refused by `is_namespace_name`, normalised or not.
    if memchr(b'&', attr.raw.as_bytes()).is_none() {
        return Ok(Uri::Raw(span(text, attr.raw)));
    }
    let value = attr.value();
    Ok(Known::find(&value).map_or_else(
        || Uri::Owned(value.into_owned().into_boxed_str()),
        Uri::Known,
    ))
}
