//! The deciding half of the crate has no socket, clock, thread or chance of its own: checked on its
//! sources, since the other half of the crate may use all of them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::{Path, PathBuf};

const PURE: [&str; 15] = [
    "agent", "codec", "fence", "holdings", "id", "map", "member", "parking", "planner", "planted",
    "rebuild", "relay", "router", "sim", "talk",
];
const IMPURE: [&str; 13] = [
    "tokio",
    "tonic",
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "Instant",
    "SystemTime",
    "rand::",
    "HashMap",
    "HashSet",
    "parking_lot",
    "crate::etcd",
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        found.push(path.into());
    }
}

#[test]
fn the_deciding_modules_use_no_socket_clock_thread_or_random_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for module in PURE {
        sources(&root.join(module), &mut found);
        found.push(root.join(format!("{module}.rs")));
    }
    found.retain(|path| path.is_file());
    assert!(found.len() >= PURE.len());
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        // `parking_lot` is not `crate::parking`, and words of comments do not count.
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        for (at, line) in code.enumerate() {
            for word in IMPURE {
                assert!(
                    !line.contains(word),
                    "{}: {at}: {word}: {line}",
                    path.display()
                );
            }
        }
    }
}
