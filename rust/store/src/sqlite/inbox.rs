//! Writes of inboxes as statements.

use super::apply::{Change, Failure};
use super::to_sql;
use antiphon_routing::archive::{ArchiveId, BOX_INBOX, Flags, InboxChange, InboxEffect, Reference};
use antiphon_xmpp::Jid;
use rusqlite::OptionalExtension;

impl Change<'_> {
    /// What an archived message does to its conversation.
    pub(super) fn inbox_message(
        &mut self,
        conversation: i64,
        id: i64,
        effect: InboxEffect,
    ) -> Result<(), Failure> {
        let sql = match effect {
            InboxEffect::None => return Ok(()),
            InboxEffect::Sent => {
                "UPDATE conversation SET last_id = ?2, unread = 0, read_id = ?2, stanza = NULL,
                 box = NULLIF(box, 'archive') WHERE id = ?1"
            }
            InboxEffect::Received => {
                "UPDATE conversation SET last_id = ?2, unread = unread + 1, stanza = NULL,
                 box = NULLIF(box, 'archive') WHERE id = ?1"
            }
        };
        self.run(sql, (conversation, id))
    }

    /// See [`antiphon_routing::store::Write::InboxRead`].
    pub(super) fn inbox_read(
        &mut self,
        jid: &Jid,
        peer: &Jid,
        upto: Reference,
    ) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        let Some(conversation) = self.find_conversation(owner, peer.bare_str())? else {
            return Ok(());
        };
        let Some(upto) = self.referred(owner, conversation, upto, None)? else {
            return Ok(());
        };
        // The rest is counted only if the mark moves: nobody counts twice by asking twice.
        let state: Option<(i64, i64)> = self
            .statement(
                "SELECT read_id, unread FROM conversation WHERE id = ?1 AND last_id IS NOT NULL",
            )?
            .query_row([conversation], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match state {
            Some((read_id, unread)) if upto > read_id || (upto == read_id && unread > 0) => {}
            _ => return Ok(()),
        }
        let counted = i64::from(Flags::COUNTS.0);
        self.run(
            "UPDATE conversation SET read_id = ?2, unread =
                 (SELECT COUNT(*) FROM thread WHERE conversation = ?1 AND id > ?2
                  AND flags & 1 = 0 AND flags & ?3 <> 0)
             WHERE id = ?1",
            (conversation, upto, counted),
        )
    }

    /// See [`antiphon_routing::store::Write::InboxSet`].
    pub(super) fn inbox_set(
        &mut self,
        jid: &Jid,
        peer: &Jid,
        change: &InboxChange,
    ) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        let Some(conversation) = self.find_conversation(owner, peer.bare_str())? else {
            return Ok(());
        };
        if let Some(name) = &change.in_box {
            let column = (**name != *BOX_INBOX).then_some(&**name);
            self.run(
                "UPDATE conversation SET box = ?2 WHERE id = ?1 AND last_id IS NOT NULL",
                (conversation, column),
            )?;
        }
        if let Some(until) = change.muted_until_ms {
            self.run(
                "UPDATE conversation SET muted_until_ms = ?2
                 WHERE id = ?1 AND last_id IS NOT NULL",
                (conversation, to_sql(until)),
            )?;
        }
        match change.is_read {
            Some(true) => self.run(
                "UPDATE conversation SET unread = 0, read_id = last_id
                 WHERE id = ?1 AND last_id IS NOT NULL",
                [conversation],
            ),
            Some(false) => self.run(
                "UPDATE conversation SET unread = MAX(unread, 1)
                 WHERE id = ?1 AND last_id IS NOT NULL",
                [conversation],
            ),
            None => Ok(()),
        }
    }

    /// See [`antiphon_routing::store::Write::InboxEmptyBin`].
    pub(super) fn inbox_empty_bin(&mut self, jid: &Jid, before_ms: u64) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        self.empty_bin(owner, before_ms)
    }

    /// Deletes the conversations in the bin whose last message is older.
    pub(super) fn empty_bin(&mut self, owner: i64, before_ms: u64) -> Result<(), Failure> {
        // What was unread in it stays uncounted if the conversation begins again.
        let emptied = self
            .statement(
                "UPDATE conversation SET last_id = NULL, unread = 0,
                 read_id = MAX(read_id, last_id), box = NULL, muted_until_ms = 0, stanza = NULL
                 WHERE owner = ?1 AND box = 'bin' AND last_id < ?2",
            )?
            .execute((owner, to_sql(ArchiveId::first_of(before_ms).0)))?;
        if emptied == 0 {
            return Ok(());
        }
        self.drop_empty_conversations(owner)
    }

    /// Conversations that have neither messages nor an entry any more.
    pub(super) fn drop_empty_conversations(&mut self, owner: i64) -> Result<(), Failure> {
        let dropped = self
            .statement(
                "DELETE FROM conversation WHERE owner = ?1 AND last_id IS NULL
                 AND NOT EXISTS (SELECT 1 FROM thread WHERE conversation = conversation.id)",
            )?
            .execute([owner])?;
        if dropped > 0 {
            self.state.archive.forget_conversations(owner);
        }
        Ok(())
    }
}
