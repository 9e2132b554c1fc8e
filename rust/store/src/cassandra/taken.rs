//! Archives that come from a home that died: what it had on its way here lands dead.
//!
//! Cassandra takes whatever reaches it, however late: from a process that was paused, from a queue of
//! the driver, from another server's hints. So the next home begins its ids above all that the former
//! one can have given, and deletes what lies between the newest message and its own beginning, with a
//! timestamp above all that the former one can have used. A row of a conversation (`archive_peer`)
//! cannot be deleted by its id; which ids are dead is kept, and whoever reads those rows without the
//! messages passes over them.

use super::archives::{bucket_of, buckets};
use super::clock::system_us;
use super::engine::Engine;
use super::error::Failure;
use super::gate::Pass;
use super::servers::{Row, Servers};
use super::{from_cql, to_cql};
use antiphon_routing::archive::ArchiveId;
use std::ops::ControlFlow;
use tokio::time::Instant;

/// How far the clocks of two processes of one cluster may be apart, twice, µs: a former home's next
/// timestamp is at most this far above the newest that it left.
const HEAD_START_US: i64 = 1_000_000;

/// Parts of an archive that are remembered as dead: one for each death of a home behind which a
/// message was written. The oldest goes when there are more, with what is found in it.
const PARTS: usize = 64;

/// Rows of one batch.
const ROWS: usize = 100;

/// No message above the first and up to the second lives.
pub(super) type Dead = (u64, u64);

/// What became of an archive's former home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It ended in order, or was this process.
    Ended,
    /// It may have died with acknowledgements unsent.
    Unknown,
    /// It died, at this epoch of the map; ids from here on are ours.
    Died { epoch: u64, from: ArchiveId },
}

/// Whether a message with this id lies in a part that is dead.
pub(super) fn is_dead(dead: &[Dead], id: u64) -> bool {
    let at = dead.partition_point(|(_, upto)| *upto < id);
    dead.get(at).is_some_and(|(above, _)| *above < id)
}

/// Reads the column `dead`; what is behind the pairs, [`begun`] reads.
pub(super) fn dead_value(column: &[i64]) -> Vec<Dead> {
    let pairs = column.chunks_exact(2);
    pairs
        .map(|pair| (from_cql(pair[0]), from_cql(pair[1])))
        .collect()
}

/// The epoch behind the pairs: of the latest home that began to take the owner up.
fn begun(column: &[i64]) -> u64 {
    let odd = column.len() % 2 == 1;
    column.last().filter(|_| odd).map_or(0, |e| from_cql(*e))
}

/// The column `dead`, as a home of this epoch writes it.
fn dead_column(dead: &[Dead], epoch: u64) -> Vec<i64> {
    let pairs = dead.iter();
    pairs
        .flat_map(|(above, upto)| [to_cql(*above), to_cql(*upto)])
        .chain([to_cql(epoch)])
        .collect()
}

/// Whether a home of a later epoch than this one has begun to take the owner up. If not, it will find
/// all that is committed by now: it says so before it looks.
pub(super) async fn is_overtaken(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    epoch: u64,
) -> Result<bool, Failure> {
    Ok(Mark::read(servers, deadline, owner).await?.begun > epoch)
}

