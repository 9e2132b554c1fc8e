//! One write as rows of the owner's partition.

use super::error::Failure;
use super::owners::Known;
use super::query;
use super::servers::{Row, Servers};
use super::{kind_number, to_cql};
use antiphon_routing::store::{
    MAP_KEY_BYTES, MAP_KEYS_PER_ACCOUNT, MAP_KEYS_PER_DOMAIN, MAP_VALUE_BYTES, MapKind, Request,
    RosterItem, StoreError, Subscription, Write,
};
use antiphon_xmpp::Jid;
use std::hash::{DefaultHasher, Hash, Hasher};
use tokio::time::Instant;

/// Rows of an entity, by the kind of what they hold (0001_accounts.cql).
pub(super) mod kind {
    /// The account itself; never written by a plan.
    pub const ACCOUNT: i8 = 0;
    /// Roster version and last activity.
    pub const STATE: i8 = 1;
    /// A roster item.
    pub const ROSTER: i8 = 2;
    /// A subscription request.
    pub const REQUEST: i8 = 3;
    /// A blocked address.
    pub const BLOCKED: i8 = 4;
}

/// What a plan needs.
pub(super) struct Planner<'a> {
    pub(super) servers: &'a Servers,
    pub(super) deadline: Instant,
}

/// A write that changes rows of its owner's partition; changes of accounts are not.
pub(super) fn is_plain(write: &Write) -> bool {
    !matches!(
        write,
        Write::AccountCreate { .. }
            | Write::AccountUpdate { .. }
            | Write::AccountPut { .. }
            | Write::AccountDelete { .. }
    )
}

