//! Copies the write-ahead log into the file, beside the commits.
//!
//! Left alone SQLite does it within a commit, which then takes tens of milliseconds, and all that
//! wait for it. Here a thread copies most of the log while the writer goes on writing it; the
//! writer itself copies the little that came meanwhile, since only a log that is copied whole
//! begins anew.

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

/// Pages of the log after which they are copied: 16 MiB. Fewer would copy (and sync) more often,
/// more would make a longer log to be read after a crash.
const PAGES: i64 = 4000;

/// Pages that the writer copies itself: 8 MiB, about what one large commit writes.
const REST: i64 = 2000;

/// Pages of the log above which the writer copies it itself, however long that takes: 256 MiB.
const MOST: i64 = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// Nothing to do.
    #[default]
    Idle,
    /// The thread is to copy, or copies.
    Asked,
    /// It has copied what there was; the rest is the writer's.
    Copied,
    /// The end.
    Closed,
}

/// Between the writer and the thread that copies.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    phase: Mutex<Phase>,
    changed: Condvar,
}

impl Checkpoint {
    /// After a commit: sees to it that the log is copied in time. Errors are the next commit's.
    pub(super) fn committed(&self, db: &Connection) {
        let Ok((log, copied)) = progress(db, "PRAGMA wal_checkpoint(NOOP)") else {
            return;
        };
        let rest = log - copied;
        let phase = *self.phase.lock();
        let is_small = rest <= REST && phase == Phase::Copied;
        if is_small || log > MOST {
            let _ = progress(db, "PRAGMA wal_checkpoint(PASSIVE)");
        }
        let mut phase = self.phase.lock();
        match *phase {
            Phase::Copied if is_small => *phase = Phase::Idle,
            Phase::Idle if rest > PAGES => *phase = Phase::Asked,
            // More came than the writer is to copy.
            Phase::Copied => *phase = Phase::Asked,
            _ => return,
        }
        drop(phase);
        self.changed.notify_one();
    }

    /// The thread ends after what it is doing.
    pub(super) fn close(&self) {
        *self.phase.lock() = Phase::Closed;
        self.changed.notify_one();
    }

    /// What the thread does until the end.
    pub(super) fn serve(&self, db: &Connection) {
        loop {
            {
                let mut phase = self.phase.lock();
                while !matches!(*phase, Phase::Asked | Phase::Closed) {
                    self.changed.wait(&mut phase);
                }
                if *phase == Phase::Closed {
                    return;
                }
            }
            // One that fails is tried again with a later commit.
            let _ = progress(db, "PRAGMA wal_checkpoint(PASSIVE)");
            let mut phase = self.phase.lock();
            if *phase == Phase::Asked {
                *phase = Phase::Copied;
            }
        }
    }
}

/// Runs a checkpoint; pages of the log, and how many of them are copied.
fn progress(db: &Connection, pragma: &str) -> rusqlite::Result<(i64, i64)> {
    db.prepare_cached(pragma)?
        .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}
