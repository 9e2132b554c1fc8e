//! Puts a digest of the Rust sources into the library, so that a stale one is noticed.
//!
//! The digest: SHA-256 over every `.rs`, `.toml` and `.sql` file below `rust/` (fuzz targets, tests
//! and examples left out) by sorted path, each as path, NUL, content, NUL.

use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

const LEFT_OUT: [&str; 4] = ["fuzz", "tests", "examples", "target"];

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if !LEFT_OUT.contains(&name) {
                collect(&path, files);
            }
        } else if matches!(
            path.extension().and_then(|e| e.to_str()),
            Some("rs" | "toml" | "sql")
        ) {
            files.push(path);
        }
    }
}

fn main() {
    let root = Path::new("..");
    let mut files = Vec::new();
    collect(root, &mut files);
    let mut named: Vec<(String, PathBuf)> = files
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(root).ok()?.to_str()?.replace('\\', "/");
            Some((name, path))
        })
        .collect();
    named.sort();
    let mut digest = Sha256::new();
    for (name, path) in &named {
        digest.update(name.as_bytes());
        digest.update([0]);
        digest.update(fs::read(path).unwrap_or_default());
        digest.update([0]);
    }
    let text: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo::rustc-env=ANTIPHON_DIGEST={text}");
    println!("cargo::rerun-if-changed=..");
}
