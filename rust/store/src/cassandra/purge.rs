//! What is taken out of archives: what an owner purges, and archives of deleted accounts; and
//! offline messages that lie in an archive.

use super::archive::Turn;
use super::archives::{HeadRow, bucket_of, buckets, read_flags};
use super::error::Failure;
use super::gate::Pass;
use super::inbox::keep_row;
use super::reader::unpacked;
use super::servers::{Row, Servers};
use super::{from_cql, to_cql};
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::store::OfflineRecord;
use antiphon_xmpp::Jid;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use tokio::time::Instant;

/// Rows of one batch.
const ROWS: usize = 100;

/// Deletes everything of an account that is being deleted, but for the account itself.
///
/// # Errors
/// The servers are away; it can be repeated.
pub(super) async fn delete_all(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<(), Failure> {
    let s = &servers.statements;
    for bucket in buckets(servers, deadline, owner).await? {
        let rows = [&s.archive_drop, &s.peer_drop].map(|statement| {
            let values = (servers.clock.next(), owner, bucket);
            Row::new(statement, values, owner.len())
        });
        servers.write(deadline, Pass::Free, &rows).await?;
    }
    let rows = [&s.seg_drop, &s.inbox_drop, &s.buckets_drop].map(|statement| {
        let values = (servers.clock.next(), owner);
        Row::new(statement, values, owner.len())
    });
    servers.write(deadline, Pass::Free, &rows).await
}

impl Turn<'_> {
    /// See [`antiphon_routing::store::Write::ArchivePurge`].
    pub(super) async fn purge(
        &mut self,
        peer: Option<&Jid>,
        before: ArchiveId,
    ) -> Result<(), Failure> {
        // What goes could not be counted again.
        self.flush().await?;
        let before = to_cql(before.0).min(to_cql(self.state.newest) + 1);
        let peer = peer.map(Jid::bare_str);
        self.keep_last(peer, before).await?;
        self.keep_waiting(peer, before).await?;
        let last = bucket_of(from_cql(before));
        let months = self.state.buckets.clone();
        for bucket in months.into_iter().filter(|b| *b <= last) {
            match peer {
                Some(peer) => self.purge_peer(bucket, peer, before).await?,
                None if bucket == last => self.purge_below(bucket, before).await?,
                None => self.purge_month(bucket).await?,
            }
        }
        if peer.is_none() {
            self.purge_segments(before).await?;
        }
        Ok(())
    }

    async fn write(&self, rows: &[Row<'_>]) -> Result<(), Failure> {
        for batch in rows.chunks(ROWS) {
            self.servers()
                .write(self.deadline, self.pass, batch)
                .await?;
        }
        Ok(())
    }

    async fn purge_month(&mut self, bucket: i32) -> Result<(), Failure> {
        let s = &self.servers().statements;
        let drop = |statement| {
            let values = (self.now(), self.owner, bucket);
            Row::new(statement, values, self.owner.len())
        };
        self.write(&[drop(&s.archive_drop), drop(&s.peer_drop)])
            .await?;
        self.write(&[drop(&s.bucket_delete)]).await?;
        self.state.buckets.retain(|month| *month != bucket);
        Ok(())
    }

    async fn purge_below(&mut self, bucket: i32, before: i64) -> Result<(), Failure> {
        let servers = self.servers();
        let mut peers: HashSet<String> = HashSet::new();
        let values = (self.owner, bucket, -1i64, before, i32::MAX);
        let statement = &servers.statements.archive_heads_down;
        servers
            .pages(self.deadline, statement, values, |rows| {
                for row in rows.rows::<HeadRow<'_>>().map_err(Failure::answer)? {
                    let peer = row.map_err(Failure::answer)?.1.unwrap_or_default();
                    if !peers.contains(peer) {
                        peers.insert(peer.to_owned());
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        let below = &servers.statements.peer_delete_below;
        let mut rows: Vec<Row<'_>> = Vec::with_capacity(peers.len() + 1);
        for peer in &peers {
            let values = (self.now(), self.owner, bucket, peer.as_str(), before);
            rows.push(Row::new(below, values, peer.len()));
        }
        // Last: without it the conversations are found again.
        let values = (self.now(), self.owner, bucket, before);
        let statement = &servers.statements.archive_delete_below;
        rows.push(Row::new(statement, values, self.owner.len()));
        self.write(&rows).await
    }

    async fn purge_peer(&mut self, bucket: i32, peer: &str, before: i64) -> Result<(), Failure> {
        let servers = self.servers();
        let mut ids: Vec<i64> = Vec::new();
        let values = (self.owner, bucket, peer, -1i64, before, i32::MAX);
        let statement = &servers.statements.peer_down;
        servers
            .pages(self.deadline, statement, values, |rows| {
                let rows = rows.rows::<(i64, Option<i16>, Option<i64>)>();
                for row in rows.map_err(Failure::answer)? {
                    ids.push(row.map_err(Failure::answer)?.0);
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        if ids.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<Row<'_>> = Vec::with_capacity(ids.len() + 1);
        for id in ids {
            let values = (self.now(), self.owner, bucket, id);
            rows.push(Row::new(&servers.statements.archive_delete, values, 0));
        }
        let values = (self.now(), self.owner, bucket, peer, before);
        let below = &servers.statements.peer_delete_below;
        rows.push(Row::new(below, values, peer.len()));
        self.write(&rows).await
    }

    /// Segments of the search that lie wholly below an id.
    async fn purge_segments(&mut self, before: i64) -> Result<(), Failure> {
        let servers = self.servers();
        let values = (self.owner, before, 1);
        let statement = &servers.statements.seg_ends;
        let rows = servers.rows(self.deadline, statement, values).await?;
        let row: Option<(i64, Option<i64>)> = rows.maybe_first_row().map_err(Failure::answer)?;
        let Some((first, last)) = row else {
            return Ok(());
        };
        let is_whole = last.is_none_or(|last| last < before);
        let upto = if is_whole { before } else { first };
        let values = (self.now(), self.owner, upto);
        let statement = &servers.statements.seg_delete_below;
        self.write(&[Row::new(statement, values, self.owner.len())])
            .await
    }

    /// The last message of an entry in the inbox stays with the entry.
    async fn keep_last(&mut self, peer: Option<&str>, before: i64) -> Result<(), Failure> {
        let doomed = self.state.entries.iter().filter(|(name, entry)| {
            entry.last_id > 0
                && entry.kept_id != entry.last_id
                && to_cql(entry.last_id) < before
                && peer.is_none_or(|peer| peer == &***name)
        });
        let doomed: Vec<(Box<str>, u64)> = doomed
            .map(|(name, entry)| (name.clone(), entry.last_id))
            .collect();
        let ids: Vec<u64> = doomed.iter().map(|(_, id)| *id).collect();
        let stanzas = self.stanzas(&ids).await?;
        let mut rows: Vec<Row<'_>> = Vec::new();
        for (name, id) in &doomed {
            let Some(stanza) = stanzas.get(id) else {
                continue;
            };
            rows.push(keep_row(self.servers(), self.owner, (name, *id), stanza));
        }
        for batch in rows.chunks(ROWS / 4) {
            self.servers()
                .write(self.deadline, self.pass, batch)
                .await?;
        }
        drop(rows);
        for (name, id) in doomed {
            if let Some(entry) = self.state.entries.get_mut(&name) {
                entry.kept_id = id;
            }
        }
        Ok(())
    }

    /// An offline message that only refers to the archive gets its own copy: it waits for its
    /// recipient, whatever he keeps.
    async fn keep_waiting(&mut self, peer: Option<&str>, before: i64) -> Result<(), Failure> {
        let waiting = self.waiting().await?;
        let mut doomed: Vec<(i64, u64)> = Vec::new();
        for (number, archived) in waiting {
            if to_cql(archived) < before {
                doomed.push((number, archived));
            }
        }
        if doomed.is_empty() {
            return Ok(());
        }
        let ids: Vec<u64> = doomed.iter().map(|(_, id)| *id).collect();
        let stanzas = self.stanzas_of(&ids, peer).await?;
        let mut rows: Vec<Row<'_>> = Vec::new();
        for (number, id) in doomed {
            if let Some(stanza) = stanzas.get(&id) {
                let values = (self.now(), stanza.to_vec(), self.owner, number);
                let statement = &self.servers().statements.offline_keep;
                rows.push(Row::new(statement, values, stanza.len()));
            }
        }
        for batch in rows.chunks(ROWS / 4) {
            self.servers()
                .write(self.deadline, self.pass, batch)
                .await?;
        }
        Ok(())
    }

    /// Offline messages that refer to the archive: their number, and the id there.
    async fn waiting(&self) -> Result<Vec<(i64, u64)>, Failure> {
        let mut waiting = Vec::new();
        let statement = &self.servers().statements.offline_archived;
        self.servers()
            .pages(self.deadline, statement, (self.owner,), |rows| {
                for row in rows
                    .rows::<(i64, Option<i64>, Option<i64>)>()
                    .map_err(Failure::answer)?
                {
                    let (number, archived, _) = row.map_err(Failure::answer)?;
                    waiting.extend(archived.map(|id| (number, from_cql(id))));
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        Ok(waiting)
    }

    /// See [`antiphon_routing::store::Write::OfflineSeen`].
    pub(super) async fn offline_seen(
        &mut self,
        from: ArchiveId,
        upto: ArchiveId,
    ) -> Result<(), Failure> {
        let waiting = self.waiting().await?;
        let seen = waiting
            .into_iter()
            .filter(|(_, id)| (from.0..=upto.0).contains(id));
        let statement = &self.servers().statements.offline_delete;
        let rows: Vec<Row<'_>> = seen
            .map(|(number, _)| Row::new(statement, (self.now(), self.owner, number), 0))
            .collect();
        self.write(&rows).await
    }

    async fn stanzas(&self, ids: &[u64]) -> Result<HashMap<u64, Box<[u8]>>, Failure> {
        self.stanzas_of(ids, None).await
    }

    async fn stanzas_of(
        &self,
        ids: &[u64],
        peer: Option<&str>,
    ) -> Result<HashMap<u64, Box<[u8]>>, Failure> {
        stanzas(self.servers(), self.deadline, self.owner, ids, peer).await
    }
}

/// Stanzas out of the archive, by id; only of one conversation, if that is asked.
async fn stanzas(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    ids: &[u64],
    peer: Option<&str>,
) -> Result<HashMap<u64, Box<[u8]>>, Failure> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let mut found = HashMap::new();
    let statement = &servers.statements.archive_at;
    for month in ids.chunk_by(|a, b| bucket_of(*a) == bucket_of(*b)) {
        for some in month.chunks(ROWS) {
            let some: Vec<i64> = some.iter().map(|id| to_cql(*id)).collect();
            let values = (owner, bucket_of(month[0]), some);
            servers
                .pages(deadline, statement, values, |rows| {
                    type Content<'r> = (i64, Option<&'r str>, Option<i16>, Option<&'r [u8]>);
                    for row in rows.rows::<Content<'_>>().map_err(Failure::answer)? {
                        let (id, name, flags, stored) = row.map_err(Failure::answer)?;
                        let (Some(name), Some(stored)) = (name, stored) else {
                            continue;
                        };
                        if peer.is_none_or(|peer| peer == name) {
                            let flags = read_flags(flags).0;
                            let stanza = unpacked(stored, owner, name, flags)?;
                            found.insert(from_cql(id), stanza);
                        }
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .await?;
        }
    }
    Ok(found)
}

/// Gives offline messages that refer to the archive their content; what is there no more is left
/// out.
///
/// # Errors
/// The servers are away.
pub(super) async fn fill(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    records: &mut Vec<OfflineRecord>,
    archived: &HashMap<u64, u64>,
) -> Result<(), Failure> {
    if archived.is_empty() {
        return Ok(());
    }
    let ids: Vec<u64> = archived.values().copied().collect();
    let mut stanzas = stanzas(servers, deadline, owner, &ids, None).await?;
    records.retain_mut(|record| match archived.get(&record.id) {
        None => true,
        Some(id) => match stanzas.remove(id) {
            Some(stanza) => {
                record.stanza = stanza;
                true
            }
            None => false,
        },
    });
    Ok(())
}
