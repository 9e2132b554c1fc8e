//! Corrections (XEP-0308) and retractions (XEP-0424), as in `sqlite/edit.rs`: of several corrections
//! the newest is in force, and a retraction takes all of them along.

use super::archive::Turn;
use super::archives::{bucket_of, flags_column, read_flags};
use super::error::Failure;
use super::inbox::keep_row;
use super::reader::{packed, unpacked};
use super::servers::Row;
use super::taken::is_dead;
use super::{from_cql, to_cql};
use crate::stanza::{corrected, tombstone};
use antiphon_routing::archive::{Edit, Flags, Reference, id_hash};
use antiphon_xmpp::Jid;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What stands for a retracted message of which nothing could be read.
const EMPTY: &[u8] = b"<message xmlns='jabber:client'/>";

/// Messages behind one that are looked through for its corrections, the newest first.
const LOOKED_AT: i32 = 100;

/// A row of `archive` with what is left of its life.
struct Kept {
    id: u64,
    flags: Flags,
    /// The column, whose upper bits are the effect on the inbox.
    effect: antiphon_routing::archive::InboxEffect,
    /// As it is stored.
    stanza: Vec<u8>,
    ttl: i32,
}

/// What lies behind a message in its conversation.
#[derive(Default)]
struct Behind {
    /// Those of the same side that may correct it, the newest first.
    candidates: Vec<u64>,
    /// Whether there is a further message to read.
    has_more: bool,
}

