//! One turn of a lane: its writes as few batches, each of them whole or not at all.

use super::account;
use super::archive::is_archive;
use super::engine::Engine;
use super::error::Failure;
use super::gate::{Leave, Pass};
use super::owners::Known;
use super::plan::{self, Planner};
use super::queue::{Accepted, GROUP_BYTES, GROUP_WRITES};
use super::servers::Row;
use super::taken;
use antiphon_routing::store::{StoreError, Write};
use antiphon_xmpp::Jid;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// What became of a write.
pub(super) type Outcome = Result<(), StoreError>;

/// A write's place in the group, and its rows.
struct Planned {
    place: usize,
    rows: std::ops::Range<usize>,
}

impl Engine {
    /// Commits the writes of one owner, in their order; one outcome each.
    pub(super) async fn commit(&self, owner: &str, writes: &[Accepted]) -> Vec<Outcome> {
        let mut known = self.owners.take(owner);
        let mut outcomes = Vec::with_capacity(writes.len());
        while outcomes.len() < writes.len() {
            let rest = &writes[outcomes.len()..];
            let time = rest[0].time;
            let same = rest.iter().take_while(|q| q.time == time).count();
            let rest = &rest[..same];
            if self.servers.gate.leave(rest[0].pass()) == Leave::No {
                outcomes.extend(rest.iter().map(|_| Err(StoreError::Busy)));
                continue;
            }
            let archived = rest.iter().take_while(|q| is_archive(&q.write)).count();
            if archived > 0 {
                self.commit_archive(&rest[..archived], &mut known, &mut outcomes)
                    .await;
                continue;
            }
            let is_plain = |q: &&Accepted| plan::is_plain(&q.write) && !is_archive(&q.write);
            let plain = rest.iter().take_while(is_plain).count();
            if plain == 0 {
                outcomes.push(self.change_account(&rest[0], &mut known).await);
            } else {
                self.commit_plain(&rest[..plain], &mut known, &mut outcomes)
                    .await;
            }
        }
        self.doubt(owner, writes, &mut outcomes).await;
        if outcomes.iter().any(is_fault) {
            // Whether it was carried out is unknown, and with it what there is.
            known = Known::default();
        }
        self.owners.put(owner, known);
        self.tally(&outcomes);
        outcomes
    }

    /// Takes back what was committed while another home may have taken the owner up: it may not have
    /// found it.
    async fn doubt(&self, owner: &str, writes: &[Accepted], outcomes: &mut [Outcome]) {
        let is_sure = matches!(self.servers.gate.ask(owner), Leave::Yes(_) | Leave::No);
        let last = writes.last().and_then(|write| write.time);
        let Some(time) = last.filter(|_| !is_sure && outcomes.iter().any(Outcome::is_ok)) else {
            return;
        };
        let deadline = Instant::now() + self.write_wait;
        let error = match taken::is_overtaken(&self.servers, deadline, owner, time).await {
            Ok(false) => return,
            Ok(true) => StoreError::Overtaken,
            Err(failure) => failure.into(),
        };
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            *outcome = Err(error.clone());
        }
    }

    /// Writes that concern rows alone.
    async fn commit_plain(
        &self,
        writes: &[Accepted],
        known: &mut Known,
        outcomes: &mut Vec<Outcome>,
    ) {
        // Never empty.
        let deadline = writes[0].since + self.write_wait;
        let account = writes[0].write.owner();
        let exists = match plan::exists(&self.servers, deadline, known, account).await {
            Ok(exists) => exists,
            Err(failure) => {
                let error = StoreError::from(failure);
                outcomes.extend(writes.iter().map(|_| Err(error.clone())));
                return;
            }
        };
        let planner = Planner {
            servers: &self.servers,
            deadline,
        };
        let first = outcomes.len();
        let mut rows = Vec::with_capacity(writes.len());
        let mut planned = Vec::with_capacity(writes.len());
        for (queued, place) in writes.iter().zip(first..) {
            let write = &queued.write;
            if !exists && !is_of_a_domain(write) {
                outcomes.push(Err(StoreError::NoAccount));
                continue;
            }
            outcomes.push(match planner.rows(known, write).await {
                Ok(new) => {
                    let begin = rows.len();
                    rows.extend(new);
                    planned.push(Planned {
                        place,
                        rows: begin..rows.len(),
                    });
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            });
        }
        let pass = writes[0].pass();
        self.write_planned((deadline, pass), &rows, &planned, outcomes)
            .await;
    }

    /// Writes the rows in batches that end where a write ends.
    async fn write_planned(
        &self,
        (deadline, pass): (Instant, Pass<'_>),
        rows: &[Row<'_>],
        planned: &[Planned],
        outcomes: &mut [Outcome],
    ) {
        let mut rest = planned;
        let mut most = GROUP_WRITES;
        while !rest.is_empty() {
            let count = fitting(rows, rest, most);
            let (batch, later) = rest.split_at(count);
            let range = batch[0].rows.start..batch[count - 1].rows.end;
            match self.servers.write(deadline, pass, &rows[range]).await {
                Ok(()) => {
                    self.counters.batches.fetch_add(1, Ordering::Relaxed);
                    rest = later;
                }
                // A batch that is refused for its size or for one of its writes is halved, so that
                // what fails, fails alone.
                Err(Failure::TooLarge | Failure::Engine(_)) if count > 1 => most = count / 2,
                Err(Failure::Away) => {
                    // Their order would be lost if the later ones went on.
                    for write in rest {
                        outcomes[write.place] = Err(StoreError::Busy);
                    }
                    return;
                }
                Err(failure) => {
                    outcomes[batch[0].place] = Err(failure.into());
                    rest = later;
                }
            }
        }
    }

    async fn change_account(&self, queued: &Accepted, known: &mut Known) -> Outcome {
        let deadline = queued.since + self.write_wait;
        account::change(self, deadline, &queued.write, known).await
    }

    fn tally(&self, outcomes: &[Outcome]) {
        let c = &self.counters;
        for outcome in outcomes {
            let counter = match outcome {
                Ok(()) => &c.committed,
                Err(StoreError::NoAccount | StoreError::Exists | StoreError::Full(_)) => &c.refused,
                Err(
                    StoreError::Busy
                    | StoreError::Overtaken
                    | StoreError::Engine(_)
                    | StoreError::Closed,
                ) => &c.failed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        c.groups.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many of these writes make one batch: at least one.
fn fitting(rows: &[Row<'_>], planned: &[Planned], most: usize) -> usize {
    let (mut count, mut row_count, mut bytes) = (0, 0, 0);
    for write in planned.iter().take(most.max(1)) {
        row_count += write.rows.len();
        bytes += rows[write.rows.clone()]
            .iter()
            .map(|row| row.bytes)
            .sum::<usize>();
        if count > 0 && (row_count > GROUP_WRITES || bytes > GROUP_BYTES) {
            break;
        }
        count += 1;
    }
    count.max(1)
}

/// Needs no account ([`Write::MapPut`] for a domain).
fn is_of_a_domain(write: &Write) -> bool {
    matches!(write, Write::MapPut { owner, .. } if Jid::local(owner).is_none())
}

/// Whether what became of a write is unknown.
pub(super) fn is_fault(outcome: &Outcome) -> bool {
    matches!(outcome, Err(StoreError::Busy | StoreError::Engine(_)))
}
