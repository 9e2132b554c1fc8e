//! Stored messages as they are given to clients (XEP-0297), serialised straight into bytes.

use antiphon_routing::archive::{ArchiveId, ArchivedMessage, BOX_ARCHIVE, InboxEntry};
use antiphon_xmpp::xml::writer::{escape_text, write_attr};
use antiphon_xmpp::{Jid, Stanza, StanzaKind, ns};

/// Bytes of a result around its message, about.
const AROUND: usize = 384;

/// The dialects of XEP-0313 (mam-fulltext.md §4): the results of all look the same.
pub(super) fn mam_namespace(ns: &str) -> Option<&'static str> {
    [ns::MAM_2, ns::MAM_1, ns::MAM_0, ns::MAM_TMP]
        .into_iter()
        .find(|known| *known == ns)
}

/// Whether a dialect is older than stanza ids (XEP-0359).
pub(super) fn is_old_dialect(ns: &str) -> bool {
    ns == ns::MAM_0 || ns == ns::MAM_TMP
}

/// XEP-0082 #profiles-datetime, in UTC, to the millisecond.
pub(super) fn write_stamp(at_ms: u64, out: &mut Vec<u8>) {
    let (days, ms_of_day) = (at_ms / 86_400_000, at_ms % 86_400_000);
    // Proleptic Gregorian calendar, in years that begin with March, eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let leap_days = day_of_era / 1_460 + day_of_era / 146_096;
    let year_of_era = (day_of_era + day_of_era / 36_524 - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let second = ms_of_day / 1000;
    let mut digits = |value: u64, width: u32, end: u8| {
        for place in (0..width).rev() {
            // A digit.
            out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
        }
        out.push(end);
    };
    digits(year, 4, b'-');
    digits(month, 2, b'-');
    digits(day, 2, b'T');
    digits(second / 3600, 2, b':');
    digits(second / 60 % 60, 2, b':');
    digits(second % 60, 2, b'.');
    digits(ms_of_day % 1000, 3, b'Z');
}

/// `<forwarded/>` with the time at which the message was archived.
fn write_forwarded(at_ms: u64, stanza: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='",
    );
    write_stamp(at_ms, out);
    out.extend_from_slice(b"'/>");
    out.extend_from_slice(stanza);
    out.extend_from_slice(b"</forwarded>");
}

/// The stored message with its place in the owner's archive (XEP-0359), for which results of
/// XEP-0313 have an attribute of their own.
fn with_place(stanza: &[u8], owner: &Jid, id: &str) -> Vec<u8> {
    const END: &[u8] = b"</message>";
    let mut out = Vec::with_capacity(stanza.len() + 160);
    match stanza
        .strip_suffix(END)
        .or_else(|| stanza.strip_suffix(b"/>"))
    {
        Some(open) => out.extend_from_slice(open),
        None => return stanza.to_vec(),
    }
    if !stanza.ends_with(END) {
        out.push(b'>');
    }
    out.extend_from_slice(b"<stanza-id");
    write_attr("xmlns", ns::SID, &mut out);
    write_attr("by", owner.bare_str(), &mut out);
    write_attr("id", id, &mut out);
    out.extend_from_slice(b"/>");
    out.extend_from_slice(END);
    out
}

/// What all results of one answer have in common.
pub(super) struct Results<'a> {
    /// Whose archive, bare.
    pub owner: &'a Jid,
    /// The asking session.
    pub to: &'a Jid,
    /// `queryid`, if the client gave one.
    pub query_id: Option<&'a str>,
    /// Of the ids.
    pub key: u64,
}

