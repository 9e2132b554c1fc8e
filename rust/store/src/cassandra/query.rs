//! Reads.

use super::account::hash_name;
use super::engine::Engine;
use super::error::Failure;
use super::plan::{kind, subscription};
use super::purge;
use super::servers::{ConditionAttempts, Servers};
use super::{BUCKETS, from_cql, kind_number, to_cql};
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::store::{
    AccountSummary, MapKind, OfflineRecord, PAGE_MAX, Request, RosterItem, UserRecord,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash, ScramKeys};
use scylla::response::query_result::QueryRowsResult;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

const MORE: Result<ControlFlow<()>, Failure> = Ok(ControlFlow::Continue(()));

/// A row of `entity` as the statement `user` selects it.
type EntityRow<'a> = (
    i8,
    &'a str,
    Option<Uuid>,
    Option<i64>,
    Option<i64>,
    Option<&'a str>,
    Option<&'a str>,
    Option<Vec<&'a str>>,
    Option<i8>,
    Option<&'a [u8]>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// See [`antiphon_routing::store::Store::user`].
pub(super) async fn user(
    servers: &Servers,
    deadline: Instant,
    jid: &Jid,
) -> Result<Option<UserRecord>, Failure> {
    let owner = jid.bare_str();
    let mut record = UserRecord::default();
    let mut is_account = false;
    let entity = servers.pages(deadline, &servers.statements.user, (owner,), |rows| {
        for row in rows.rows::<EntityRow<'_>>().map_err(Failure::answer)? {
            let row = row.map_err(Failure::answer)?;
            for written in [row.10, row.11, row.12].into_iter().flatten() {
                servers.clock.observe(written);
            }
            is_account |= row.0 == kind::ACCOUNT && row.2.is_some();
            add(&mut record, row)?;
        }
        MORE
    });
    let mut count = 0;
    let offline = servers.pages(
        deadline,
        &servers.statements.offline_ids,
        (owner,),
        |rows| {
            count += rows.rows_num() as u64;
            observe_ids(servers, rows)?;
            MORE
        },
    );
    tokio::try_join!(entity, offline)?;
    record.offline = count;
    Ok(is_account.then_some(record))
}

fn add(record: &mut UserRecord, row: EntityRow<'_>) -> Result<(), Failure> {
    let (number, key, _, version, seen, status, name, groups, state, stanza, ..) = row;
    match number {
        kind::STATE => {
            record.roster_version = from_cql(version.unwrap_or(0));
            record.last_seen_ms = from_cql(seen.unwrap_or(0));
            record.last_status = status.unwrap_or_default().to_owned();
        }
        kind::ROSTER => record.roster.push(RosterItem {
            jid: address(key)?,
            name: name.unwrap_or_default().into(),
            groups: groups
                .unwrap_or_default()
                .into_iter()
                .map(Into::into)
                .collect(),
            subscription: subscription(state.unwrap_or(0)),
        }),
        kind::REQUEST => record.requests.push(Request {
            from: address(key)?,
            stanza: stanza.unwrap_or_default().into(),
        }),
        kind::BLOCKED => record.blocked.push(address(key)?),
        // A later version may keep more.
        _ => {}
    }
    Ok(())
}

/// An address that an earlier version took for valid may be none for this one; then the operator
/// must learn of it, rather than a contact vanish silently.
fn address(text: &str) -> Result<Jid, Failure> {
    Jid::parse(text).map_err(|error| Failure::Engine(format!("stored address {text:?}: {error}")))
}

fn observe_ids(servers: &Servers, rows: &QueryRowsResult) -> Result<(), Failure> {
    for row in rows.rows::<(i64,)>().map_err(Failure::answer)? {
        servers.clock.observe(row.map_err(Failure::answer)?.0);
    }
    Ok(())
}

/// The creation of an account; `None`: there is none.
pub(super) async fn creation(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<Option<Uuid>, Failure> {
    let statement = &servers.statements.account_creation;
    let rows = servers.rows(deadline, statement, (owner,)).await?;
    let row: Option<(Option<Uuid>,)> = rows.maybe_first_row().map_err(Failure::answer)?;
    Ok(row.and_then(|row| row.0))
}

/// An account as its row has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) creation: Uuid,
    pub(super) created_ms: u64,
    pub(super) is_enabled: bool,
}

