//! What goes wrong, for operators and for callers.

use antiphon_routing::store::StoreError;
use rusqlite::ErrorCode;
use std::path::PathBuf;

/// Why a store cannot be opened: one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made or written.
    #[error("{}: {reason}; data_dir must be a directory that this user may write", path.display())]
    Directory {
        /// Which directory or file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Another engine has the directory.
    #[error("{} is in use by {holder}: stop it, or give each node its own data_dir", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Who, as far as known.
        holder: String,
    },
    /// Another program has the file locked.
    #[error("{} is locked by another program (a database shell?): close it and start again", path.display())]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// It is not ours.
    #[error("{} is not a database of antiphon: move it away or correct data_dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "{} has schema version {found} and this antiphon knows none above {known}: \
         start the newer antiphon that wrote it, or restore a backup from before",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A migration failed; nothing of it is kept.
    #[error("{}: migration {version} failed and was undone: {reason}", path.display())]
    Migration {
        /// The database.
        path: PathBuf,
        /// Which.
        version: u32,
        /// What SQLite said.
        reason: String,
    },
    /// SQLite cannot work with the file.
    #[error("{}: {reason}", path.display())]
    Engine {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The system has no thread to give.
    #[error("cannot start a storage thread: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
}

/// What SQLite said, with its code: many of its texts alone say little.
pub(super) fn describe(error: &rusqlite::Error) -> String {
    match error.sqlite_error() {
        Some(inner) if inner.code == ErrorCode::DiskFull => format!(
            "no room on the disk of data_dir ({error}): free some, and what runs goes on by itself"
        ),
        Some(inner) => format!("{error} (SQLite code {})", inner.extended_code),
        None => error.to_string(),
    }
}

/// The caller's view of an error of SQLite.
pub(super) fn to_store_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        // Only a foreign program can hold the file, and only for a while.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        _ => StoreError::Engine(describe(error)),
    }
}
