//! From a scanned element to a stanza whose content is portable.

use super::element::{Element, Text};
use super::intern::namespace;
use super::reader::{Address, Event, Limits, XmlError, parse_scoped};
use super::scan::{Env, Mode, Parts, Progress, Scan};
use super::scope::Scope;
use super::tag::{RawAttr, Tag};
use super::writer::write_attr;
use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Payload, Stanza, StanzaKind};
use std::sync::Arc;

/// The root of a stanza.
#[derive(Debug)]
pub(super) struct Head {
    kind: StanzaKind,
    from: Option<Jid>,
    to: Option<Jid>,
    malformed: Option<Address>,
    type_: Option<Arc<str>>,
    id: Option<Arc<str>>,
    lang: Option<Arc<str>>,
    /// There are attributes that [`Stanza`] has no field for.
    others: bool,
}

impl Head {
    /// The root's attributes; `None` when the name is not that of a stanza.
    pub fn read(tag: &Tag, env: &Env) -> Option<Self> {
        let kind = StanzaKind::from_name(tag.local)?;
        let mut head = Self {
            kind,
            from: None,
            to: None,
            malformed: None,
            type_: None,
            id: None,
            lang: None,
            others: false,
        };
        for attr in &tag.attrs {
            match (attr.prefix, attr.local) {
                ("", "to") => {
                    let value = attr.value();
                    let same = env.last_to.filter(|last| last.as_str() == &*value);
                    match same.map_or_else(|| Jid::parse(&value), |last| Ok(last.clone())) {
                        Ok(jid) => head.to = Some(jid),
                        Err(_) => head.malformed = head.malformed.or(Some(Address::To)),
                    }
                }
                ("", "from") => match Jid::parse(&attr.value()) {
                    Ok(jid) => head.from = Some(jid),
                    Err(_) => head.malformed = Some(Address::From),
                },
                ("", "type") => {
                    let value = attr.value();
                    let same = env.last_type.filter(|last| ***last == *value);
                    head.type_ = Some(same.map_or_else(|| value.into(), Arc::clone));
                }
                ("", "id") => head.id = Some(attr.value().into()),
                ("xml", "lang") => head.lang = Some(attr.value().into()),
                _ => head.others |= attr.declares().is_none(),
            }
        }
        // RFC 6120 §4.7.4, §8.1.5: the stream's language holds for stanzas without their own, and
        // is lost when a stanza leaves its stream.
        if head.lang.is_none() {
            head.lang = env.lang.cloned();
        }
        Some(head)
    }
}

fn is_other(attr: &RawAttr) -> bool {
    let known = matches!(
        (attr.prefix, attr.local),
        ("", "to" | "from" | "type" | "id") | ("xml", "lang")
    );
    !known && attr.declares().is_none()
}

/// Makes the stanza of a finished scan; `text` is the whole element.
pub(super) fn assemble(parts: Parts, text: &str, env: &Env) -> Result<Event, XmlError> {
    let extra = if parts.head.others || parts.bindings.uses_outer() {
        extra(&parts, text, env)?
    } else {
        Arc::default()
    };
    let payload = if parts.rewrite {
        Arc::new(rewrite(text, env)?)
    } else if parts.content.is_empty() {
        Payload::empty()
    } else {
        let content = text.as_bytes()[parts.content].into();
        let children = std::mem::take(parts.children);
        Arc::new(Payload { content, children })
    };
    let Head {
        kind,
        from,
        to,
        malformed,
        type_,
        id,
        lang,
        ..
    } = parts.head;
    let mut stanza = Stanza {
        kind,
        from,
        to,
        type_,
        id,
        lang,
        extra,
        payload,
        uid: 0,
    };
    Ok(match malformed {
        None => Event::Stanza(stanza),
        Some(which) => {
            // Where `from` is bad, `to` may be as well and is then gone already.
            stanza.from = stanza.from.filter(|_| which != Address::From);
            Event::Malformed(stanza, which)
        }
    })
}

/// Attributes that [`Stanza`] has no field for, and declarations of the root and the header that
/// names in the content use: without the header they would be lost (RFC 6120 §4.8.5).
fn extra(parts: &Parts, text: &str, env: &Env) -> Result<Arc<str>, XmlError> {
    let root = Tag::parse(&text[1..parts.content.start - 1], usize::MAX)?;
    let others: Vec<&RawAttr> = root.attrs.iter().filter(|a| is_other(a)).collect();
    let mut out = Vec::new();
    for (prefix, uri) in parts.bindings.outer(text, env.scope) {
        // Rewritten content declares what it needs by itself.
        if !parts.rewrite || others.iter().any(|a| a.prefix == prefix) {
            write_attr(&format!("xmlns:{prefix}"), uri, &mut out);
        }
    }
    for attr in others {
        let colon = if attr.prefix.is_empty() { "" } else { ":" };
        write_attr(
            &format!("{}{colon}{}", attr.prefix, attr.local),
            &attr.value(),
            &mut out,
        );
    }
    // Only texts went in.
    String::from_utf8(out)
        .map(Arc::from)
        .map_err(|_| XmlError::Encoding)
}

/// The content written anew, with the content namespace as the default one.
fn rewrite(text: &str, env: &Env) -> Result<Payload, XmlError> {
    let mut scan = Scan::default();
    let tree = Env {
        mode: Mode::Tree,
        lang: None,
        last_type: None,
        last_to: None,
        ..*env
    };
    let root = match scan.advance(text, &tree)? {
        Progress::Done(_) => scan.take_tree(),
        Progress::More | Progress::EndTag(_) => None,
    };
    let root = root.ok_or(XmlError::NotWellFormed)?;
    let payload = Payload::write(&root);
    if payload.content.len() > env.limits.stanza_bytes {
        return Err(XmlError::Limit("stanza size"));
    }
    Ok(payload)
}

/// Parses a direct child of a stanza that was read or made before; `extra` is the stanza's.
pub(crate) fn parse_child(xml: &[u8], extra: &str) -> Result<Element, XmlError> {
    let xml = std::str::from_utf8(xml).map_err(|_| XmlError::Encoding)?;
    let mut scope = Scope::with_default(ns::CLIENT);
    if !extra.is_empty() {
        let root = format!("x{extra}");
        for attr in Tag::parse(&root, usize::MAX)?.attrs {
            if let Some(prefix) = attr.declares() {
                scope
                    .prefixes
                    .push((Text::Owned(prefix.to_owned()), namespace(&attr.value())));
            }
        }
    }
    let max = usize::MAX / 8;
    parse_scoped(
        xml,
        &scope,
        Limits {
            stanza_bytes: max,
            depth: max,
            elements: max,
            attributes: max,
        },
    )
}
