//! What of whose rows goes to the store of a cluster, told to a file (`cluster.write_log`): a proof of
//! the fencing for tests, which look through the files of all nodes.
//!
//! A line of JSON each: `us` (the time, µs since 1970), `life` (the incarnation), `since` (the epoch at
//! which it got the shard), `shard`, `owner`, and `ids` of messages that are about to be sent, or none
//! where rows are handed to the driver. A line is in the file before the call returns, so that of a
//! process that is killed none is missing.

use crate::live::ConfigError;
use crate::mesh::Mesh;
use antiphon_routing::home::shard_of;
use antiphon_store::cassandra::Witness;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

/// Tells this file.
///
/// # Errors
/// [`ConfigError::Cluster`]: it cannot be opened.
pub(crate) fn into(path: &Path, mesh: Weak<Mesh>) -> Result<Witness, ConfigError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file
        .map_err(|e| ConfigError::Cluster(format!("cluster.write_log {}: {e}", path.display())))?;
    Ok(Arc::new(move |owner: &str, since: u64, ids: &[u64]| {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let line = json!({
            "us": u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX),
            "life": mesh.upgrade().map_or(0, |mesh| mesh.me()),
            "since": since,
            "shard": shard_of(owner),
            "owner": owner,
            "ids": ids,
        });
        // A full disk must not stop the node: the proof is not worth that.
        let _ = (&file).write_all(format!("{line}\n").as_bytes());
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_a_line_behind_those_that_are_there() {
        let folder = std::env::temp_dir().join(format!("antiphon-witness-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("writes");
        for ids in [&[][..], &[7, 8]] {
            let witness = into(&path, Weak::new()).unwrap();
            witness("a@b.example", 3, ids);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["since"], &lines[0]["owner"]),
            (&json!(3), &json!("a@b.example"))
        );
        assert_eq!(lines[1]["ids"], json!([7, 8]));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(into(&path, Weak::new()).is_err());
    }
}
