//! Archives (XEP-0313) and inboxes, as Python asks for them: it reads the request and writes the
//! answer, while what is found goes from the store to the session's queue here.

mod forward;
mod inbox;
mod key;
mod query;

pub use inbox::{InboxForm, InboxQuery};
pub use query::{ArchiveQuery, PageQuery};

pub(crate) use forward::is_result;
pub(crate) use key::archive_key;

use crate::calls::Answered;
use crate::node::{Busy, Node, store_error};
use crate::value::{Row, Value};
use antiphon_net::session::Session;
use antiphon_routing::SessionId;
use antiphon_routing::archive::{
    ArchiveFilter, ArchiveId, ArchivePage, ArchivePrefs, ArchivedMessage, Flags,
};
use antiphon_routing::store::{PAGE_MAX, Store, StoreError, Write};
use antiphon_routing::user::{Call, CallAnswer};
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use antiphon_xmpp::{Element, Jid};
use forward::{Results, is_old_dialect, mam_namespace};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Answers that are read or delivered at once; the others wait for one to end.
const AT_ONCE: usize = 64;
/// How long an answer may wait for its turn and for its client, s; a little less than Python waits.
const PATIENCE_S: u64 = 25;
/// Bytes of messages in one answer; a page that would be longer ends earlier.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Messages that are counted exactly, at most.
const COUNT_MAX: u64 = 10_000;

/// Bounds the memory of answers under way.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// How a page is given to a session.
#[derive(Debug, Clone)]
pub struct PageForm {
    /// Dialect.
    pub ns: String,
    /// `queryid`.
    pub query_id: Option<String>,
    /// Newest first (XEP-0313 #flipped).
    pub is_flipped: bool,
    /// Whether the answer says how many there are in all.
    pub wants_count: bool,
}

/// An answer of the store, or the error for whoever asked.
fn stored<T>(result: Result<T, StoreError>) -> Result<T, StanzaError> {
    result.map_err(|error| store_error(&error))
}

/// Cuts a page where its messages are too many bytes, at the far end.
fn cut(page: &mut ArchivePage, is_from_end: bool) {
    let mut left = PAGE_BYTES;
    let mut fits = |message: &ArchivedMessage| {
        let fits = left > 0;
        left = left.saturating_sub(message.stanza.len());
        fits
    };
    let messages = &mut page.messages;
    // At least one, or there would be no end.
    if is_from_end {
        let count = messages.iter().rev().take_while(|m| fits(m)).count();
        let gone = messages.len() - count.max(1).min(messages.len());
        messages.drain(..gone);
        page.is_complete &= gone == 0;
    } else {
        let count = messages.iter().take_while(|m| fits(m)).count();
        page.is_complete &= count >= messages.len();
        messages.truncate(count.max(1));
    }
}