/// An account, behind every lightweight transaction that began before.
pub(super) async fn account(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<Option<Account>, Failure> {
    let statement = &servers.statements.account_serial;
    let rows = servers.rows(deadline, statement, (owner,)).await?;
    let row: Option<(Option<Uuid>, Option<i64>, Option<bool>)> =
        rows.maybe_first_row().map_err(Failure::answer)?;
    Ok(row.and_then(|(creation, created_ms, is_enabled)| {
        Some(Account {
            creation: creation?,
            created_ms: from_cql(created_ms.unwrap_or(0)),
            is_enabled: is_enabled.unwrap_or(false),
        })
    }))
}

/// See [`antiphon_routing::store::Store::credentials`].
pub(super) async fn credentials(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<Option<Credentials>, Failure> {
    type Scram<'a> = BTreeMap<&'a str, (i32, &'a [u8], &'a [u8], &'a [u8])>;
    let statement = &servers.statements.account_credentials;
    let rows = servers.rows(deadline, statement, (owner,)).await?;
    let row: Option<(Option<Uuid>, Option<bool>, Option<Scram<'_>>)> =
        rows.maybe_first_row().map_err(Failure::answer)?;
    let Some((Some(_), is_enabled, scram)) = row else {
        return Ok(None);
    };
    let scram = scram.unwrap_or_default();
    let strongest_first = [ScramHash::Sha512, ScramHash::Sha256, ScramHash::Sha1];
    let keys = strongest_first.into_iter().filter_map(|hash| {
        let (iterations, salt, stored_key, server_key) = *scram.get(hash_name(hash))?;
        Some(ScramKeys {
            hash,
            iterations: u32::try_from(iterations).unwrap_or(0),
            salt: salt.into(),
            stored_key: stored_key.into(),
            server_key: server_key.into(),
        })
    });
    Ok(Some(Credentials {
        keys: keys.collect(),
        is_enabled: is_enabled.unwrap_or(false),
    }))
}

/// See [`antiphon_routing::store::Store::offline`].
pub(super) async fn offline(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<OfflineRecord>, Failure> {
    let values = (
        owner,
        to_cql(after),
        i32::try_from(limit).unwrap_or(i32::MAX),
    );
    let (mut records, mut archived) = (Vec::new(), HashMap::new());
    let statement = &servers.statements.offline_page;
    servers
        .pages(deadline, statement, values, |rows| {
            let rows = rows.rows::<(i64, Option<i64>, Option<&[u8]>, Option<i64>)>();
            for row in rows.map_err(Failure::answer)? {
                let (id, at_ms, stanza, reference) = row.map_err(Failure::answer)?;
                servers.clock.observe(id);
                if let (None, Some(reference)) = (stanza, reference) {
                    archived.insert(from_cql(id), from_cql(reference));
                }
                records.push(OfflineRecord {
                    id: from_cql(id),
                    at_ms: from_cql(at_ms.unwrap_or(0)),
                    archived: reference
                        .filter(|_| stanza.is_none())
                        .map(|id| ArchiveId(from_cql(id))),
                    stanza: stanza.unwrap_or_default().into(),
                });
            }
            MORE
        })
        .await?;
    purge::fill(servers, deadline, owner, &mut records, &archived).await?;
    Ok(records)
}

/// The ids of the oldest offline messages, at most so many.
pub(super) async fn first_offline(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    limit: usize,
) -> Result<Vec<i64>, Failure> {
    let values = (owner, i32::try_from(limit).unwrap_or(i32::MAX));
    let mut ids = Vec::new();
    let statement = &servers.statements.offline_first_ids;
    servers
        .pages(deadline, statement, values, |rows| {
            for row in rows.rows::<(i64,)>().map_err(Failure::answer)? {
                ids.push(row.map_err(Failure::answer)?.0);
            }
            MORE
        })
        .await?;
    Ok(ids)
}

/// See [`antiphon_routing::store::Store::map_get`].
pub(super) async fn map_get(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    kind: MapKind,
    key: &str,
) -> Result<Option<Box<[u8]>>, Failure> {
    let values = (owner, kind_number(kind), key);
    let rows = servers
        .rows(deadline, &servers.statements.map_get, values)
        .await?;
    let row: Option<(Option<&[u8]>,)> = rows.maybe_first_row().map_err(Failure::answer)?;
    Ok(row.and_then(|row| row.0).map(Box::from))
}

/// See [`antiphon_routing::store::Store::map_claim`].
pub(super) async fn map_claim(
    servers: &Servers,
    deadline: Instant,
    (owner, kind, key): (&str, MapKind, &str),
    value: &[u8],
) -> Result<(), Failure> {
    let mut attempts = ConditionAttempts::new(deadline);
    let values = (owner, kind_number(kind), key, value);
    // Applied, or there is one; else it is not known, and either is told by another attempt.
    while servers
        .condition(&mut attempts, &servers.statements.map_claim, values)
        .await?
        .is_none()
    {}
    Ok(())
}

/// See [`antiphon_routing::store::Store::map_keys`].
pub(super) async fn map_keys(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    kind: MapKind,
    prefix: &str,
) -> Result<Vec<String>, Failure> {
    let mut keys: Vec<String> = Vec::new();
    // What begins with the prefix stands together, so the first that does not ends it.
    each_key(servers, deadline, (owner, kind, prefix), |key| {
        if !key.starts_with(prefix) || keys.len() == PAGE_MAX {
            return ControlFlow::Break(());
        }
        keys.push(key.to_owned());
        ControlFlow::Continue(())
    })
    .await?;
    Ok(keys)
}

/// The hashes of all keys of a kind.
pub(super) async fn all_keys(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    kind: MapKind,
    hash: fn(&str) -> u64,
) -> Result<HashSet<u64>, Failure> {
    let mut hashes = HashSet::new();
    each_key(servers, deadline, (owner, kind, ""), |key| {
        hashes.insert(hash(key));
        ControlFlow::Continue(())
    })
    .await?;
    Ok(hashes)
}

async fn each_key(
    servers: &Servers,
    deadline: Instant,
    (owner, kind, from): (&str, MapKind, &str),
    mut take: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(), Failure> {
    let values = (owner, kind_number(kind), from);
    let statement = &servers.statements.map_keys;
    servers
        .pages(deadline, statement, values, |rows| {
            for row in rows.rows::<(&str,)>().map_err(Failure::answer)? {
                let (key,) = row.map_err(Failure::answer)?;
                if take(key).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            MORE
        })
        .await
}

/// An entry of the index.
struct Listed {
    local: String,
    /// `None`: in doubt.
    known: Option<(u64, bool)>,
}

/// One bucket of a domain's index, read piece by piece.
struct Bucket {
    number: i16,
    ahead: VecDeque<Listed>,
    /// Behind which localpart the next piece begins.
    after: String,
    is_end: bool,
}

/// See [`antiphon_routing::store::Store::accounts`]. An empty `after` is before every localpart.
pub(super) async fn accounts(
    engine: &Arc<Engine>,
    deadline: Instant,
    domain: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<AccountSummary>, Failure> {
    // Spread evenly, a bucket has this share of a page; a little more saves most second pieces.
    let piece = limit / BUCKETS as usize * 3 / 2 + 8;
    let mut buckets = Vec::new();
    let mut reads = JoinSet::new();
    for number in 0..BUCKETS {
        let bucket = Bucket {
            number,
            ahead: VecDeque::new(),
            after: after.to_owned(),
            is_end: false,
        };
        let (engine, domain) = (Arc::clone(engine), domain.to_owned());
        reads.spawn(async move { fill(&engine.servers, deadline, &domain, bucket, piece).await });
    }
    while let Some(read) = reads.join_next().await {
        buckets.push(read.map_err(Failure::answer)??);
    }
    let mut found = Vec::new();
    while found.len() < limit {
        let first = buckets
            .iter_mut()
            .filter(|bucket| !bucket.ahead.is_empty())
            .min_by(|a, b| a.ahead[0].local.cmp(&b.ahead[0].local));
        let Some(bucket) = first else { break };
        if let Some(listed) = bucket.ahead.pop_front()
            && let Some(summary) = resolve(&engine.servers, deadline, domain, listed).await?
        {
            found.push(summary);
        }
        if bucket.ahead.is_empty() && !bucket.is_end {
            let rest = std::mem::replace(bucket, Bucket::ended(bucket.number));
            *bucket = fill(&engine.servers, deadline, domain, rest, piece).await?;
        }
    }
    Ok(found)
}

impl Bucket {
    fn ended(number: i16) -> Self {
        Self {
            number,
            ahead: VecDeque::new(),
            after: String::new(),
            is_end: true,
        }
    }
}

/// Reads the next piece of a bucket.
async fn fill(
    servers: &Servers,
    deadline: Instant,
    domain: &str,
    mut bucket: Bucket,
    piece: usize,
) -> Result<Bucket, Failure> {
    let limit = i32::try_from(piece).unwrap_or(i32::MAX);
    let values = (domain, bucket.number, bucket.after.as_str(), limit);
    let mut ahead = VecDeque::new();
    let statement = &servers.statements.index_page;
    servers
        .pages(deadline, statement, values, |rows| {
            for row in rows.rows::<IndexRow<'_>>().map_err(Failure::answer)? {
                ahead.push_back(listed(row.map_err(Failure::answer)?));
            }
            MORE
        })
        .await?;
    bucket.is_end = ahead.len() < piece;
    if let Some(last) = ahead.back() {
        bucket.after.clone_from(&last.local);
    }
    bucket.ahead = ahead;
    Ok(bucket)
}

type IndexRow<'a> = (&'a str, Option<i64>, Option<bool>);

fn listed((local, created_ms, is_enabled): IndexRow<'_>) -> Listed {
    Listed {
        local: local.to_owned(),
        known: created_ms.map(|ms| (from_cql(ms), is_enabled.unwrap_or(false))),
    }
}

/// An entry as listings show it; `None`: there is no such account (yet, or any more).
async fn resolve(
    servers: &Servers,
    deadline: Instant,
    domain: &str,
    listed: Listed,
) -> Result<Option<AccountSummary>, Failure> {
    let jid = address(&format!("{}@{domain}", listed.local))?;
    let known = match listed.known {
        Some(known) => Some(known),
        None => account(servers, deadline, jid.bare_str())
            .await?
            .map(|account| (account.created_ms, account.is_enabled)),
    };
    Ok(known.map(|(created_ms, is_enabled)| AccountSummary {
        jid,
        is_enabled,
        created_ms,
    }))
}

/// Counts the accounts of a domain by reading their names: seconds for a million.
pub(super) async fn count_accounts(
    engine: &Arc<Engine>,
    deadline: Instant,
    domain: &str,
) -> Result<u64, Failure> {
    let mut reads = JoinSet::new();
    for number in 0..BUCKETS {
        let (engine, domain) = (Arc::clone(engine), domain.to_owned());
        reads.spawn(async move { count_bucket(&engine.servers, deadline, &domain, number).await });
    }
    let mut count = 0;
    while let Some(read) = reads.join_next().await {
        count += read.map_err(Failure::answer)??;
    }
    Ok(count)
}

async fn count_bucket(
    servers: &Servers,
    deadline: Instant,
    domain: &str,
    number: i16,
) -> Result<u64, Failure> {
    let (mut count, mut doubtful) = (0, Vec::new());
    let statement = &servers.statements.index_page;
    servers
        .pages(
            deadline,
            statement,
            (domain, number, "", i32::MAX),
            |rows| {
                for row in rows.rows::<IndexRow<'_>>().map_err(Failure::answer)? {
                    let row = row.map_err(Failure::answer)?;
                    if row.1.is_some() {
                        count += 1;
                    } else {
                        doubtful.push(listed(row));
                    }
                }
                MORE
            },
        )
        .await?;
    for one in doubtful {
        let found = resolve(servers, deadline, domain, one).await?;
        count += u64::from(found.is_some());
    }
    Ok(count)
}
