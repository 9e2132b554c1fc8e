//! The stored form of a message, made once for both its owners.
//!
//! It is the same in both archives: what is taken out of it are the addresses of sender and receiver
//! (`sqlite/content.rs`), whoever owns the archive.

use super::reader::packed;
use antiphon_routing::archive::{ArchiveRecord, Flags};
use parking_lot::Mutex;
use std::sync::Arc;

/// Messages that wait for their second owner at most.
const PLACES: usize = 256;

/// Longest of them, so that their memory stays below 2 MB.
const LONGEST: usize = 4 * 1024;

/// A message whose second owner may come.
#[derive(Debug)]
struct Waiting {
    uid: u64,
    /// Sender and receiver.
    sides: [Box<str>; 2],
    stanza: Arc<[u8]>,
    packed: Vec<u8>,
}

/// What was packed last.
#[derive(Debug)]
pub(super) struct Packs {
    places: Box<[Mutex<Option<Waiting>>]>,
}

impl Packs {
    pub(super) fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
        }
    }

    /// The stored form of a message in `owner`'s archive.
    pub(super) fn packed(&self, owner: &str, record: &ArchiveRecord) -> Vec<u8> {
        let (peer, stanza) = (record.peer.bare_str(), &record.stanza);
        if record.uid.0 == 0 || stanza.len() > LONGEST {
            return packed(stanza, owner, peer, record.flags);
        }
        let sides = if record.flags.has(Flags::OUT) {
            [owner, peer]
        } else {
            [peer, owner]
        };
        // A multiple of the golden ratio spreads ids that follow one another; the remainder fits.
        let spread = record.uid.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = &self.places[spread as usize % PLACES];
        let is_same = |waiting: &mut Waiting| {
            waiting.uid == record.uid.0
                && waiting.sides.iter().zip(sides).all(|(a, b)| **a == *b)
                && *waiting.stanza == **stanza
        };
        if let Some(waiting) = place.lock().take_if(is_same) {
            return waiting.packed;
        }
        let packed = packed(stanza, owner, peer, record.flags);
        *place.lock() = Some(Waiting {
            uid: record.uid.0,
            sides: sides.map(Into::into),
            stanza: Arc::clone(stanza),
            packed: packed.clone(),
        });
        packed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use antiphon_routing::archive::{ArchiveId, InboxEffect};
    use antiphon_xmpp::Jid;

    fn record(peer: &str, flags: Flags, stanza: &str) -> ArchiveRecord {
        ArchiveRecord {
            id: ArchiveId(7),
            uid: ArchiveId(7),
            peer: Jid::parse(peer).unwrap(),
            flags,
            mid: 0,
            dup: 0,
            stanza: stanza.as_bytes().into(),
            inbox: InboxEffect::None,
            offline_at_ms: None,
        }
    }

    #[test]
    fn both_owners_get_what_each_would_get_alone() {
        let text = "<message xmlns='jabber:client' from='a@x/1' to='b@x'><body>hi</body></message>";
        let packs = Packs::new();
        let sent = packs.packed("a@x", &record("b@x", Flags::OUT, text));
        let received = packs.packed("b@x", &record("a@x", Flags::COUNTS, text));
        assert_eq!(sent, packed(text.as_bytes(), "a@x", "b@x", Flags::OUT));
        assert_eq!(received, sent);
        assert!(packs.places.iter().all(|place| place.lock().is_none()));
    }

    #[test]
    fn another_text_under_one_uid_is_packed_by_itself() {
        let text = |body| format!("<message xmlns='jabber:client' from='a@x/1'>{body}</message>");
        let packs = Packs::new();
        packs.packed("a@x", &record("b@x", Flags::OUT, &text("one")));
        let other = packs.packed("b@x", &record("a@x", Flags::COUNTS, &text("two")));
        let alone = packed(text("two").as_bytes(), "b@x", "a@x", Flags::COUNTS);
        assert_eq!(other, alone);
        let third = packs.packed("c@x", &record("a@x", Flags::COUNTS, &text("two")));
        assert_eq!(
            third,
            packed(text("two").as_bytes(), "c@x", "a@x", Flags::COUNTS)
        );
    }
}
