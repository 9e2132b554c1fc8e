//! Serialising: what this module writes parses to the same tree in every XML parser.

use super::chars::is_char;
use super::element::{Attr, Element, Node};
use crate::ns;

/// Appends `text` escaped for character data (`&`, `<`, `>`; CR as a character reference).
/// Characters that XML forbids become U+FFFD: nothing that is written may break a stream.
pub fn escape_text(text: &str, out: &mut Vec<u8>) {
    escape(text, out, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
}

/// Appends `text` escaped for an attribute value in single quotes (also tab, LF and CR as references).
pub fn escape_attr(text: &str, out: &mut Vec<u8>) {
    escape(text, out, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\'' => Some("&apos;"),
        b'\t' => Some("&#9;"),
        b'\n' => Some("&#10;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
}

fn escape(text: &str, out: &mut Vec<u8>, special: impl Fn(u8) -> Option<&'static str>) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        // 0xEF starts U+FFFE and U+FFFF; above it and below nothing needs a look.
        let (replacement, len) = match byte {
            b'\t' | b'\n' | b'\r' | b' '..=0x7F => (special(byte), 1),
            0xEF if text[at..].chars().next().is_some_and(|c| !is_char(c)) => (Some("\u{FFFD}"), 3),
            0..0x20 => (Some("\u{FFFD}"), 1),
            _ => (None, 1),
        };
        if let Some(replacement) = replacement {
            out.extend_from_slice(&bytes[copied..at]);
            out.extend_from_slice(replacement.as_bytes());
            copied = at + len;
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Appends ` name='value'` with the value escaped; `name` is written as it is.
pub fn write_attr(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"='");
    escape_attr(value, out);
    out.push(b'\'');
}

/// Appends `element`, declaring its namespace only where it differs from `default_ns`, the default
/// namespace in force where it is written. Attributes with a namespace get a generated prefix;
/// the `xml:` namespace keeps its own. Names are written as they are: [`Element::has_valid_names`]
/// tells whether those of a tree from elsewhere may be.
pub fn write_element(element: &Element, default_ns: &str, out: &mut Vec<u8>) {
    // The xml namespace must not become the default one (Namespaces in XML §3).
    let prefix = if element.ns == ns::XML { "xml:" } else { "" };
    let inner = if prefix.is_empty() {
        &*element.ns
    } else {
        default_ns
    };
    out.push(b'<');
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(element.name.as_bytes());
    if inner != default_ns {
        write_attr("xmlns", inner, out);
    }
    write_attrs(&element.attrs, out);
    if element.children.is_empty() {
        out.extend_from_slice(b"/>");
        return;
    }
    out.push(b'>');
    for child in &element.children {
        write_node(child, inner, out);
    }
    out.extend_from_slice(b"</");
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(element.name.as_bytes());
    out.push(b'>');
}

/// Appends a child as [`write_element`] and [`escape_text`] do.
pub fn write_node(node: &Node, default_ns: &str, out: &mut Vec<u8>) {
    match node {
        Node::Element(element) => write_element(element, default_ns, out),
        Node::Text(text) => escape_text(text, out),
    }
}

/// Appends attributes, with declarations `xmlns:ns0`, `xmlns:ns1` … for the namespaces they need.
pub(crate) fn write_attrs(attrs: &[Attr], out: &mut Vec<u8>) {
    let mut declared: Vec<&str> = Vec::new();
    for attr in attrs {
        if attr.ns.is_empty() {
            write_attr(&attr.name, &attr.value, out);
        } else if attr.ns == ns::XML {
            write_attr(&format!("xml:{}", attr.name), &attr.value, out);
        } else {
            let known = declared.iter().position(|uri| *uri == attr.ns);
            let index = known.unwrap_or_else(|| {
                write_attr(&format!("xmlns:ns{}", declared.len()), &attr.ns, out);
                declared.push(&attr.ns);
                declared.len() - 1
            });
            write_attr(&format!("ns{index}:{}", attr.name), &attr.value, out);
        }
    }
}