impl Results<'_> {
    fn message(&self, ns: &'static str, name: &'static str, child: &[u8]) -> Stanza {
        Stanza::new(StanzaKind::Message)
            .from(self.owner.clone())
            .to(self.to.clone())
            .with_written(ns, name, child)
    }

    fn write_result(&self, ns: &str, id: &str, at_ms: u64, stanza: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"<result");
        write_attr("xmlns", ns, out);
        if let Some(query_id) = self.query_id {
            write_attr("queryid", query_id, out);
        }
        write_attr("id", id, out);
        out.push(b'>');
        write_forwarded(at_ms, stanza, out);
        out.extend_from_slice(b"</result>");
    }

    /// One message of an archive (XEP-0313 #results).
    pub fn archived(&self, ns: &'static str, message: &ArchivedMessage) -> Stanza {
        let mut out = Vec::with_capacity(message.stanza.len() + AROUND);
        let id = self.text(message.id);
        self.write_result(ns, &id, message.id.ms(), &message.stanza, &mut out);
        self.message(ns, "result", &out)
    }

    /// An id as the client sees it.
    pub fn text(&self, id: ArchiveId) -> String {
        id.text(self.owner, self.key)
    }

    /// One conversation of an inbox, in Erlang Solutions' protocol (inbox.md §3).
    pub fn conversation(&self, entry: &InboxEntry, now_ms: u64) -> Stanza {
        let mut out = Vec::with_capacity(entry.stanza.len() + AROUND + 160);
        out.extend_from_slice(b"<result");
        write_attr("xmlns", ns_inbox::ESL, &mut out);
        write_attr("unread", &entry.unread.to_string(), &mut out);
        if let Some(query_id) = self.query_id {
            write_attr("queryid", query_id, &mut out);
        }
        out.push(b'>');
        let stanza = with_place(&entry.stanza, self.owner, &self.text(entry.last_id));
        write_forwarded(entry.last_id.ms(), &stanza, &mut out);
        write_properties(entry, now_ms, &mut out);
        out.extend_from_slice(b"</result>");
        self.message(ns_inbox::ESL, "result", &out)
    }

    /// One conversation of an inbox, as XEP-0430 #query has it.
    pub fn entry(&self, entry: &InboxEntry, has_message: bool) -> Stanza {
        let mut out = Vec::with_capacity(160);
        let id = self.text(entry.last_id);
        out.extend_from_slice(b"<entry");
        write_attr("xmlns", ns_inbox::XEP_0430, &mut out);
        write_attr("unread", &entry.unread.to_string(), &mut out);
        write_attr("jid", entry.peer.as_str(), &mut out);
        write_attr("id", &id, &mut out);
        out.extend_from_slice(b"/>");
        let message = self.message(ns_inbox::XEP_0430, "entry", &out);
        if !has_message {
            return message;
        }
        out.clear();
        self.write_result(ns::MAM_2, &id, entry.last_id.ms(), &entry.stanza, &mut out);
        message.with_written(ns::MAM_2, "result", &out)
    }

    /// The notice that a conversation has changed (inbox.md §4).
    pub fn notice(&self, entry: &InboxEntry, now_ms: u64) -> Stanza {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"<x");
        write_attr("xmlns", ns::INBOX_CONVERSATION, &mut out);
        write_attr("jid", entry.peer.as_str(), &mut out);
        out.push(b'>');
        write_properties(entry, now_ms, &mut out);
        out.extend_from_slice(b"</x>");
        self.message(ns::INBOX_CONVERSATION, "x", &out)
    }
}

/// Namespaces of the inbox.
pub(super) mod ns_inbox {
    /// Erlang Solutions' protocol.
    pub const ESL: &str = "erlang-solutions.com:xmpp:inbox:0";
    /// XEP-0430.
    pub const XEP_0430: &str = "urn:xmpp:inbox:1";
}

/// `<read/>`, `<box/>`, `<archive/>` and `<mute/>` of a conversation.
fn write_properties(entry: &InboxEntry, now_ms: u64, out: &mut Vec<u8>) {
    let flag = |is: bool| if is { "true" } else { "false" };
    let mut mute = Vec::new();
    if entry.muted_until_ms > now_ms {
        write_stamp(entry.muted_until_ms, &mut mute);
    } else {
        mute.push(b'0');
    }
    let mut child = |name: &str, value: &[u8]| {
        for part in [b"<", name.as_bytes(), b">", value, b"</", name.as_bytes()] {
            out.extend_from_slice(part);
        }
        out.push(b'>');
    };
    let mut in_box = Vec::new();
    escape_text(&entry.in_box, &mut in_box);
    child("read", flag(entry.unread == 0).as_bytes());
    child("box", &in_box);
    child("archive", flag(&*entry.in_box == BOX_ARCHIVE).as_bytes());
    child("mute", &mute);
}