/// The parts of an archive that are dead.
pub(super) async fn dead(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<Vec<Dead>, Failure> {
    Ok(Mark::read(servers, deadline, owner).await?.dead)
}

/// What earlier ones left.
#[derive(Debug, Default)]
struct Mark {
    epoch: u64,
    begun: u64,
    dead: Vec<Dead>,
    flushed: u64,
    /// When the inbox was written, and this.
    flushed_us: i64,
    taken_us: i64,
}

impl Mark {
    async fn read(servers: &Servers, deadline: Instant, owner: &str) -> Result<Self, Failure> {
        type Columns = (
            Option<i64>,
            Option<Vec<i64>>,
            Option<i64>,
            Option<i64>,
            Option<i64>,
        );
        let statement = &servers.statements.inbox_taken;
        let rows = servers.rows(deadline, statement, (owner,)).await?;
        let row: Option<Columns> = rows.maybe_first_row().map_err(Failure::answer)?;
        let Some((epoch, dead, flushed, flushed_us, dead_us)) = row else {
            return Ok(Self::default());
        };
        Ok(Self {
            epoch: epoch.map_or(0, from_cql),
            begun: dead.as_deref().map_or(0, begun),
            dead: dead.as_deref().map(dead_value).unwrap_or_default(),
            flushed: flushed.map_or(0, from_cql),
            flushed_us: flushed_us.unwrap_or(0),
            taken_us: dead_us.unwrap_or(0),
        })
    }

    /// The part that is dead from now on: above everything that lives, and up to the beginning of
    /// this home. Behind a death without a message since, one part takes the place of two, so that
    /// what landed in the former is not taken for alive.
    fn part(&mut self, newest: u64, from: u64) -> Dead {
        let newest = newest.max(self.flushed);
        let last = self.dead.pop_if(|(_, upto)| newest <= *upto);
        let above = last.map_or(newest, |(above, _)| above);
        let beyond = last.map_or(newest, |(_, upto)| upto.max(newest));
        let part = (above, from.max(beyond + 1));
        self.dead.push(part);
        part
    }

    /// A timestamp above all that a former home can have used. All that is written here from now on
    /// has a later one.
    fn timestamp(&self, servers: &Servers, upto: u64, written_us: i64) -> i64 {
        let beginning = to_cql(ArchiveId(upto).ms()).saturating_mul(1000);
        let messages = written_us
            .max(self.flushed_us)
            .saturating_add(HEAD_START_US);
        // Bounded, since one that breaks off again and again must not go on into the future.
        let taken = (self.taken_us + HEAD_START_US).min(system_us() + 2 * HEAD_START_US);
        let at = beginning.max(messages).max(taken);
        let at = at.max(servers.clock.next());
        servers.clock.observe(at);
        // Less, where it lies so far ahead that the clock does not believe it.
        at.min(servers.clock.next() - 1)
    }
}

/// The newest message, and when it was written.
async fn newest(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    months: &[i32],
) -> Result<(u64, i64), Failure> {
    for month in months.iter().rev() {
        let statement = &servers.statements.archive_newest;
        let rows = servers.rows(deadline, statement, (owner, *month)).await?;
        let row: Option<(i64, Option<i64>)> = rows.maybe_first_row().map_err(Failure::answer)?;
        if let Some((id, written)) = row {
            return Ok((from_cql(id), written.unwrap_or(0)));
        }
    }
    Ok((0, 0))
}

/// Offline messages: all as number and id in the archive.
async fn waiting(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<Vec<(i64, Option<u64>)>, Failure> {
    type Waiting = (i64, Option<i64>, Option<i64>);
    let mut waiting = Vec::new();
    let statement = &servers.statements.offline_archived;
    servers
        .pages(deadline, statement, (owner,), |rows| {
            for row in rows.rows::<Waiting>().map_err(Failure::answer)? {
                let (number, archived, _) = row.map_err(Failure::answer)?;
                waiting.push((number, archived.map(from_cql)));
            }
            Ok(ControlFlow::Continue(()))
        })
        .await?;
    Ok(waiting)
}

/// Deletes what a home that died at this epoch had on its way to the archive of an owner and to his
/// offline messages, unless that was done; how many of the latter were there. Behind [`begin`]. It
/// ends whole: without its last step, the next one who takes the archive up does all of it again.
///
/// # Errors
/// The servers are away, or the owner is another's by now.
pub(super) async fn bury(
    engine: &Engine,
    deadline: Instant,
    owner: &str,
    (epoch, from): (u64, ArchiveId),
) -> Result<u64, Failure> {
    let servers = &engine.servers;
    let time = servers.gate.time(owner);
    let mark = Mark::read(servers, deadline, owner);
    let months = buckets(servers, deadline, owner);
    let waiting = waiting(servers, deadline, owner);
    let (mut mark, months, waiting) = tokio::try_join!(mark, months, waiting)?;
    if mark.epoch >= epoch {
        return Ok(0);
    }
    let (newest, written_us) = newest(servers, deadline, owner, &months).await?;
    let part = mark.part(newest, from.0);
    let burial = Burial {
        engine,
        deadline,
        owner,
        pass: Pass::Of(owner, time),
        part,
        at_us: mark.timestamp(servers, part.1, written_us),
    };
    burial.forget(&mut mark.dead, &months).await?;
    let column = dead_column(&mark.dead, epoch);
    let bytes = owner.len() + 8 * column.len();
    let values = (servers.clock.next(), column, owner);
    let row = Row::new(&servers.statements.inbox_dead_put, values, bytes);
    // The mark comes first: nobody begins below a delete that there is.
    let mut rows = vec![row];
    rows.extend(burial.months());
    let (offline, orphans) = burial.offline(&waiting);
    rows.extend(offline);
    burial.write(&rows).await?;
    burial.messages().await?;
    let values = (servers.clock.next(), to_cql(epoch), owner);
    burial
        .write(&[Row::new(&servers.statements.inbox_taken_put, values, 0)])
        .await?;
    Ok(orphans)
}

/// Says that a home of this epoch takes the owner up, before it looks what is there: a former one
/// that goes on without etcd then knows that it may acknowledge no more ([`is_overtaken`]). Whether
/// that was not done yet: what was read before must be read again.
///
/// # Errors
/// The servers are away, or the owner is another's by now.
pub(super) async fn begin(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    epoch: u64,
) -> Result<bool, Failure> {
    let pass = Pass::Of(owner, servers.gate.time(owner));
    let mark = Mark::read(servers, deadline, owner).await?;
    if mark.epoch >= epoch {
        return Ok(false);
    }
    let at_us = servers.clock.next().max(mark.taken_us + 1);
    let values = (at_us, dead_column(&mark.dead, epoch), owner);
    let row = Row::new(&servers.statements.inbox_dead_put, values, owner.len());
    servers.write(deadline, pass, &[row]).await?;
    Ok(true)
}

/// The deletes of one owner.
struct Burial<'a> {
    engine: &'a Engine,
    deadline: Instant,
    owner: &'a str,
    pass: Pass<'a>,
    part: Dead,
    at_us: i64,
}

impl Burial<'_> {
    async fn write(&self, rows: &[Row<'_>]) -> Result<(), Failure> {
        for batch in rows.chunks(ROWS) {
            let servers = &self.engine.servers;
            servers.write(self.deadline, self.pass, batch).await?;
        }
        Ok(())
    }

    /// In the month of the newest message, and in that of this home's first. What lies between has no
    /// message, and what lands there is not found: see [`Burial::months`].
    async fn messages(&self) -> Result<(), Failure> {
        let (above, upto) = self.part;
        let mut months = vec![bucket_of(upto)];
        if above > 0 && bucket_of(above) != months[0] {
            months.push(bucket_of(above));
        }
        let statement = &self.engine.servers.statements.archive_bury;
        for month in months {
            let (above, upto) = (to_cql(above), to_cql(upto));
            let values = (self.at_us, self.owner, month, above, upto);
            self.write(&[Row::new(statement, values, self.owner.len())])
                .await?;
        }
        Ok(())
    }

    fn months(&self) -> Option<Row<'_>> {
        let (above, upto) = (bucket_of(self.part.0), bucket_of(self.part.1));
        let values = (self.at_us, self.owner, above, upto);
        let statement = &self.engine.servers.statements.buckets_bury;
        (above + 1 < upto).then(|| Row::new(statement, values, self.owner.len()))
    }

    /// Offline messages whose message is dead, and those that are still on their way: their numbers
    /// are timestamps. And how many of the former there are.
    fn offline(&self, waiting: &[(i64, Option<u64>)]) -> (Vec<Row<'_>>, u64) {
        let statements = &self.engine.servers.statements;
        let part = [self.part];
        let is_orphan = |id: &Option<u64>| id.is_some_and(|id| is_dead(&part, id));
        let orphans = waiting.iter().filter(|(_, id)| is_orphan(id));
        let mut rows: Vec<Row<'_>> = orphans
            .map(|(number, _)| {
                let values = (self.at_us, self.owner, *number);
                Row::new(&statements.offline_delete, values, self.owner.len())
            })
            .collect();
        let count = rows.len() as u64;
        let newest = waiting.last().map_or(0, |(number, _)| *number);
        if newest < self.at_us {
            let values = (self.at_us, self.owner, newest, self.at_us);
            rows.push(Row::new(&statements.offline_bury, values, self.owner.len()));
        }
        (rows, count)
    }

    /// Takes out of the dead parts what need not be remembered: of months that are gone, and the
    /// oldest where there are too many, with the rows in it.
    async fn forget(&self, dead: &mut Vec<Dead>, months: &[i32]) -> Result<(), Failure> {
        let last = dead.len().saturating_sub(1);
        let first_month = months.first().copied().unwrap_or(i32::MAX);
        let mut at = 0;
        dead.retain(|(_, upto)| {
            at += 1;
            at > last || bucket_of(*upto) >= first_month
        });
        while dead.len() > PARTS {
            let oldest = dead.remove(0);
            let (first, last) = (bucket_of(oldest.0), bucket_of(oldest.1));
            for month in months
                .iter()
                .filter(|month| (first..=last).contains(*month))
            {
                self.sweep(*month, oldest).await?;
            }
        }
        Ok(())
    }

    /// Deletes the rows of conversations that name dead messages.
    async fn sweep(&self, month: i32, part: Dead) -> Result<(), Failure> {
        let servers = &self.engine.servers;
        let mut found: Vec<(String, i64)> = Vec::new();
        let statement = &servers.statements.month_peers;
        servers
            .pages(self.deadline, statement, (self.owner, month), |rows| {
                for row in rows.rows::<(&str, i64)>().map_err(Failure::answer)? {
                    let (peer, id) = row.map_err(Failure::answer)?;
                    if is_dead(&[part], from_cql(id)) {
                        found.push((peer.to_owned(), id));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        let rows: Vec<Row<'_>> = found
            .iter()
            .map(|(peer, id)| {
                let values = (self.at_us, self.owner, month, peer.as_str(), *id);
                Row::new(&servers.statements.peer_delete, values, peer.len())
            })
            .collect();
        self.write(&rows).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dead_has_its_upper_end_and_not_its_lower() {
        let dead = [(10, 20), (30, 40)];
        let found: Vec<u64> = (0..50).filter(|id| is_dead(&dead, *id)).collect();
        let expected: Vec<u64> = (11..=20).chain(31..=40).collect();
        assert_eq!(found, expected);
        assert!(!is_dead(&[], 1));
        assert_eq!(dead_value(&dead_column(&dead, 7)), dead);
        assert_eq!(begun(&dead_column(&dead, 7)), 7);
        assert_eq!(begun(&dead_column(&[], 8)), 8);
        assert_eq!(begun(&[1, 2]), 0);
        assert_eq!(dead_value(&[1, 2, 3]), [(1, 2)]);
    }

    #[test]
    fn a_home_begins_above_everything_that_was_and_the_beginnings_before() {
        let mut mark = Mark::default();
        assert_eq!(mark.part(0, 100), (0, 100));
        // It died before it wrote; the next one's clock is behind.
        assert_eq!(mark.part(0, 60), (0, 101));
        // Something landed in what is dead, since the delete did not come to its end.
        assert_eq!(mark.part(50, 200), (0, 200));
        mark.flushed = 200;
        assert_eq!(mark.part(0, 210), (0, 210));
        // Then one wrote, with a clock ahead of that of the next.
        assert_eq!(mark.part(300, 250), (300, 301));
        assert_eq!(mark.dead, [(0, 210), (300, 301)]);
    }
}