impl<'a> Planner<'a> {
    /// The rows that a write changes, each with its own timestamp: within one batch, the order of
    /// the statements means nothing.
    ///
    /// # Errors
    /// What the write is refused with; or the servers are away.
    pub(super) async fn rows(
        &self,
        known: &mut Known,
        write: &'a Write,
    ) -> Result<Vec<Row<'a>>, StoreError> {
        let owner = write.owner().bare_str();
        Ok(match write {
            Write::RosterPut { version, item, .. } => {
                vec![
                    self.roster_put(owner, item),
                    self.roster_version(owner, *version),
                ]
            }
            Write::RosterRemove { version, jid, .. } => vec![
                self.delete(owner, kind::ROSTER, jid),
                self.roster_version(owner, *version),
            ],
            Write::RequestPut { request, .. } => vec![self.request_put(owner, request)],
            Write::RequestDelete { from, .. } => vec![self.delete(owner, kind::REQUEST, from)],
            Write::OfflineAppend { at_ms, stanza, .. } => {
                vec![self.offline_append(owner, *at_ms, stanza)]
            }
            Write::OfflineDelete { ids, .. } => self.offline_delete(owner, ids).await?,
            Write::BlockAdd { jids, .. } => jids.iter().map(|jid| self.block(owner, jid)).collect(),
            Write::BlockRemove { jids, .. } if jids.is_empty() => {
                let values = (self.now(), owner, kind::BLOCKED);
                vec![Row::new(
                    &self.servers.statements.items_delete,
                    values,
                    owner.len(),
                )]
            }
            Write::BlockRemove { jids, .. } => jids
                .iter()
                .map(|jid| self.delete(owner, kind::BLOCKED, jid))
                .collect(),
            Write::LastSeen { at_ms, status, .. } => {
                let values = (self.now(), to_cql(*at_ms), status.as_str(), owner);
                let bytes = owner.len() + status.len();
                vec![Row::new(&self.servers.statements.state_seen, values, bytes)]
            }
            Write::MapPut {
                owner: jid,
                kind,
                key,
                value,
            } => self.map_put(known, jid, (*kind, key), value).await?,
            _ => return Err(StoreError::Full("the engine keeps nothing of this kind")),
        })
    }

    fn now(&self) -> i64 {
        self.servers.clock.next()
    }

    fn roster_put(&self, owner: &'a str, item: &'a RosterItem) -> Row<'a> {
        let groups: Vec<&str> = item.groups.iter().map(|group| &**group).collect();
        let bytes = owner.len()
            + item.jid.as_str().len()
            + item.name.len()
            + groups.iter().map(|group| group.len() + 4).sum::<usize>();
        let state = state_bits(item.subscription);
        let values = (
            owner,
            item.jid.as_str(),
            &*item.name,
            groups,
            state,
            self.now(),
        );
        Row::new(&self.servers.statements.roster_put, values, bytes)
    }

    fn roster_version(&self, owner: &'a str, version: u64) -> Row<'a> {
        let values = (self.now(), to_cql(version), owner);
        Row::new(&self.servers.statements.state_version, values, owner.len())
    }

    fn request_put(&self, owner: &'a str, request: &'a Request) -> Row<'a> {
        let values = (owner, request.from.as_str(), &*request.stanza, self.now());
        let bytes = owner.len() + request.from.as_str().len() + request.stanza.len();
        Row::new(&self.servers.statements.request_put, values, bytes)
    }

    fn block(&self, owner: &'a str, jid: &'a Jid) -> Row<'a> {
        let values = (owner, jid.as_str(), self.now());
        let bytes = owner.len() + jid.as_str().len();
        Row::new(&self.servers.statements.block_put, values, bytes)
    }

    fn delete(&self, owner: &'a str, kind: i8, jid: &'a Jid) -> Row<'a> {
        let values = (self.now(), owner, kind, jid.as_str());
        let bytes = owner.len() + jid.as_str().len();
        Row::new(&self.servers.statements.item_delete, values, bytes)
    }

    /// The clock gives the id: it grows over all owners, and never goes back behind one it saw.
    fn offline_append(&self, owner: &'a str, at_ms: u64, stanza: &'a [u8]) -> Row<'a> {
        let id = self.now();
        let values = (owner, id, to_cql(at_ms), stanza, id);
        let bytes = owner.len() + stanza.len();
        Row::new(&self.servers.statements.offline_put, values, bytes)
    }

    /// Messages are nearly always deleted from the oldest on: one range then, where a tombstone for
    /// each would lie in the way of every read until it is collected.
    async fn offline_delete(
        &self,
        owner: &'a str,
        ids: &[u64],
    ) -> Result<Vec<Row<'a>>, StoreError> {
        // Ids begin above 0; a number that does not fit was never one.
        let mut ids: Vec<i64> = ids
            .iter()
            .filter_map(|id| i64::try_from(*id).ok())
            .filter(|id| *id > 0)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let there = query::first_offline(self.servers, self.deadline, owner, ids.len()).await?;
        let prefix = there.iter().take_while(|id| ids.binary_search(id).is_ok());
        let upto = prefix.last().copied();
        let mut rows = Vec::new();
        if let Some(upto) = upto {
            let values = (self.now(), owner, upto);
            let statement = &self.servers.statements.offline_delete_upto;
            rows.push(Row::new(statement, values, owner.len()));
        }
        for id in ids
            .into_iter()
            .filter(|id| upto.is_none_or(|upto| *id > upto))
        {
            let values = (self.now(), owner, id);
            rows.push(Row::new(
                &self.servers.statements.offline_delete,
                values,
                owner.len(),
            ));
        }
        Ok(rows)
    }

    async fn map_put(
        &self,
        known: &mut Known,
        jid: &'a Jid,
        (kind, key): (MapKind, &'a str),
        value: &'a [u8],
    ) -> Result<Vec<Row<'a>>, StoreError> {
        let owner = jid.bare_str();
        let (number, bytes) = (kind_number(kind), owner.len() + key.len() + value.len());
        if value.is_empty() {
            if let Some(keys) = known.keys(kind) {
                keys.remove(&hash(key));
            }
            let values = (self.now(), owner, number, key);
            return Ok(vec![Row::new(
                &self.servers.statements.map_delete,
                values,
                bytes,
            )]);
        }
        if key.len() > MAP_KEY_BYTES {
            return Err(StoreError::Full("a key of the map is too long"));
        }
        if value.len() > MAP_VALUE_BYTES {
            return Err(StoreError::Full("a value of the map is too large"));
        }
        let max = if jid.local().is_some() {
            MAP_KEYS_PER_ACCOUNT
        } else {
            MAP_KEYS_PER_DOMAIN
        };
        if known.keys(kind).is_none() {
            let found = query::all_keys(self.servers, self.deadline, owner, kind, hash).await?;
            *known.keys(kind) = Some(found);
        }
        let keys = known.keys(kind).get_or_insert_default();
        if !keys.contains(&hash(key)) && keys.len() >= max {
            return Err(StoreError::Full("too many keys in the map"));
        }
        keys.insert(hash(key));
        let values = (owner, number, key, value, self.now());
        Ok(vec![Row::new(
            &self.servers.statements.map_put,
            values,
            bytes,
        )])
    }
}

/// Of a key in [`Known::keys`].
fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Whether there is an account.
///
/// # Errors
/// The servers are away.
pub(super) async fn exists(
    servers: &Servers,
    deadline: Instant,
    known: &mut Known,
    owner: &Jid,
) -> Result<bool, Failure> {
    if !known.exists && owner.local().is_some() {
        known.exists = query::creation(servers, deadline, owner.bare_str())
            .await?
            .is_some();
    }
    Ok(known.exists)
}

/// How the column writes a subscription: 1 to, 2 from, 4 pending out, 8 approved.
fn state_bits(subscription: Subscription) -> i8 {
    i8::from(subscription.to)
        | i8::from(subscription.from) << 1
        | i8::from(subscription.pending_out) << 2
        | i8::from(subscription.approved) << 3
}

/// What [`state_bits`] wrote.
pub(super) fn subscription(bits: i8) -> Subscription {
    Subscription {
        to: bits & 1 != 0,
        from: bits & 2 != 0,
        pending_out: bits & 4 != 0,
        approved: bits & 8 != 0,
    }
}
