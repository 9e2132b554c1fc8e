//! Namespace names.

/// Whether `uri` may be a namespace name: a URI reference (Namespaces in XML §2.1, RFC 3986 §4.1).
///
/// No parser need ask for that, but some refuse what is none, and such a stanza would end the
/// stream of whoever receives it: lxml reports it as an error, and expat does where a character
/// outside RFC 3986 is its separator (slixmpp's is `}`, others use a space; CVE-2022-25236).
pub(super) fn is_namespace_name(uri: &str) -> bool {
    let (rest, fragment) = uri.split_once('#').unwrap_or((uri, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hierarchy = match rest.split_once(':') {
        Some((scheme, after)) if !scheme.contains('/') => {
            if !is_scheme(scheme) {
                return false;
            }
            after
        }
        _ => rest,
    };
    let path = match hierarchy.strip_prefix("//") {
        None => hierarchy,
        Some(after) => {
            let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
            if !is_authority(authority) {
                return false;
            }
            path
        }
    };
    made_of(path, b":@/") && made_of(query, b":@/?") && made_of(fragment, b":@/?")
}

fn is_scheme(text: &str) -> bool {
    let more = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(more)
}

fn is_authority(text: &str) -> bool {
    let (user, host) = text.split_once('@').unwrap_or(("", text));
    let (host, port) = match host.strip_prefix('[') {
        Some(literal) => {
            let Some((address, after)) = literal.split_once(']') else {
                return false;
            };
            let address_byte = |b: u8| b.is_ascii_hexdigit() || b":.".contains(&b);
            if address.is_empty() || !address.bytes().all(address_byte) {
                return false;
            }
            match after.strip_prefix(':') {
                None if after.is_empty() => ("", None),
                None => return false,
                port => ("", port),
            }
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    // RFC 3986 §3.2.3 takes any number of digits, libxml2 at least one and not too many.
    let port_fits = |p: &str| matches!(p.len(), 1..=5) && p.bytes().all(|b| b.is_ascii_digit());
    made_of(user, b":") && made_of(host, b"") && port.is_none_or(port_fits)
}

/// Whether there are only `unreserved`, `pct-encoded`, `sub-delims` (RFC 3986 §2) and `more`.
fn made_of(text: &str, more: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(at, b)| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => true,
        b'%' => hex(at + 1) && hex(at + 2),
        _ => b"-._~!$&'()*+,;=".contains(b) || more.contains(b),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_names_are_uri_references() {
        for good in [
            "",
            "a",
            "jabber:client",
            "vcard-temp",
            "vcard-temp:x:update",
            "http://etherx.jabber.org/streams",
            "http://jabber.org/protocol/disco#info",
            "urn:xmpp:sid:0",
            "a?b=c&d=%20#e/?:@",
            "//user:x@[::1]:80/a//b",
            "http:///x",
            "../a;b=c",
        ] {
            assert!(is_namespace_name(good), "{good}");
        }
        for bad in [
            "a b",
            "a}b",
            "a\nb",
            "a\"b",
            "a<b",
            "a|b",
            "a\\b",
            "a^b",
            "a`b",
            "\u{7F}",
            "urn:é",
            "a#b#c",
            ":a",
            "1a:b",
            "a[b]",
            "%",
            "%2",
            "%zz",
            "http://a:/",
            "http://a:b/",
            "http://[::1",
            "http://[]/",
            "http://[::1]x/",
            "http://a@b@c/",
            "http://a:123456/",
            "é:a",
        ] {
            assert!(!is_namespace_name(bad), "{bad:?}");
        }
    }
}
