//! One tag, checked against the productions of XML 1.0 and Namespaces in XML.

use super::XmlError;
use super::chars::{MAX_NAME_BYTES, is_char, is_space, ncname_end};
use memchr::{memchr, memchr2, memchr3};
use smallvec::SmallVec;
use std::borrow::Cow;

/// An attribute as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawAttr<'a> {
    /// Empty for none.
    pub prefix: &'a str,
    pub local: &'a str,
    /// Between the quotes.
    pub raw: &'a str,
}

impl<'a> RawAttr<'a> {
    /// The normalised value (XML 1.0 §3.3.3).
    pub fn value(&self) -> Cow<'a, str> {
        unescape(self.raw, Kind::Attribute)
    }
    /// The prefix that this attribute declares, empty for the default namespace.
    pub fn declares(&self) -> Option<&'a str> {
        match (self.prefix, self.local) {
            ("", "xmlns") => Some(""),
            ("xmlns", prefix) => Some(prefix),
            _ => None,
        }
    }
}

/// A start tag or an empty-element tag.
#[derive(Debug, Default)]
pub(super) struct Tag<'a> {
    /// Prefix and local name as written.
    pub qname: &'a str,
    /// Empty for none.
    pub prefix: &'a str,
    pub local: &'a str,
    pub attrs: SmallVec<[RawAttr<'a>; 6]>,
    /// `<…/>`
    pub empty: bool,
}

impl<'a> Tag<'a> {
    /// Parses what stands between `<` and `>`. Whether an attribute is there twice is not asked
    /// here: that needs the declarations in scope.
    pub fn parse(inner: &'a str, max_attrs: usize) -> Result<Self, XmlError> {
        let mut tag = Self::default();
        tag.read(inner, max_attrs)?;
        Ok(tag)
    }
    /// [`Tag::parse`] into an empty tag, which is large to move.
    pub fn read(&mut self, inner: &'a str, max_attrs: usize) -> Result<(), XmlError> {
        let text = inner.strip_suffix('/').unwrap_or(inner);
        let (prefix, local, mut at) = short_qname(text, 0)?;
        self.empty = text.len() < inner.len();
        (self.qname, self.prefix, self.local) = (&text[..at], prefix, local);
        let bytes = text.as_bytes();
        loop {
            let spaced = skip_space(bytes, at);
            if spaced == bytes.len() {
                return Ok(());
            }
            // XML 1.0 §3.1 [40]: white space before each attribute.
            if spaced == at {
                return Err(XmlError::NotWellFormed);
            }
            if self.attrs.len() >= max_attrs {
                return Err(XmlError::Limit("attributes"));
            }
            let (attr, end) = attribute(text, spaced)?;
            self.attrs.push(attr);
            at = end;
        }
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|b| is_space(*b)) {
        at += 1;
    }
    at
}

/// `QName` (Namespaces in XML §4): prefix, local name, where it ends.
fn qname(text: &str, from: usize) -> Result<(&str, &str, usize), XmlError> {
    let first = ncname_end(text, from).ok_or(XmlError::NotWellFormed)?;
    if text.as_bytes().get(first) != Some(&b':') {
        return Ok(("", &text[from..first], first));
    }
    let second = ncname_end(text, first + 1).ok_or(XmlError::NotWellFormed)?;
    Ok((&text[from..first], &text[first + 1..second], second))
}

/// [`qname`] within our bounds. They are on the parts, because what is sent on may get another
/// prefix.
fn short_qname(text: &str, from: usize) -> Result<(&str, &str, usize), XmlError> {
    let name = qname(text, from)?;
    if name.0.len().max(name.1.len()) > MAX_NAME_BYTES {
        return Err(XmlError::Limit("name"));
    }
    Ok(name)
}

