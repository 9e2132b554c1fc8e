//! The archives as the simulation has them: rows with ids, and range deletes that kill what lands
//! late.

use antiphon_routing::archive::ArchiveId;
use std::collections::BTreeMap;

/// A user; his shard has the same number.
pub(super) type User = u16;
/// A message: from, to, number.
pub(super) type Origin = (User, User, u32);

/// A row of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: ArchiveId,
    pub(super) origin: Origin,
}

#[derive(Debug, Default)]
struct Archive {
    rows: Vec<(Row, u64)>,
    newest: ArchiveId,
    /// Above the first and below the second nothing written before the second lives.
    killed: Vec<(ArchiveId, ArchiveId)>,
}

/// All archives.
#[derive(Debug, Default)]
pub(super) struct Store {
    archives: BTreeMap<User, Archive>,
    /// Rows that landed dead.
    pub(super) dead: u64,
}

impl Store {
    /// A write lands. An error names what must never be.
    pub(super) fn land(&mut self, now: u64, user: User, row: Row) -> Result<(), String> {
        let archive = self.archives.entry(user).or_default();
        if archive
            .killed
            .iter()
            .any(|(above, below)| row.id > *above && row.id < *below)
        {
            self.dead += 1;
            return Ok(());
        }
        if archive.rows.iter().any(|(one, _)| one.origin == row.origin) {
            return Err(format!("K1 doubled: {:?} of {user}", row.origin));
        }
        if row.id <= archive.newest {
            return Err(format!(
                "K5 ids go back: {:?} behind {:?} in the archive of {user}",
                row.id, archive.newest
            ));
        }
        let pair = (row.origin.0, row.origin.1);
        let mut of_pair = archive.rows.iter().map(|(one, _)| one.origin);
        if of_pair.any(|o| (o.0, o.1) == pair && o.2 > row.origin.2) {
            return Err(format!("K4 reordered: {:?} of {user}", row.origin));
        }
        archive.newest = row.id;
        archive.rows.push((row, now));
        Ok(())
    }

    /// What a new owner starts above: the newest row, and the mark of the last who killed late
    /// writes, whose delete would kill rows below it as well.
    pub(super) fn newest(&self, user: User) -> ArchiveId {
        let Some(archive) = self.archives.get(&user) else {
            return ArchiveId(0);
        };
        let marks = archive.killed.iter().map(|(_, below)| *below);
        marks.fold(archive.newest, ArchiveId::max)
    }

    /// Kills what lands late.
    pub(super) fn kill(&mut self, user: User, above: ArchiveId, below: ArchiveId) {
        let archive = self.archives.entry(user).or_default();
        archive
            .rows
            .retain(|(row, _)| row.id <= above || row.id >= below);
        archive.killed.push((above, below));
    }

    pub(super) fn rows(&self, user: User) -> Vec<Row> {
        let archive = self.archives.get(&user);
        archive.map_or(Vec::new(), |a| a.rows.iter().map(|(row, _)| *row).collect())
    }

    /// When the row of a message landed that lives.
    pub(super) fn landed(&self, user: User, origin: Origin) -> Option<u64> {
        let archive = self.archives.get(&user)?;
        let found = archive.rows.iter().find(|(row, _)| row.origin == origin);
        found.map(|(_, at)| *at)
    }
}