impl Node {
    async fn turn(&self) -> Result<SemaphorePermit<'_>, StanzaError> {
        let turn = timeout(Duration::from_secs(PATIENCE_S), self.turns.0.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| Busy.into())
    }

    fn asker(&self, session: SessionId) -> Result<Arc<Session>, StanzaError> {
        let session = self.session(session);
        session.ok_or_else(|| StanzaCondition::ItemNotFound.into())
    }

    /// Whether there is an archive to ask.
    pub(crate) fn check_archive(&self, owner: &Jid) -> Result<(), StanzaError> {
        if self.live.load().switches(owner.domain()).is_archive_on {
            return Ok(());
        }
        Err(StanzaCondition::ServiceUnavailable.into())
    }

    /// Puts stanzas on a session's queue as it has room.
    async fn give(
        self: &Arc<Self>,
        session: &Arc<Session>,
        stanzas: impl Iterator<Item = Stanza>,
    ) -> Result<(), StanzaError> {
        let gone = || StanzaError::from(StanzaCondition::RecipientUnavailable);
        let (mut count, mut bytes) = (0, 0);
        for stanza in stanzas {
            if count == 0 || bytes == 0 {
                let room = timeout(Duration::from_secs(PATIENCE_S), self.room(session.id)).await;
                let room = room.map_err(|_| StanzaError::from(Busy))?;
                (count, bytes) = room.ok_or_else(gone)?;
            }
            count -= 1;
            bytes = bytes.saturating_sub(stanza.size());
            self.metrics.delivered(stanza.kind);
            let taken = session.deliver(stanza, None, self.now());
            taken.map_err(|_| gone())?;
        }
        Ok(())
    }

    async fn read_page(
        self: &Arc<Self>,
        owner: &Jid,
        filter: ArchiveFilter,
        page: &PageQuery,
    ) -> Result<ArchivePage, StanzaError> {
        let limit = page.max.min(PAGE_MAX);
        let is_from_end = page.is_from_end;
        if limit == 0 {
            return Ok(ArchivePage::default());
        }
        let reading = self.store.archive_page(owner, filter, is_from_end, limit);
        let mut found = stored(reading.await)?;
        cut(&mut found, is_from_end);
        Ok(found)
    }

    /// A page, put on a session's queue message by message.
    pub(crate) async fn archive_page(
        self: &Arc<Self>,
        owner: Jid,
        session: SessionId,
        query: ArchiveQuery,
        page: PageQuery,
        form: PageForm,
    ) -> Answered {
        self.check_archive(&owner)?;
        let ns = mam_namespace(&form.ns).ok_or(StanzaCondition::FeatureNotImplemented)?;
        let session = self.asker(session)?;
        // Only what shows all that came between two ends says what has been read.
        let shows_all = query.with.is_none() && query.text.is_none() && query.ids.is_none();
        let query = self.resolve(&owner, query, &page)?;
        let _turn = self.turn().await?;
        self.check_named(&owner, &query).await?;
        let mut found = self.read_page(&owner, query.page, &page).await?;
        let count = if form.wants_count {
            stored(self.store.archive_count(&owner, query.all, COUNT_MAX).await)?
        } else {
            None
        };
        let ends = found.messages.first().zip(found.messages.last());
        let ends = ends.map(|(first, last)| (first.id, last.id));
        if form.is_flipped {
            found.messages.reverse();
        }
        let results = Results {
            owner: &owner,
            to: &session.jid,
            query_id: form.query_id.as_deref(),
            key: self.live.load().policy.archive_key,
        };
        let given = found.messages.iter().map(|m| results.archived(ns, m));
        self.give(&session, given).await?;
        self.metrics.archive_pages.inc();
        if let Some((from, upto)) = ends.filter(|_| shows_all && owner == session.jid.bare()) {
            let read = Call::ArchiveRead { from, upto };
            self.entity(owner.clone(), read).await?;
        }
        if is_old_dialect(ns) && owner == session.jid.bare() {
            let old = Call::ArchiveOldDialect;
            self.entity(owner.clone(), old).await?;
        }
        Ok(Value::ArchivePage {
            first: ends.map(|(first, _)| results.text(first)),
            last: ends.map(|(_, last)| results.text(last)),
            count,
            is_complete: found.is_complete,
            is_stable: !found.is_unstable,
        })
    }

    /// A page, as values: for the adapter to XEP-0136 and for administrators.
    pub(crate) async fn archive_rows(
        self: &Arc<Self>,
        owner: Jid,
        query: ArchiveQuery,
        page: PageQuery,
    ) -> Answered {
        let query = self.resolve(&owner, query, &page)?;
        let _turn = self.turn().await?;
        self.check_named(&owner, &query).await?;
        let found = self.read_page(&owner, query.page, &page).await?;
        let key = self.live.load().policy.archive_key;
        let row = |message: &ArchivedMessage| -> Option<Row> {
            Some(Row {
                id: message.id.text(&owner, key),
                at_ms: message.id.ms(),
                is_out: message.flags.has(Flags::OUT),
                stanza: Stanza::from_bytes(&message.stanza).ok()?,
            })
        };
        Ok(Value::Rows {
            rows: found.messages.iter().filter_map(row).collect(),
            is_complete: found.is_complete,
        })
    }

    /// How many messages a query finds; none where counting would be reading.
    pub(crate) async fn archive_count(
        self: &Arc<Self>,
        owner: Jid,
        query: ArchiveQuery,
        most: u64,
    ) -> Answered {
        let query = self.resolve(&owner, query, &PageQuery::default())?;
        self.check_named(&owner, &query).await?;
        let count = stored(self.store.archive_count(&owner, query.all, most).await)?;
        Ok(count.map_or(Value::None, Value::Int))
    }

    /// The first and the last message that the owner can see.
    pub(crate) async fn archive_ends(self: &Arc<Self>, owner: Jid) -> Answered {
        let Some(ends) = stored(self.store.archive_ends(&owner).await)? else {
            return Ok(Value::None);
        };
        let seen = self.resolve(&owner, ArchiveQuery::default(), &PageQuery::default())?;
        let mut first = ends.first;
        if seen.all.after.is_some_and(|expired| ends.last <= expired) {
            return Ok(Value::None);
        }
        if seen.all.after.is_some_and(|expired| first <= expired) {
            let page = stored(self.store.archive_page(&owner, seen.all, false, 1).await)?;
            first = page.messages.first().map_or(ends.last, |m| m.id);
        }
        let key = self.live.load().policy.archive_key;
        let end = |id: ArchiveId| (id.text(&owner, key), id.ms());
        Ok(Value::Ends(end(first), end(ends.last)))
    }

    /// Conversations by day (XEP-0136).
    pub(crate) async fn archive_collections(
        self: &Arc<Self>,
        owner: Jid,
        query: ArchiveQuery,
        max: usize,
    ) -> Answered {
        let query = self.resolve(&owner, query, &PageQuery::default())?;
        self.check_named(&owner, &query).await?;
        let _turn = self.turn().await?;
        let limit = max.clamp(1, PAGE_MAX);
        let reading = self.store.archive_collections(&owner, query.all, limit);
        let key = self.live.load().policy.archive_key;
        let found = stored(reading.await)?.into_iter().map(|c| {
            let id = c.first.text(&owner, key);
            (c.peer, id, c.first.ms())
        });
        Ok(Value::Collections(found.collect()))
    }

    /// Deletes messages, of one conversation or of all, older than a time or all.
    pub(crate) async fn archive_purge(
        self: &Arc<Self>,
        owner: Jid,
        peer: Option<Jid>,
        before_ms: Option<u64>,
    ) -> Answered {
        let before = before_ms.map_or(ArchiveId::MAX, ArchiveId::first_of);
        let write = Write::ArchivePurge {
            owner,
            peer: peer.map(|jid| jid.bare()),
            before,
        };
        self.commit(write).await.map(|()| Value::None)
    }

    /// Reads or sets the preferences (XEP-0441).
    pub(crate) async fn archive_prefs(
        self: &Arc<Self>,
        owner: Jid,
        set: Option<ArchivePrefs>,
    ) -> Answered {
        let call = match set {
            None => Call::ArchivePrefs,
            Some(prefs) => Call::ArchivePrefsSet { prefs },
        };
        match self.entity(owner, call).await? {
            CallAnswer::ArchivePrefs(prefs) => Ok(Value::Prefs(prefs)),
            _ => Err(StanzaCondition::InternalServerError.into()),
        }
    }
}