impl Turn<'_> {
    /// See [`antiphon_routing::store::Write::ArchiveEdit`].
    pub(super) async fn edit(
        &mut self,
        peer: &Jid,
        is_out: bool,
        target: Reference,
        edit: &Edit,
    ) -> Result<(), Failure> {
        let peer = peer.bare_str();
        let Some((id, _)) = self.referred(peer, target, Some(is_out)).await? else {
            return Ok(());
        };
        let Some(kept) = self.kept(id).await? else {
            return Ok(());
        };
        let is_corrected = kept.flags.has(Flags::SUPERSEDED);
        if matches!(edit, Edit::Retract { .. }) {
            self.unkeep(peer, id).await?;
            if is_corrected {
                for correction in self.corrections(peer, id, is_out).await?.0 {
                    self.unkeep(peer, correction.id).await?;
                    self.change_one(peer, correction, edit).await?;
                }
            }
            return self.change_one(peer, kept, edit).await;
        }
        let (corrections, is_last) = self.corrections(peer, id, is_out).await?;
        let newest = corrections.first().map(|newest| {
            let stanza = unpacked(&newest.stanza, self.owner, peer, newest.flags);
            stanza.map(|stanza| (newest.id, Arc::from(stanza)))
        });
        let newest = newest.transpose()?;
        self.change_one(peer, kept, edit).await?;
        for earlier in corrections.into_iter().skip(1) {
            self.change_one(peer, earlier, edit).await?;
        }
        match newest {
            Some(newest) => self.preview(peer, (id, is_last), newest).await,
            None => Ok(()),
        }
    }

    /// What is retracted is not in the conversation's row either.
    async fn unkeep(&mut self, peer: &str, id: u64) -> Result<(), Failure> {
        let Some(entry) = self.state.entries.get_mut(peer) else {
            return Ok(());
        };
        entry.last.take_if(|last| last.0 == id);
        if entry.kept_id != id {
            return Ok(());
        }
        entry.kept_id = 0;
        let servers = &self.engine.servers;
        let row = keep_row(servers, self.owner, (peer, 0), EMPTY);
        servers.write(self.deadline, self.pass, &[row]).await
    }

    /// A message of this archive.
    async fn kept(&self, id: u64) -> Result<Option<Kept>, Failure> {
        let servers = self.servers();
        let values = (self.owner, bucket_of(id), to_cql(id));
        let statement = &servers.statements.archive_life;
        let rows = servers.rows(self.deadline, statement, values).await?;
        type Life<'r> = (
            Option<&'r str>,
            Option<i16>,
            Option<&'r [u8]>,
            Option<i32>,
            Option<i64>,
        );
        let row: Option<Life<'_>> = rows.maybe_first_row().map_err(Failure::answer)?;
        let Some((_, flags, Some(stored), ttl, written)) = row else {
            return Ok(None);
        };
        if let Some(written) = written {
            servers.clock.observe(written);
        }
        let (flags, effect) = read_flags(flags);
        Ok(Some(Kept {
            id,
            flags,
            effect,
            stanza: stored.to_vec(),
            ttl: ttl.unwrap_or(0),
        }))
    }

    /// Changes one message; what is changed already stays as it is.
    async fn change_one(&self, peer: &str, kept: Kept, edit: &Edit) -> Result<(), Failure> {
        let (mut flags, mut stanza) = (kept.flags, kept.stanza);
        match edit {
            _ if flags.has(Flags::RETRACTED) => return Ok(()),
            Edit::Supersede if flags.has(Flags::SUPERSEDED) => return Ok(()),
            Edit::Supersede => flags = flags.and(Flags::SUPERSEDED),
            Edit::Retract { at_ms, id } => {
                let old = unpacked(&stanza, self.owner, peer, flags)?;
                let new = tombstone(&old, *at_ms, id.as_deref());
                stanza = packed(new.as_deref().unwrap_or(EMPTY), self.owner, peer, flags);
                // There is nothing left to search.
                flags = Flags(flags.and(Flags::RETRACTED).0 & !Flags::SEARCHABLE.0);
            }
        }
        let servers = self.servers();
        let column = flags_column(flags, kept.effect);
        let (bucket, id) = (bucket_of(kept.id), to_cql(kept.id));
        let (now, ttl) = (self.now(), kept.ttl);
        let bytes = stanza.len();
        let rows = [
            Row::new(
                &servers.statements.archive_edit,
                (now, ttl, column, stanza, self.owner, bucket, id),
                bytes,
            ),
            Row::new(
                &servers.statements.peer_edit,
                (now, ttl, column, self.owner, bucket, peer, id),
                peer.len(),
            ),
        ];
        servers.write(self.deadline, self.pass, &rows).await
    }

    /// The corrections of a message that are not retracted, the newest first; and whether nothing
    /// behind it is a further message to read.
    async fn corrections(
        &self,
        peer: &str,
        id: u64,
        is_out: bool,
    ) -> Result<(Vec<Kept>, bool), Failure> {
        let mut mid = None;
        self.rows_between(peer, (to_cql(id) - 1, to_cql(id) + 1), |_, _, found| {
            mid = found;
        })
        .await?;
        let mut behind = Behind::default();
        self.rows_between(peer, (to_cql(id), i64::MAX), |at, flags, _| {
            behind.has_more |= flags.has(Flags::COUNTS);
            let is_same_side = flags.has(Flags::OUT) == is_out;
            if is_same_side && !flags.has(Flags::COUNTS) && !flags.has(Flags::RETRACTED) {
                behind.candidates.push(at);
            }
        })
        .await?;
        let mut found = Vec::new();
        for at in behind.candidates {
            let Some(kept) = self.kept(at).await? else {
                continue;
            };
            let stanza = unpacked(&kept.stanza, self.owner, peer, kept.flags)?;
            let named = corrected(&stanza).map(|named| id_hash(&named));
            if named.is_some() && named == mid {
                found.push(kept);
            }
        }
        Ok((found, !behind.has_more))
    }

    /// Rows of a conversation between two ids, both exclusive, the newest [`LOOKED_AT`] first.
    async fn rows_between(
        &self,
        peer: &str,
        (above, below): (i64, i64),
        mut take: impl FnMut(u64, Flags, Option<u64>) + Send,
    ) -> Result<(), Failure> {
        let servers = self.servers();
        let first = bucket_of(from_cql(above));
        let mut left = LOOKED_AT;
        for bucket in self.state.buckets.iter().rev().filter(|b| **b >= first) {
            let values = (self.owner, *bucket, peer, above, below, left);
            let statement = &servers.statements.peer_down;
            let read = servers.pages(self.deadline, statement, values, |rows| {
                let rows = rows.rows::<(i64, Option<i16>, Option<i64>)>();
                for row in rows.map_err(Failure::answer)? {
                    let (id, flags, mid) = row.map_err(Failure::answer)?;
                    left -= 1;
                    if is_dead(&self.state.dead, from_cql(id)) {
                        continue;
                    }
                    take(
                        from_cql(id),
                        read_flags(flags).0,
                        mid.map(i64::cast_unsigned),
                    );
                }
                Ok(ControlFlow::Continue(()))
            });
            read.await?;
            if left <= 0 {
                break;
            }
        }
        Ok(())
    }

    /// The inbox shows a conversation's last message as it reads now; nothing more is unread.
    async fn preview(
        &mut self,
        peer: &str,
        (id, is_last): (u64, bool),
        (correction, stanza): (u64, Arc<[u8]>),
    ) -> Result<(), Failure> {
        let Some(entry) = self.state.entries.get_mut(peer) else {
            return Ok(());
        };
        let is_shown = entry.last_id == id || (is_last && entry.last_id >= id);
        if entry.last_id == 0 || !is_shown || entry.last_id >= correction {
            return Ok(());
        }
        entry.last_id = correction;
        entry.is_behind = true;
        if self.engine.archives.ttl_s != 0 {
            entry.last = Some((correction, stanza));
        }
        self.flush().await
    }
}