/// Whether a stanza is a result that was asked for: when its session ends before it was confirmed,
/// nobody wants it any more.
pub(crate) fn is_result(stanza: &Stanza) -> bool {
    // Nobody else writes to a full address in the name of its bare one.
    let is_own = stanza.from.as_ref().is_some_and(Jid::is_bare)
        && stanza.to.as_ref().map(Jid::bare_str) == stanza.from.as_ref().map(Jid::as_str);
    stanza.kind == StanzaKind::Message
        && is_own
        && stanza.payload.children.first().is_some_and(|child| {
            let is_archive = &*child.name == "result" && mam_namespace(&child.ns).is_some();
            let is_inbox = &*child.ns == ns_inbox::ESL
                || &*child.ns == ns_inbox::XEP_0430
                || &*child.ns == ns::INBOX_CONVERSATION;
            is_archive || is_inbox
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use antiphon_routing::archive::Flags;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn stamp(at_ms: u64) -> String {
        let mut out = Vec::new();
        write_stamp(at_ms, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn stamps_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_600_123, "2026-01-01T00:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(stamp(ms), text);
        }
    }

    fn results<'a>(owner: &'a Jid, to: &'a Jid) -> Results<'a> {
        Results {
            owner,
            to,
            query_id: Some("q'1"),
            key: 7,
        }
    }

    #[test]
    fn an_archived_message_is_a_result_that_parses() {
        let (owner, to) = (jid("ana@acme.example"), jid("ana@acme.example/phone"));
        let stanza = Stanza::new(StanzaKind::Message)
            .from(jid("bo@acme.example/desk"))
            .with_child(&antiphon_xmpp::Element::new(ns::CLIENT, "body").with_text("a < b"));
        let message = ArchivedMessage {
            id: ArchiveId::first_of(1_767_225_600_123),
            flags: Flags::default(),
            stanza: stanza.to_bytes().into(),
        };
        let sent = results(&owner, &to).archived(ns::MAM_2, &message);
        assert!(is_result(&sent));
        let result = sent.child(ns::MAM_2, "result").unwrap();
        assert_eq!(result.attr("queryid"), Some("q'1"));
        assert_eq!(result.attr("id"), Some(&*message.id.text(&owner, 7)));
        let forwarded = result.child(ns::FORWARD, "forwarded").unwrap();
        let delay = forwarded.child(ns::DELAY, "delay").unwrap();
        assert_eq!(delay.attr("stamp"), Some("2026-01-01T00:00:00.123Z"));
        let inner = forwarded.child(ns::CLIENT, "message").unwrap();
        assert_eq!(inner.child(ns::CLIENT, "body").unwrap().text(), "a < b");
    }

    fn entry(stanza: &Stanza) -> InboxEntry {
        InboxEntry {
            peer: jid("bo@acme.example"),
            last_id: ArchiveId::first_of(1_767_225_600_123),
            unread: 3,
            read_id: ArchiveId::default(),
            in_box: "a<b".into(),
            muted_until_ms: 1_000,
            stanza: stanza.to_bytes().into(),
        }
    }

    #[test]
    fn a_conversation_shows_its_last_message_and_where_that_is() {
        let (owner, to) = (jid("ana@acme.example"), jid("ana@acme.example/phone"));
        let empty = Stanza::new(StanzaKind::Message);
        let full = empty
            .clone()
            .with_child(&antiphon_xmpp::Element::new(ns::CLIENT, "body").with_text("x"));
        for stanza in [empty, full] {
            let sent = results(&owner, &to).conversation(&entry(&stanza), 2_000);
            assert!(is_result(&sent));
            let result = sent.child(ns_inbox::ESL, "result").unwrap();
            assert_eq!(result.attr("unread"), Some("3"));
            let text = |name: &str| result.child(ns_inbox::ESL, name).unwrap().text();
            assert_eq!(
                (text("read"), text("box"), text("archive"), text("mute")),
                ("false".into(), "a<b".into(), "false".into(), "0".into())
            );
            let forwarded = result.child(ns::FORWARD, "forwarded").unwrap();
            let message = forwarded.child(ns::CLIENT, "message").unwrap();
            let place = message.child(ns::SID, "stanza-id").unwrap();
            assert_eq!(place.attr("by"), Some("ana@acme.example"));
        }
    }

    #[test]
    fn an_entry_of_xep_0430_has_its_message_only_when_asked_for() {
        let (owner, to) = (jid("ana@acme.example"), jid("ana@acme.example/phone"));
        let entry = entry(&Stanza::new(StanzaKind::Message));
        for has_message in [false, true] {
            let sent = results(&owner, &to).entry(&entry, has_message);
            assert!(is_result(&sent));
            let found = sent.child(ns_inbox::XEP_0430, "entry").unwrap();
            assert_eq!(found.attr("jid"), Some("bo@acme.example"));
            assert_eq!(sent.has(ns::MAM_2, "result"), has_message);
        }
    }

    #[test]
    fn a_mute_that_lasts_says_until_when() {
        let (owner, to) = (jid("ana@acme.example"), jid("ana@acme.example/phone"));
        let entry = entry(&Stanza::new(StanzaKind::Message));
        let notice = results(&owner, &to).notice(&entry, 0);
        let x = notice.child(ns::INBOX_CONVERSATION, "x").unwrap();
        let mute = x.child(ns::INBOX_CONVERSATION, "mute").unwrap();
        assert_eq!(mute.text(), "1970-01-01T00:00:01.000Z");
    }
}
