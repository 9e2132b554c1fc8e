//! Corrections (XEP-0308) and retractions (XEP-0424): what they change of messages that are there.
//!
//! Every correction names the message that was corrected first, so those that came before the
//! newest one are out of date as well, and a retraction takes all of them along.

use super::apply::{Change, Failure};
use super::archive::{PLACE, Place, mid_column};
use super::content::Sides;
use crate::stanza::{corrected, tombstone};
use antiphon_routing::archive::{Edit, Flags, Reference, id_hash};
use antiphon_xmpp::Jid;
use rusqlite::OptionalExtension;

/// What stands for a retracted message of which nothing could be read.
const EMPTY: &[u8] = b"<message xmlns='jabber:client'/>";

/// Messages behind one that are looked through for its corrections, the newest first.
const LOOKED_AT: i64 = 100;

/// One side of one conversation.
struct Talk<'a> {
    owner: i64,
    jid: &'a Jid,
    conversation: i64,
    peer: &'a str,
    is_out: bool,
}

impl<'a> Talk<'a> {
    fn sides(&self) -> Sides<'a> {
        Sides::new(self.jid.bare_str(), self.peer, self.is_out)
    }
}

impl Change<'_> {
    /// See [`antiphon_routing::store::Write::ArchiveEdit`].
    pub(super) fn archive_edit(
        &mut self,
        jid: &Jid,
        (peer, is_out): (&Jid, bool),
        target: Reference,
        edit: &Edit,
    ) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        let peer = peer.bare_str();
        let Some(conversation) = self.find_conversation(owner, peer)? else {
            return Ok(());
        };
        let Some(id) = self.referred(owner, conversation, target, Some(is_out))? else {
            return Ok(());
        };
        let place = self
            .statement(&format!(
                "SELECT {PLACE} FROM archive AS a WHERE a.owner = ?1 AND a.id = ?2"
            ))?
            .query_row((owner, id), Place::read)
            .optional()?;
        let Some(place) = place else {
            return Ok(());
        };
        let talk = Talk {
            owner,
            jid,
            conversation,
            peer,
            is_out,
        };
        match edit {
            Edit::Supersede => {
                let corrections = self.corrections(&talk, id)?;
                self.supersede(&talk, place)?;
                for earlier in corrections.iter().skip(1) {
                    self.supersede(&talk, *earlier)?;
                }
                match corrections.first() {
                    Some(newest) => self.preview(&talk, id, newest.id),
                    None => Ok(()),
                }
            }
            Edit::Retract { at_ms, id: by } => {
                if place.flags.has(Flags::SUPERSEDED) {
                    for correction in self.corrections(&talk, id)? {
                        self.retract(&talk, correction, *at_ms, by.as_deref())?;
                    }
                }
                self.retract(&talk, place, *at_ms, by.as_deref())
            }
        }
    }

    /// It is in the archive as before, and no search finds it.
    fn supersede(&mut self, talk: &Talk<'_>, mut place: Place) -> Result<(), Failure> {
        if place.flags.has(Flags::SUPERSEDED) || place.flags.has(Flags::RETRACTED) {
            return Ok(());
        }
        self.unindex(talk.owner, &place, talk.peer)?;
        place.flags = place.flags.and(Flags::SUPERSEDED);
        self.put_place(talk, &place)
    }

    /// A tombstone stands in its place.
    fn retract(
        &mut self,
        talk: &Talk<'_>,
        mut place: Place,
        at_ms: u64,
        by: Option<&str>,
    ) -> Result<(), Failure> {
        if place.flags.has(Flags::RETRACTED) {
            return Ok(());
        }
        let old = self.stanza(place.key(), talk.sides())?;
        let new = tombstone(&old, at_ms, by);
        let key = -self.next_id()?;
        self.release(talk.owner, &place, talk.peer)?;
        self.put_content(key, new.as_deref().unwrap_or(EMPTY), talk.sides())?;
        place.content = Some(key);
        // There is nothing left to search.
        place.flags = Flags(place.flags.and(Flags::RETRACTED).0 & !Flags::SEARCHABLE.0);
        self.put_place(talk, &place)
    }

    fn put_place(&self, talk: &Talk<'_>, place: &Place) -> Result<(), Failure> {
        self.run(
            "UPDATE archive SET flags = ?3, content = ?4 WHERE owner = ?1 AND id = ?2",
            (talk.owner, place.id, place.flags.0, place.content),
        )?;
        self.run(
            "UPDATE thread SET flags = ?3 WHERE conversation = ?1 AND id = ?2",
            (talk.conversation, place.id, place.flags.0),
        )
    }

    /// The corrections of a message that are not retracted, the newest first. They come behind it,
    /// from the same side, and are no further messages to read.
    fn corrections(&self, talk: &Talk<'_>, id: i64) -> Result<Vec<Place>, Failure> {
        let mid: Option<i64> = self
            .statement("SELECT mid FROM thread WHERE conversation = ?1 AND id = ?2")?
            .query_row((talk.conversation, id), |row| row.get(0))
            .optional()?
            .flatten();
        let places: Vec<Place> = self
            .statement(&format!(
                "SELECT {PLACE} FROM thread AS t
                 CROSS JOIN archive AS a ON a.owner = ?1 AND a.id = t.id
                 WHERE t.conversation = ?2 AND t.id > ?3 AND t.flags & 1 = ?4
                 AND t.flags & ?5 = 0 ORDER BY t.id DESC LIMIT ?6"
            ))?
            .query_map(
                (
                    talk.owner,
                    talk.conversation,
                    id,
                    i64::from(talk.is_out),
                    Flags::COUNTS.and(Flags::RETRACTED).0,
                    LOOKED_AT,
                ),
                Place::read,
            )?
            .collect::<rusqlite::Result<_>>()?;
        let mut found = Vec::new();
        for place in places {
            let stanza = self.stanza(place.key(), talk.sides())?;
            let named = corrected(&stanza).and_then(|named| mid_column(id_hash(&named)));
            if named.is_some() && named == mid {
                found.push(place);
            }
        }
        Ok(found)
    }

    /// The inbox shows a conversation's last message as it reads now; nothing more is unread.
    fn preview(&self, talk: &Talk<'_>, id: i64, correction: i64) -> Result<(), Failure> {
        self.run(
            "UPDATE conversation SET last_id = ?3, stanza = NULL
             WHERE id = ?1 AND last_id >= ?2 AND last_id < ?3 AND (last_id = ?2 OR NOT EXISTS
                 (SELECT 1 FROM thread WHERE conversation = ?1 AND id > ?2 AND flags & ?4 <> 0))",
            (talk.conversation, id, correction, Flags::COUNTS.0),
        )
    }
}
