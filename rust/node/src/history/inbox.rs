//! The inbox: lists of conversations, changes of one, and the notices of both.

use super::forward::Results;
use super::{stored, tree};
use crate::calls::Answered;
use crate::node::Node;
use crate::value::Value;
use antiphon_routing::SessionId;
use antiphon_routing::archive::{InboxChange, InboxEntry, InboxFilter, InboxSlice};
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
        let found = stored(self.store.inbox_entry(&owner, &peer.bare()).await)?;
        Ok(found.map_or(Value::None, |entry| self.entry_value(&owner, entry)))
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
        if stored(self.store.inbox_entry(&owner, &peer).await)?.is_none() {
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
            in_box: Some(antiphon_routing::archive::BOX_BIN.to_owned()),
            ..InboxFilter::default()
        };
        let slice = InboxSlice {
            is_ascending: true,
            after: None,
            before: None,
            is_from_end: false,
            limit: 0,
        };
        let count = stored(self.store.inbox_page(&owner, filter, slice).await)?.count;
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
            let Some(session) = self.sessions.get(found.session) else {
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
