//! What both engines read out of archived stanzas, or put in their place.

use antiphon_routing::archive::Flags;
use antiphon_xmpp::xml::Element;
use antiphon_xmpp::{Jid, Stanza, ns};

/// The text that a search looks through: the bodies of all languages, one a line. Empty for what
/// is no stanza.
pub(crate) fn bodies(stanza: &[u8]) -> String {
    let Ok(stanza) = Stanza::from_bytes(stanza) else {
        return String::new();
    };
    let mut text = String::new();
    for child in &stanza.payload.children {
        if child.ns == ns::CLIENT && child.name == "body" {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&stanza.parse(child).map_or_else(String::new, |b| b.text()));
        }
    }
    text
}

/// Whether a message is with exactly this full JID (XEP-0313 #filter-jid): from it where the owner
/// received it, to it where he sent it; a note to himself may be either.
pub(crate) fn is_with(stanza: &[u8], owner: &Jid, flags: Flags, with: &Jid) -> bool {
    let Ok(stanza) = Stanza::from_bytes(stanza) else {
        return false;
    };
    let is_from = stanza.from.as_ref() == Some(with);
    let is_to = stanza.to.as_ref() == Some(with);
    if with.bare_str() == owner.bare_str() {
        return is_from || is_to;
    }
    if flags.has(Flags::OUT) {
        is_to
    } else {
        is_from
    }
}

/// The `id` of the message that this one corrects (XEP-0308).
pub(crate) fn corrected(stanza: &[u8]) -> Option<String> {
    let stanza = Stanza::from_bytes(stanza).ok()?;
    let replace = stanza.child(ns::CORRECT, "replace")?;
    replace.attr("id").map(str::to_owned)
}

/// What stands for a retracted message (XEP-0424 #tombstones): its root with nothing but
/// `<retracted/>` inside. `None` for what is no stanza.
pub(crate) fn tombstone(stanza: &[u8], at_ms: u64, id: Option<&str>) -> Option<Vec<u8>> {
    let old = Stanza::from_bytes(stanza).ok()?;
    let mut retracted = Element::new(ns::RETRACT, "retracted").with_attr("stamp", stamp(at_ms));
    if let Some(id) = id {
        retracted.set_attr("id", id);
    }
    let mut new = Stanza::new(old.kind).with_child(&retracted);
    new.from = old.from;
    new.to = old.to;
    new.type_ = old.type_;
    new.id = old.id;
    Some(new.to_bytes())
}

/// A time as XEP-0082 writes it, in UTC, to the second.
fn stamp(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, years beginning in March so that the leap day is the last.
    let day = days + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z",
        of_year - (153 * march_month + 2) / 5 + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn message(text: &str) -> Vec<u8> {
        format!("<message xmlns='jabber:client' {text}</message>").into_bytes()
    }

    #[test]
    fn times_are_written_as_the_standard_has_them() {
        for (at_ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(stamp(at_ms), text);
        }
    }

    #[test]
    fn a_tombstone_keeps_the_root_and_nothing_inside() {
        let old =
            message("from='a@x/1' to='b@x' id='m1' type='chat'><body>oh</body><x xmlns='y'/>");
        let new = tombstone(&old, 0, Some("r'1")).unwrap();
        let new = Stanza::from_bytes(&new).unwrap();
        assert_eq!(new.id.as_deref(), Some("m1"));
        assert_eq!(new.type_str(), "chat");
        assert_eq!(new.payload.children.len(), 1);
        let retracted = new.child(ns::RETRACT, "retracted").unwrap();
        assert_eq!(retracted.attr("id"), Some("r'1"));
        assert_eq!(retracted.attr("stamp"), Some("1970-01-01T00:00:00Z"));
        assert_eq!(tombstone(b"no stanza", 0, None), None);
    }

    #[test]
    fn the_bodies_of_all_languages_are_the_text() {
        let stanza = message(
            "><body>One &amp; two</body><body xml:lang='de'>Zwei</body><x xmlns='y'><body>no</body></x>",
        );
        assert_eq!(bodies(&stanza), "One & two\nZwei");
        assert_eq!(bodies(b""), "");
    }

    #[test]
    fn a_full_address_is_met_on_the_other_side() {
        let (owner, other) = (Jid::parse("a@x").unwrap(), Jid::parse("b@x/2").unwrap());
        let sent = message("from='a@x/1' to='b@x/2'><body>x</body>");
        assert!(is_with(&sent, &owner, Flags::OUT, &other));
        assert!(!is_with(&sent, &owner, Flags::default(), &other));
        let note = message("from='a@x/1' to='a@x'><body>x</body>");
        let mine = Jid::parse("a@x/1").unwrap();
        assert!(is_with(&note, &owner, Flags::OUT, &mine));
    }
}
