//! What is taken out of archives behind everybody's back, a slice at a time: what was purged, what
//! is older than the operator keeps, and archives of deleted accounts.

use super::apply::{Change, Failure};
use super::archive::{PLACE, Place};
use super::content::Sides;
use super::to_sql;
use antiphon_routing::archive::{ArchiveId, Flags};
use antiphon_routing::store::StoreError;
use rusqlite::OptionalExtension;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

/// Messages that one slice takes out: 5-10 ms in which a commit waits.
const SLICE: usize = 256;

/// How long one step of the retention looks at archives, at least one.
const STEP: Duration = Duration::from_millis(5);

/// How long the engine waits from the end of one pass of the retention to the next.
pub(super) const PASS_MS: u64 = 60 * 60 * 1000;

/// What an archive may keep at most; `None`: everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Days that a message is kept.
    pub days: Option<u32>,
    /// Messages in one archive; the oldest go.
    pub messages: Option<u64>,
    /// Days after its last message that a conversation stays in the inbox's bin.
    pub bin_days: Option<u32>,
}

/// Where a pass of the retention is.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The last owner that was looked at.
    after: i64,
    /// When the next pass begins, ms since 1970.
    pub(super) next_ms: u64,
}

/// A row of `purge`.
struct Job {
    owner: i64,
    conversation: i64,
    before: i64,
}

