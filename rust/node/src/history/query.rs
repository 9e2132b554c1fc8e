//! From the texts of a query to what the store is asked.

use crate::node::{Node, store_error};
use antiphon_routing::archive::{ArchiveFilter, ArchiveId};
use antiphon_routing::store::{PAGE_MAX, Store};
use antiphon_text::Query;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::{StanzaCondition, StanzaError};
use std::sync::Arc;

/// Which messages of an archive, as the wire says it (XEP-0313 #filter); all conditions hold.
#[derive(Debug, Clone, Default)]
pub struct ArchiveQuery {
    /// Bare: any of its resources.
    pub with: Option<Jid>,
    /// Not before, ms since 1970.
    pub start_ms: Option<u64>,
    /// Not after, ms since 1970.
    pub end_ms: Option<u64>,
    /// Only behind this message.
    pub after_id: Option<String>,
    /// Only in front of this one.
    pub before_id: Option<String>,
    /// Only these.
    pub ids: Option<Vec<String>>,
    /// Search text.
    pub text: Option<String>,
    /// Leave groupchat messages out.
    pub without_groupchat: bool,
}

/// Which part of what is found (XEP-0059).
#[derive(Debug, Clone, Default)]
pub struct PageQuery {
    /// Behind this message.
    pub after: Option<String>,
    /// In front of this one.
    pub before: Option<String>,
    /// The newest of what is left, not the oldest.
    pub is_from_end: bool,
    /// At most so many; 0: only checked and counted.
    pub max: usize,
}

/// A query that the store understands.
pub(super) struct Resolved {
    /// Without what the page says.
    pub all: ArchiveFilter,
    /// With it.
    pub page: ArchiveFilter,
    /// Ids that must be there, and are none of `all.ids`.
    named: Vec<ArchiveId>,
}

fn bad_request(text: impl Into<String>) -> StanzaError {
    StanzaError::new(StanzaCondition::BadRequest).with_text(text)
}

/// The stricter of two lower bounds.
fn above(one: Option<ArchiveId>, other: Option<ArchiveId>) -> Option<ArchiveId> {
    one.max(other)
}

/// The stricter of two upper bounds.
fn below(one: Option<ArchiveId>, other: Option<ArchiveId>) -> Option<ArchiveId> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Node {
    /// Reads an id of this archive.
    pub(super) fn archive_id(&self, text: &str, owner: &Jid) -> Result<ArchiveId, StanzaError> {
        let key = self.live.load().policy.archive_key;
        let id = ArchiveId::parse(text, owner, key);
        id.ok_or_else(|| StanzaCondition::ItemNotFound.into())
    }

    /// The last id that is too old to be shown.
    fn expired(&self) -> Option<ArchiveId> {
        let days = self.live.load().config.archive.retention_days;
        let age_ms = u64::from(days) * 24 * 60 * 60 * 1000;
        (days > 0).then(|| ArchiveId(ArchiveId::first_of(self.now().saturating_sub(age_ms)).0 - 1))
    }

    /// Reads the texts of a query; see [`Node::check_named`] for whether there is what it names.
    pub(super) fn resolve(
        &self,
        owner: &Jid,
        query: ArchiveQuery,
        page: &PageQuery,
    ) -> Result<Resolved, StanzaError> {
        if let Some(text) = &query.text {
            Query::parse(text).map_err(|error| bad_request(error.to_string()))?;
        }
        let mut named = Vec::new();
        let mut id = |text: &Option<String>| -> Result<Option<ArchiveId>, StanzaError> {
            let Some(text) = text else { return Ok(None) };
            let id = self.archive_id(text, owner)?;
            named.push(id);
            Ok(Some(id))
        };
        let (after_id, before_id) = (id(&query.after_id)?, id(&query.before_id)?);
        let (after, before) = (id(&page.after)?, id(&page.before)?);
        let ids = match query.ids {
            None => None,
            Some(texts) if texts.len() > PAGE_MAX => {
                return Err(bad_request("too many ids"));
            }
            Some(texts) => {
                let ids = texts.iter().map(|text| self.archive_id(text, owner));
                let mut ids = ids.collect::<Result<Vec<_>, _>>()?;
                ids.sort_unstable();
                ids.dedup();
                Some(ids)
            }
        };
        // Time bounds include their millisecond, bounds by id exclude the id.
        let start = query.start_ms.filter(|ms| *ms > 0);
        let start = start.map(|ms| ArchiveId(ArchiveId::first_of(ms).0.saturating_sub(1)));
        let end = query
            .end_ms
            .map(|ms| ArchiveId(ArchiveId::last_of(ms).0.saturating_add(1)));
        let all = ArchiveFilter {
            with: query.with,
            after: above(above(after_id, start), self.expired()),
            before: below(before_id, end),
            ids,
            text: query.text,
            without_groupchat: query.without_groupchat,
        };
        let page = ArchiveFilter {
            after: above(all.after, after),
            before: below(all.before, before),
            ..all.clone()
        };
        Ok(Resolved { all, page, named })
    }

    /// Whether every message is there that a query names (XEP-0313 #query-by-ids, #sect-paging).
    pub(super) async fn check_named(
        self: &Arc<Self>,
        owner: &Jid,
        query: &Resolved,
    ) -> Result<(), StanzaError> {
        let mut named = query.named.clone();
        named.extend(query.all.ids.iter().flatten());
        named.sort_unstable();
        named.dedup();
        if named.is_empty() {
            return Ok(());
        }
        if named.first().copied() <= self.expired() {
            return Err(StanzaCondition::ItemNotFound.into());
        }
        for chunk in named.chunks(PAGE_MAX) {
            let known = self.store.archive_known(owner, chunk.to_vec()).await;
            let known = known.map_err(|error| store_error(&error))?;
            if known.len() != chunk.len() {
                return Err(StanzaCondition::ItemNotFound.into());
            }
        }
        Ok(())
    }
}
