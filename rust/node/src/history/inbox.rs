//! The inbox: lists of conversations, changes of one, and the notices of both.

use super::forward::Results;
use super::{stored, tree};
use crate::calls::Answered;
use crate::node::Node;
use crate::value::Value;
use antiphon_routing::SessionId;
use antiphon_routing::archive::{BOX_BIN, InboxChange, InboxEntry, InboxFilter, InboxSlice};
use antiphon_routing::store::{PAGE_MAX, Store, Write};
use antiphon_routing::user::{Call, CallAnswer};
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::{StanzaCondition, StanzaError};
use std::sync::Arc;

/// Which conversations, and which part of them, as the wire says it.
#[derive(Debug, Clone, Default)]
pub struct InboxQuery {
    /// Which.
    pub filter: InboxFilter,
    /// Oldest first.
    pub is_ascending: bool,
    /// Behind this position, in the order asked for.
    pub after: Option<String>,
    /// In front of this one.
    pub before: Option<String>,
    /// The end of what is left, not its beginning.
    pub is_from_end: bool,
    /// At most so many; 0: only the counts.
    pub max: usize,
}

/// How conversations are given to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxForm {
    /// Erlang Solutions' protocol.
    Esl,
    /// XEP-0430, without the last messages.
    Entries,
    /// XEP-0430, with them.
    Messages,
}

impl InboxForm {
    /// The form that Python calls so.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "esl" => Some(Self::Esl),
            "xep0430" => Some(Self::Entries),
            "xep0430-messages" => Some(Self::Messages),
            _ => None,
        }
    }
}

/// No conversation, but how many there are.
const COUNTS_ONLY: InboxSlice = InboxSlice {
    is_ascending: true,
    after: None,
    before: None,
    is_from_end: false,
    limit: 0,
};

/// Conversations whose last message is older do not stay in the bin, ms since 1970; 0: all stay.
fn bin_before(now_ms: u64, days: u32) -> u64 {
    if days == 0 {
        return 0;
    }
    now_ms.saturating_sub(u64::from(days) * 24 * 60 * 60 * 1000)
}

fn is_expired(entry: &InboxEntry, before_ms: u64) -> bool {
    *entry.in_box == *BOX_BIN && entry.last_id.ms() < before_ms
}

impl Node {
    fn check_inbox(&self, owner: &Jid) -> Result<(), StanzaError> {
        if self.live.load().switches(owner.domain()).is_inbox_on {
            return Ok(());
        }
        Err(StanzaCondition::ServiceUnavailable.into())
    }

    /// A part of an inbox, put on a session's queue entry by entry.
    pub(crate) async fn inbox_page(
        self: &Arc<Self>,
        owner: Jid,
        session: SessionId,
        query_id: Option<String>,
        query: InboxQuery,
        form: InboxForm,
    ) -> Answered {
        self.check_inbox(&owner)?;
        let session = self.asker(session)?;
        let position = |text: &Option<String>| {
            let id = text.as_ref().map(|text| self.archive_id(text, &owner));
            id.transpose()
        };
        let slice = InboxSlice {
            is_ascending: query.is_ascending,
            after: position(&query.after)?,
            before: position(&query.before)?,
            is_from_end: query.is_from_end,
            limit: query.max.min(PAGE_MAX),
        };
        let _turn = self.turn().await?;
        if matches!(query.filter.in_box.as_deref(), Some(BOX_BIN | "all")) {
            self.empty_old_bin(&owner).await?;
        }
        let page = stored(self.store.inbox_page(&owner, query.filter, slice).await)?;
        let results = Results {
            owner: &owner,
            to: &session.jid,
            query_id: query_id.as_deref(),
            key: self.live.load().policy.archive_key,
        };
        let now_ms = self.now();
        let given = page.entries.iter().map(|entry| match form {
            InboxForm::Esl => results.conversation(entry, now_ms),
            InboxForm::Entries => results.entry(entry, false),
            InboxForm::Messages => results.entry(entry, true),
        });
        self.give(&session, given).await?;
        self.metrics.inbox_reads.inc();
        let text = |entry: &InboxEntry| results.text(entry.last_id);
        Ok(Value::InboxPage {
            first: page.entries.first().map(text),
            last: page.entries.last().map(text),
            count: page.count,
            unread: page.unread,
            active: page.active,
            is_complete: page.is_complete,
        })
    }

    /// One conversation.
    pub(crate) async fn inbox_entry(self: &Arc<Self>, owner: Jid, peer: Jid) -> Answered {
        let found = self.entry_in_time(&owner, &peer.bare()).await?;
        Ok(found.map_or(Value::None, |entry| self.entry_value(&owner, entry)))
    }

    /// One conversation, unless it has been in the bin for too long.
    async fn entry_in_time(
        self: &Arc<Self>,
        owner: &Jid,
        peer: &Jid,
    ) -> Result<Option<InboxEntry>, StanzaError> {
        let found = stored(self.store.inbox_entry(owner, peer).await)?;
        let days = self.live.load().config.archive.bin_days;
        let before_ms = bin_before(self.now(), days);
        if !found.as_ref().is_some_and(|e| is_expired(e, before_ms)) {
            return Ok(found);
        }
        self.empty_old_bin(owner).await?;
        Ok(None)
    }

