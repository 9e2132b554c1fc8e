//! What stands before the first `<stream:stream>`: the XML declaration.

use super::XmlError;
use super::chars::{is_space, space_len};
use memchr::memmem;

/// Longer than any sensible declaration, so that looking for its end again stays cheap.
const MAX_DECLARATION: usize = 256;

/// The length of the XML declaration at the start of `text`, 0 when there is none, `None` when
/// more text is needed to tell.
///
/// # Errors
/// `NotWellFormed`, `Encoding` for another encoding than UTF-8 (RFC 6120 §11.6), `Restricted` for
/// a processing instruction. A standalone declaration is ignored (RFC 6120 §11.5).
pub(super) fn declaration(text: &str) -> Result<Option<usize>, XmlError> {
    const START: &str = "<?xml";
    if !text.starts_with(START) {
        let undecided = START.starts_with(text);
        return Ok(if undecided { None } else { Some(0) });
    }
    match text.as_bytes().get(START.len()) {
        None => return Ok(None),
        Some(byte) if is_space(*byte) => {}
        Some(_) => return Err(XmlError::Restricted),
    }
    match memmem::find(text.as_bytes(), b"?>") {
        Some(end) if end <= MAX_DECLARATION => {
            parse(&text[START.len()..end]).map(|()| Some(end + 2))
        }
        None if text.len() <= MAX_DECLARATION + 1 => Ok(None),
        _ => Err(XmlError::NotWellFormed),
    }
}

/// `VersionInfo EncodingDecl? SDDecl? S?` (XML 1.0 §2.8).
fn parse(text: &str) -> Result<(), XmlError> {
    let (version, rest) = pseudo_attr(text, "version")?.ok_or(XmlError::NotWellFormed)?;
    // RFC 6120 §11.8: XML 1.0; by its fifth edition a 1.x document is read as 1.0.
    let minor = version.strip_prefix("1.").ok_or(XmlError::NotWellFormed)?;
    if minor.is_empty() || !minor.bytes().all(|b| b.is_ascii_digit()) {
        return Err(XmlError::NotWellFormed);
    }
    let (encoding, rest) = pseudo_attr(rest, "encoding")?.unwrap_or(("UTF-8", rest));
    let mut bytes = encoding.bytes();
    let named = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    if !named || !bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(XmlError::NotWellFormed);
    }
    let (standalone, rest) = pseudo_attr(rest, "standalone")?.unwrap_or(("no", rest));
    if !matches!(standalone, "yes" | "no") || space_len(rest.as_bytes()) < rest.len() {
        return Err(XmlError::NotWellFormed);
    }
    if encoding.eq_ignore_ascii_case("utf-8") {
        Ok(())
    } else {
        Err(XmlError::Encoding)
    }
}

/// White space, `name`, `=`, a quoted value: the value and what follows; `None` when `name` is
/// not next.
fn pseudo_attr<'a>(text: &'a str, name: &str) -> Result<Option<(&'a str, &'a str)>, XmlError> {
    let space = space_len(text.as_bytes());
    let Some(rest) = text[space..].strip_prefix(name) else {
        return Ok(None);
    };
    let trim = |text: &'a str| &text[space_len(text.as_bytes())..];
    let rest = trim(rest)
        .strip_prefix('=')
        .map(trim)
        .ok_or(XmlError::NotWellFormed)?;
    let quote = rest
        .chars()
        .next()
        .filter(|c| matches!(c, '\'' | '"'))
        .ok_or(XmlError::NotWellFormed)?;
    let (value, rest) = rest[1..].split_once(quote).ok_or(XmlError::NotWellFormed)?;
    if space == 0 {
        Err(XmlError::NotWellFormed)
    } else {
        Ok(Some((value, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_told_by_the_grammar() {
        for (text, expected) in [
            ("<?xml version='1.0'?><a", Ok(Some(21))),
            (
                "<?xml version = \"1.0\" encoding='utf-8' standalone='no' ?>",
                Ok(Some(57)),
            ),
            ("<stream", Ok(Some(0))),
            ("<?xm", Ok(None)),
            ("", Ok(None)),
            ("<?xml version='1.0'", Ok(None)),
            ("<?xml-stylesheet ?>", Err(XmlError::Restricted)),
            ("<?xml version='1.1'?>", Ok(Some(21))),
            ("<?xml version='2.0'?>", Err(XmlError::NotWellFormed)),
            ("<?xml encoding='UTF-8'?>", Err(XmlError::NotWellFormed)),
            (
                "<?xml version='1.0' encoding='UTF-16'?>",
                Err(XmlError::Encoding),
            ),
            (
                "<?xml version='1.0' encoding='latin1'?>",
                Err(XmlError::Encoding),
            ),
            (
                "<?xml version='1.0' encoding=''?>",
                Err(XmlError::NotWellFormed),
            ),
            (
                "<?xml version='1.0'encoding='UTF-8'?>",
                Err(XmlError::NotWellFormed),
            ),
            (
                "<?xml version='1.0' standalone='maybe'?>",
                Err(XmlError::NotWellFormed),
            ),
            (
                "<?xml version='1.0' foo='bar'?>",
                Err(XmlError::NotWellFormed),
            ),
            ("<?xml ?>", Err(XmlError::NotWellFormed)),
        ] {
            assert_eq!(declaration(text), expected, "{text}");
        }
        assert_eq!(
            declaration(&format!("<?xml {}", " ".repeat(300))),
            Err(XmlError::NotWellFormed)
        );
    }
}