impl Change<'_> {
    /// Takes out one slice; whether there may be more.
    pub(super) fn purge_slice(&mut self) -> Result<bool, Failure> {
        let job = self
            .statement("SELECT owner, conversation, before FROM purge LIMIT 1")?
            .query_row([], |row| {
                Ok(Job {
                    owner: row.get(0)?,
                    conversation: row.get(1)?,
                    before: row.get(2)?,
                })
            })
            .optional()?;
        let Some(job) = job else {
            return Ok(false);
        };
        let places = self.doomed(&job)?;
        let address = self.address(job.owner)?;
        let mut peers: HashMap<i64, String> = HashMap::new();
        self.keep_waiting(&job, address.as_deref(), &places)?;
        for place in &places {
            let peer = match peers.entry(place.conversation) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.peer(place.conversation)?),
            };
            if let Some(address) = &address {
                self.keep_last(place, address, peer)?;
            }
            self.release(job.owner, place, peer)?;
            self.run(
                "DELETE FROM thread WHERE conversation = ?1 AND id = ?2",
                (place.conversation, place.id),
            )?;
            self.run(
                "DELETE FROM archive WHERE owner = ?1 AND id = ?2",
                (job.owner, place.id),
            )?;
        }
        if places.len() < SLICE {
            self.finish(&job, address.is_some())?;
        }
        Ok(true)
    }

    fn doomed(&self, job: &Job) -> Result<Vec<Place>, Failure> {
        let sql = if job.conversation == 0 {
            format!(
                "SELECT {PLACE} FROM archive AS a WHERE a.owner = ?1 AND a.id < ?3 AND ?2 = 0
                 ORDER BY a.id LIMIT ?4"
            )
        } else {
            format!(
                "SELECT {PLACE} FROM thread AS t
                 CROSS JOIN archive AS a ON a.owner = ?1 AND a.id = t.id
                 WHERE t.conversation = ?2 AND t.id < ?3 ORDER BY t.id LIMIT ?4"
            )
        };
        let mut statement = self.statement(&sql)?;
        let parameters = (job.owner, job.conversation, job.before, SLICE as i64);
        let places = statement.query_map(parameters, Place::read)?;
        Ok(places.collect::<rusqlite::Result<_>>()?)
    }

    /// The account's bare JID; `None`: it is deleted.
    fn address(&self, owner: i64) -> Result<Option<String>, Failure> {
        let address = self
            .statement("SELECT localpart || '@' || domain FROM owner WHERE id = ?1")?
            .query_row([owner], |row| row.get(0))
            .optional()?;
        Ok(address)
    }

    fn peer(&self, conversation: i64) -> Result<String, Failure> {
        let peer = self
            .statement("SELECT jid FROM conversation WHERE id = ?1")?
            .query_row([conversation], |row| row.get(0))
            .optional()?;
        Ok(peer.unwrap_or_default())
    }

    /// The last message of an entry in the inbox stays with the entry.
    fn keep_last(&mut self, place: &Place, owner: &str, peer: &str) -> Result<(), Failure> {
        let is_last = self
            .statement("SELECT 1 FROM conversation WHERE id = ?1 AND last_id = ?2")?
            .exists((place.conversation, place.id))?;
        if !is_last {
            return Ok(());
        }
        let sides = Sides::new(owner, peer, place.flags.has(Flags::OUT));
        let stanza = self.stanza(place.key(), sides)?;
        self.run(
            "UPDATE conversation SET stanza = ?2 WHERE id = ?1",
            (place.conversation, stanza),
        )
    }

    /// An offline message that only refers to the archive gets its own copy: it waits for its
    /// recipient, whatever he keeps.
    fn keep_waiting(
        &mut self,
        job: &Job,
        address: Option<&str>,
        places: &[Place],
    ) -> Result<(), Failure> {
        let Some(address) = address else {
            return Ok(());
        };
        let waiting: Vec<(i64, i64)> = self
            .statement(
                "SELECT id, archived FROM offline
                 WHERE owner = ?1 AND archived IS NOT NULL AND archived < ?2",
            )?
            .query_map((job.owner, job.before), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (id, archived) in waiting {
            let Ok(at) = places.binary_search_by_key(&archived, |place| place.id) else {
                continue;
            };
            let place = &places[at];
            let peer = self.peer(place.conversation)?;
            let sides = Sides::new(address, &peer, place.flags.has(Flags::OUT));
            let stanza = self.stanza(place.key(), sides)?;
            self.run(
                "UPDATE offline SET stanza = ?2, archived = NULL WHERE id = ?1",
                (id, stanza),
            )?;
        }
        Ok(())
    }

    fn finish(&mut self, job: &Job, has_account: bool) -> Result<(), Failure> {
        self.run(
            "DELETE FROM purge WHERE owner = ?1 AND conversation = ?2",
            (job.owner, job.conversation),
        )?;
        if has_account {
            return self.drop_empty_conversations(job.owner);
        }
        self.run("DELETE FROM conversation WHERE owner = ?1", [job.owner])?;
        self.run("DELETE FROM purge WHERE owner = ?1", [job.owner])
    }

    /// Looks at the next archives for what is kept too long; whether the pass goes on.
    pub(super) fn retain(
        &mut self,
        pass: &mut Pass,
        retention: Retention,
        now_ms: u64,
    ) -> Result<bool, Failure> {
        let begin = Instant::now();
        while begin.elapsed() < STEP {
            // Every message belongs to a conversation; a conversation may have none left.
            let next: Option<i64> = self
                .statement("SELECT MIN(owner) FROM conversation WHERE owner > ?1")?
                .query_row([pass.after], |row| row.get(0))?;
            let Some(owner) = next else {
                *pass = Pass {
                    after: 0,
                    next_ms: now_ms.saturating_add(PASS_MS),
                };
                return Ok(false);
            };
            pass.after = owner;
            if let Some(days) = retention.bin_days {
                self.empty_bin(owner, days_ago(now_ms, days))?;
            }
            let before = self.kept_from(owner, retention, now_ms)?;
            let oldest: Option<i64> = self
                .statement("SELECT MIN(id) FROM archive WHERE owner = ?1")?
                .query_row([owner], |row| row.get(0))?;
            // An account that is being deleted has its job already.
            if oldest.is_some_and(|oldest| oldest < before) && self.address(owner)?.is_some() {
                self.mark_purge(owner, 0, before)?;
            }
        }
        Ok(true)
    }

    /// The id from which on an archive keeps its messages.
    fn kept_from(&self, owner: i64, retention: Retention, now_ms: u64) -> Result<i64, Failure> {
        let by_age = retention.days.map_or(0, |days| {
            to_sql(ArchiveId::first_of(days_ago(now_ms, days)).0)
        });
        let by_number = match retention.messages {
            None => 0,
            Some(messages) => self
                .statement(
                    "SELECT id + 1 FROM archive WHERE owner = ?1
                     ORDER BY id DESC LIMIT 1 OFFSET ?2",
                )?
                .query_row((owner, to_sql(messages)), |row| row.get(0))
                .optional()?
                .unwrap_or(0),
        };
        Ok(by_age.max(by_number))
    }
}

fn days_ago(now_ms: u64, days: u32) -> u64 {
    now_ms.saturating_sub(u64::from(days) * 24 * 60 * 60 * 1000)
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) | Failure::Broken(error) => error,
        }
    }
}