    /// Deletes what is too old for the bin. SQLite looks for it every hour; with every engine
    /// nobody is shown any of it.
    async fn empty_old_bin(self: &Arc<Self>, owner: &Jid) -> Result<(), StanzaError> {
        let days = self.live.load().config.archive.bin_days;
        let before_ms = bin_before(self.now(), days);
        if before_ms == 0 {
            return Ok(());
        }
        let filter = InboxFilter {
            in_box: Some(BOX_BIN.to_owned()),
            end_ms: Some(before_ms - 1),
            ..InboxFilter::default()
        };
        let old = stored(self.store.inbox_page(owner, filter, COUNTS_ONLY).await)?;
        if old.count == 0 {
            return Ok(());
        }
        let owner = owner.clone();
        self.commit(Write::InboxEmptyBin { owner, before_ms }).await
    }

    fn entry_value(&self, owner: &Jid, entry: InboxEntry) -> Value {
        let key = self.live.load().policy.archive_key;
        Value::InboxEntry {
            last_id: entry.last_id.text(owner, key),
            at_ms: entry.last_id.ms(),
            unread: entry.unread,
            in_box: entry.in_box.into(),
            muted_until_ms: entry.muted_until_ms,
            message: tree(&entry.stanza),
            peer: entry.peer,
        }
    }

    /// Changes a conversation in the owner's order; his sessions are told.
    pub(crate) async fn inbox_set(
        self: &Arc<Self>,
        owner: Jid,
        peer: Jid,
        change: InboxChange,
    ) -> Answered {
        self.check_inbox(&owner)?;
        let peer = peer.bare();
        if self.entry_in_time(&owner, &peer).await?.is_none() {
            return Err(StanzaCondition::ItemNotFound.into());
        }
        let call = Call::InboxSet {
            peer: peer.clone(),
            change,
        };
        self.entity(owner.clone(), call).await?;
        // A read sees what was queued before it, committed.
        let entry = stored(self.store.inbox_entry(&owner, &peer).await)?;
        let entry = entry.ok_or(StanzaCondition::ItemNotFound)?;
        self.tell_of_conversation(&owner, &entry).await?;
        Ok(self.entry_value(&owner, entry))
    }

    /// Deletes what is in the bin; how many conversations.
    pub(crate) async fn inbox_empty_bin(self: &Arc<Self>, owner: Jid) -> Answered {
        self.check_inbox(&owner)?;
        let filter = InboxFilter {
            in_box: Some(BOX_BIN.to_owned()),
            ..InboxFilter::default()
        };
        let count = stored(self.store.inbox_page(&owner, filter, COUNTS_ONLY).await)?.count;
        let write = Write::InboxEmptyBin {
            owner,
            before_ms: u64::MAX,
        };
        self.commit(write).await?;
        Ok(Value::Int(u64::from(count)))
    }

    /// The notice to every session of the owner (inbox.md §4): neither archived nor copied nor
    /// stored, so it goes to their queues directly.
    async fn tell_of_conversation(
        self: &Arc<Self>,
        owner: &Jid,
        entry: &InboxEntry,
    ) -> Result<(), StanzaError> {
        let answer = self.entity(owner.clone(), Call::Sessions).await?;
        let CallAnswer::Sessions(sessions) = answer else {
            return Ok(());
        };
        let key = self.live.load().policy.archive_key;
        let now_ms = self.now();
        for found in sessions {
            let Some(session) = self.session(found.session) else {
                continue;
            };
            let results = Results {
                owner,
                to: &session.jid,
                query_id: None,
                key,
            };
            // A session that is over needs no notice.
            let _ = session.deliver(results.notice(entry, now_ms), None, now_ms);
        }
        Ok(())
    }

    /// A message has brought a conversation back into the inbox.
    pub(crate) fn inbox_moved(self: &Arc<Self>, owner: Jid, peer: Jid) {
        let node = Arc::clone(self);
        let reading = self.store.inbox_entry(&owner, &peer);
        self.runtime.spawn(async move {
            match reading.await {
                Ok(Some(entry)) => {
                    // An entity that too many wait for: clients see it when they look.
                    let _ = node.tell_of_conversation(&owner, &entry).await;
                }
                Ok(None) => {}
                Err(error) => node.log_store_error("conversation not read", &error),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antiphon_routing::archive::{ArchiveId, BOX_INBOX};

    #[test]
    fn only_what_is_old_and_in_the_bin_has_expired() {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let entry = |in_box: &str, at_ms| InboxEntry {
            peer: Jid::parse("a@b.example").unwrap_or_else(|_| unreachable!()),
            last_id: ArchiveId::first_of(at_ms),
            unread: 0,
            read_id: ArchiveId::default(),
            in_box: in_box.into(),
            muted_until_ms: 0,
            stanza: Box::default(),
        };
        let before_ms = bin_before(100 * DAY_MS, 30);
        assert_eq!(before_ms, 70 * DAY_MS);
        assert!(is_expired(&entry(BOX_BIN, before_ms - 1), before_ms));
        assert!(!is_expired(&entry(BOX_BIN, before_ms), before_ms));
        assert!(!is_expired(&entry(BOX_INBOX, 1), before_ms));
        assert!(!is_expired(&entry(BOX_BIN, 1), bin_before(100 * DAY_MS, 0)));
    }
}
