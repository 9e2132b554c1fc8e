//! What archive, inbox and search cost in the SQLite engine.
//!
//! `cargo run --release -p antiphon-store --example bench_archive [-- MESSAGES [USERS [DIRECTORY
//! [TEXTS]]]]`
//!
//! Writes so many messages (default 1,000,000) of 100 bytes of text between 10,000 users, of whom
//! one has a tenth of all, each into both archives with inbox and index; then reads. TEXTS as of
//! `fill_archive`; without it, of words that are made. CPU is of the whole process.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

mod archive;

use antiphon_store::{Sqlite, SqliteConfig};
use archive::questions::Bench;
use archive::world::{Texts, World, accounts};
use std::path::Path;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| {
        let text = arguments.get(at);
        text.map_or(default, |text| text.parse().unwrap())
    };
    let (messages, count) = (number(0, 1_000_000), number(1, 10_000));
    let base = arguments.get(2).map_or_else(std::env::temp_dir, Into::into);
    let directory = base.join(format!("antiphon-bench-archive-{}", std::process::id()));
    let texts = arguments
        .get(3)
        .map_or_else(Texts::made, |path| Texts::read(Path::new(path)));
    let store = Sqlite::open(SqliteConfig::new(&directory)).unwrap();
    let world = World::new(count, |n| format!("user{n:05}@bench.example"), texts);
    accounts(&store, &world.users);
    let bench = Bench {
        store: &store,
        world: &world,
        server: None,
    };
    bench.fill(messages, || {
        while store.stats().search_behind > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let stats = store.stats();
    println!(
        "           {:.0} writes a commit",
        stats.committed as f64 / stats.commits as f64
    );
    sizes(&directory, messages);
    bench.paced(messages);
    bench.pages();
    bench.searches();
    bench.inbox();
    drop(store);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn sizes(directory: &Path, messages: usize) {
    let size = |name: &str| {
        let path = directory.join(name);
        std::fs::metadata(path).map_or(0, |meta| meta.len()) as f64 / messages as f64
    };
    println!(
        "size       {:.0} bytes a message: archive {:.0}, index {:.0} (logs {:.0})",
        size("antiphon.db") + size("search.db"),
        size("antiphon.db"),
        size("search.db"),
        size("antiphon.db-wal") + size("search.db-wal"),
    );
}