/// A stored stanza as a tree; one that cannot be read is empty.
fn tree(stanza: &[u8]) -> Option<Element> {
    Stanza::from_bytes(stanza).ok().map(|s| s.element())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(sizes: &[usize]) -> ArchivePage {
        let message = |(at, size): (usize, &usize)| ArchivedMessage {
            id: ArchiveId(at as u64 + 1),
            flags: Flags::default(),
            stanza: vec![b'x'; *size].into(),
        };
        ArchivePage {
            messages: sizes.iter().enumerate().map(message).collect(),
            is_complete: true,
            is_unstable: false,
        }
    }

    fn ids(page: &ArchivePage) -> Vec<u64> {
        page.messages.iter().map(|m| m.id.0).collect()
    }

    #[test]
    fn a_page_of_too_many_bytes_ends_at_its_far_end() {
        let half = PAGE_BYTES / 2;
        for (is_from_end, left) in [(false, vec![1, 2]), (true, vec![2, 3])] {
            let mut cut_page = page(&[half, half, half]);
            cut(&mut cut_page, is_from_end);
            assert_eq!(ids(&cut_page), left);
            assert!(!cut_page.is_complete);
        }
    }

    #[test]
    fn a_page_has_one_message_however_large_and_may_be_empty() {
        for is_from_end in [false, true] {
            let mut large = page(&[2 * PAGE_BYTES]);
            cut(&mut large, is_from_end);
            assert_eq!(ids(&large), [1]);
            assert!(large.is_complete);
            let mut empty = page(&[]);
            cut(&mut empty, is_from_end);
            assert!(empty.messages.is_empty() && empty.is_complete);
        }
    }
}