/// `Attribute` (XML 1.0 §3.1 [41]) and where it ends.
fn attribute(text: &str, from: usize) -> Result<(RawAttr<'_>, usize), XmlError> {
    let bytes = text.as_bytes();
    let (prefix, local, end) = short_qname(text, from)?;
    let equals = skip_space(bytes, end);
    if bytes.get(equals) != Some(&b'=') {
        return Err(XmlError::NotWellFormed);
    }
    let open = skip_space(bytes, equals + 1);
    let quote = match bytes.get(open) {
        Some(quote @ (b'\'' | b'"')) => *quote,
        _ => return Err(XmlError::NotWellFormed),
    };
    let mut at = open + 1;
    loop {
        let found = bytes
            .get(at..)
            .and_then(|rest| memchr3(quote, b'<', b'&', rest))
            .ok_or(XmlError::NotWellFormed)?;
        at += found;
        if bytes[at] == quote {
            return Ok((
                RawAttr {
                    prefix,
                    local,
                    raw: &text[open + 1..at],
                },
                at + 1,
            ));
        }
        if bytes[at] == b'<' {
            return Err(XmlError::NotWellFormed);
        }
        at += reference(&text[at..])?.1;
    }
}

/// The character that a reference at the start of `text` stands for, and the reference's length.
///
/// RFC 6120 §11.1: of the entities only the predefined ones are allowed.
pub(super) fn reference(text: &str) -> Result<(char, usize), XmlError> {
    let rest = text.strip_prefix('&').ok_or(XmlError::NotWellFormed)?;
    if let Some(number) = rest.strip_prefix('#') {
        let (digits, radix, skipped) = match number.strip_prefix('x') {
            Some(hex) => (hex, 16, 3),
            None => (number, 10, 2),
        };
        let len = digits
            .bytes()
            .position(|b| !char::from(b).is_digit(radix))
            .ok_or(XmlError::NotWellFormed)?;
        if len == 0 || digits.as_bytes()[len] != b';' {
            return Err(XmlError::NotWellFormed);
        }
        let code = digits[..len].bytes().try_fold(0_u32, |code, b| {
            let digit = char::from(b).to_digit(radix)?;
            code.checked_mul(radix)?.checked_add(digit)
        });
        let c = code
            .and_then(char::from_u32)
            .filter(|c| is_char(*c))
            .ok_or(XmlError::NotWellFormed)?;
        return Ok((c, skipped + len + 1));
    }
    for (name, c) in [
        ("lt;", '<'),
        ("gt;", '>'),
        ("amp;", '&'),
        ("apos;", '\''),
        ("quot;", '"'),
    ] {
        if rest.starts_with(name) {
            return Ok((c, name.len() + 1));
        }
    }
    match qname(rest, 0) {
        Ok((_, _, end)) if rest.as_bytes().get(end) == Some(&b';') => Err(XmlError::Restricted),
        _ => Err(XmlError::NotWellFormed),
    }
}

/// Checks character data outside CDATA (XML 1.0 §2.4): no `]]>`, proper references.
pub(super) fn check_text(text: &str) -> Result<(), XmlError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = memchr2(b'&', b'>', &bytes[at..]) {
        at += found;
        if bytes[at] == b'>' {
            if bytes[..at].ends_with(b"]]") {
                return Err(XmlError::NotWellFormed);
            }
            at += 1;
        } else {
            at += reference(&text[at..])?.1;
        }
    }
    Ok(())
}

/// Where a piece of text stands, which decides how white space is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Line ends become LF (XML 1.0 §2.11).
    Text,
    /// The same, and references are not recognised.
    Cdata,
    /// Each white-space character becomes a space (XML 1.0 §3.3.3).
    Attribute,
}

/// What a piece of checked text means.
pub(super) fn unescape(raw: &str, kind: Kind) -> Cow<'_, str> {
    let bytes = raw.as_bytes();
    let plain = match kind {
        Kind::Text => memchr2(b'&', b'\r', bytes).is_none(),
        Kind::Cdata => memchr(b'\r', bytes).is_none(),
        Kind::Attribute => {
            memchr(b'&', bytes).is_none() && memchr3(b'\t', b'\n', b'\r', bytes).is_none()
        }
    };
    if plain {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut at = 0;
    while let Some(c) = raw[at..].chars().next() {
        let line_end = if kind == Kind::Attribute { ' ' } else { '\n' };
        match c {
            '&' if kind != Kind::Cdata => {
                // The text is checked; a stray `&` is kept as it is.
                let (c, len) = reference(&raw[at..]).unwrap_or(('&', 1));
                out.push(c);
                at += len;
                continue;
            }
            '\r' => {
                out.push(line_end);
                at += usize::from(bytes.get(at + 1) == Some(&b'\n'));
            }
            '\n' | '\t' if kind == Kind::Attribute => out.push(' '),
            c => out.push(c),
        }
        at += c.len_utf8();
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_parsed_strictly() {
        for good in [
            "a",
            "a:b",
            "a ",
            "a/",
            "a /",
            "a b='c'",
            "a\n b = \"c'd>\"\tx:y='' ",
            "a b='&lt;&#65;'",
            "é ü=''",
        ] {
            assert!(Tag::parse(good, 8).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            " a",
            "1",
            "a:",
            ":a",
            "a:b:c",
            "a:1",
            "a b",
            "a b=",
            "a b=c",
            "a b='c",
            "a b='<'",
            "a b='c'd='e'",
            "a b='c'd",
            "a/ ",
            "a //",
            "a b='&'",
            "a b='&lt'",
            "a b='&#x;'",
            "a 'b'",
            "a,b",
            "a b=='c'",
        ] {
            assert_eq!(
                Tag::parse(bad, 8).map(|_| ()),
                Err(XmlError::NotWellFormed),
                "{bad}"
            );
        }
        assert_eq!(
            Tag::parse("a b='&foo;'", 8).map(|_| ()),
            Err(XmlError::Restricted)
        );
        assert_eq!(
            Tag::parse("a b='' c=''", 1).map(|_| ()),
            Err(XmlError::Limit("attributes"))
        );
    }

    #[test]
    fn names_have_a_bound() {
        let (long, longer) = ("n".repeat(MAX_NAME_BYTES), "n".repeat(MAX_NAME_BYTES + 1));
        for form in ["N", "N:N b=''/", "a N=''", "a N:N=''", "a xmlns:N='urn:x'"] {
            assert!(Tag::parse(&form.replace('N', &long), 8).is_ok(), "{form}");
            let result = Tag::parse(&form.replace('N', &longer), 8).map(|_| ());
            assert_eq!(result, Err(XmlError::Limit("name")), "{form}");
        }
        // Bytes, not characters.
        let wide = "é".repeat(MAX_NAME_BYTES / 2 + 1);
        let result = Tag::parse(&wide, 8).map(|_| ());
        assert_eq!(result, Err(XmlError::Limit("name")));
    }

    #[test]
    fn references_are_the_predefined_five_and_numbers() {
        for (text, c) in [
            ("&lt;", '<'),
            ("&gt;", '>'),
            ("&amp;", '&'),
            ("&apos;", '\''),
            ("&quot;", '"'),
            ("&#9;", '\t'),
            ("&#x1F600;", '\u{1F600}'),
            ("&#00065;", 'A'),
            ("&#xaB;", '\u{AB}'),
        ] {
            assert_eq!(reference(text), Ok((c, text.len())), "{text}");
        }
        for bad in [
            "&",
            "&;",
            "&#;",
            "&#x;",
            "&#0;",
            "&#1;",
            "&#xD800;",
            "&#xFFFE;",
            "&#x110000;",
            "&#99999999999999;",
            "&#X41;",
            "&lt",
            "&foo",
            "& lt;",
            "&#65",
            "&#6a;",
            "&1;",
            "&#-1;",
            "&#+1;",
        ] {
            assert_eq!(reference(bad), Err(XmlError::NotWellFormed), "{bad}");
        }
        assert_eq!(reference("&foo;"), Err(XmlError::Restricted));
        assert_eq!(reference("&LT;"), Err(XmlError::Restricted));
    }

    #[test]
    fn white_space_is_normalised_by_place() {
        assert_eq!(
            unescape("a\r\nb\rc\n\t&#13;&amp;", Kind::Text),
            "a\nb\nc\n\t\r&"
        );
        assert_eq!(unescape("a\r\n&amp;", Kind::Cdata), "a\n&amp;");
        assert_eq!(
            unescape("a\r\nb\rc\n\t&#10;d", Kind::Attribute),
            "a b c  \nd"
        );
    }

    #[test]
    fn text_is_checked() {
        assert_eq!(check_text("a ]] > ]]&gt; é"), Ok(()));
        assert_eq!(check_text("a]]>"), Err(XmlError::NotWellFormed));
        assert_eq!(check_text("a]]]>"), Err(XmlError::NotWellFormed));
        assert_eq!(check_text("a & b"), Err(XmlError::NotWellFormed));
        assert_eq!(check_text("&nbsp;"), Err(XmlError::Restricted));
    }
}
