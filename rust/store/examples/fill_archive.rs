//! Fills archives, inboxes and the index of a store that a node will serve, for `make bench`.
//!
//! `fill_archive sqlite DATA_DIR MESSAGES USERS TEXTS` or
//! `fill_archive cassandra HOST:PORT KEYSPACE MESSAGES USERS TEXTS`
//!
//! Accounts are u0, u1 … of `localhost`; a tenth of all messages is u0's, with 500 others. TEXTS is
//! a file of words, the commonest first, of which texts of 100 bytes are made, or a folder of `.md`
//! files, whose sentences they are. Prints one line of JSON: `messages`, `seconds` until the index
//! was done, `cpu_s` of this process.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

mod archive;

use antiphon_routing::store::Store;
use antiphon_store::{Cassandra, CassandraConfig, Sqlite, SqliteConfig};
use archive::questions::IN_FLIGHT;
use archive::world::{Dice, Texts, World, accounts, cpu};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["sqlite", directory, messages, users, texts] => {
            let store = Sqlite::open(SqliteConfig::new(directory)).unwrap();
            let world = world(users, texts);
            fill(&world, &store, messages, || store.stats().search_behind > 0);
            store.close();
        }
        ["cassandra", point, keyspace, messages, users, texts] => {
            let config = CassandraConfig::new(vec![point.to_owned()], keyspace);
            let store = Cassandra::open(config).unwrap();
            let world = world(users, texts);
            // The first one is there.
            accounts(&store, &world.users[1..]);
            fill(&world, &store, messages, || false);
            store.close();
        }
        _ => {
            eprintln!("fill_archive: see the head of examples/fill_archive.rs for the arguments");
            std::process::exit(2);
        }
    }
}

fn world(users: &str, texts: &str) -> World {
    let texts = Texts::read(Path::new(texts));
    World::new(users.parse().unwrap(), |n| format!("u{n}@localhost"), texts)
}

fn fill(world: &World, store: &impl Store, messages: &str, is_behind: impl Fn() -> bool) {
    let messages: u64 = messages.parse().unwrap();
    let mut dice = Dice(1);
    let begin = Instant::now();
    let (told, tell) = channel();
    for n in 0..messages {
        if n >= IN_FLIGHT {
            tell.recv().unwrap();
        }
        world.put(store, world.make(&mut dice, n), &told);
    }
    for _ in 0..messages.min(IN_FLIGHT) {
        tell.recv().unwrap();
    }
    while is_behind() {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!(
        "{{\"messages\": {messages}, \"seconds\": {:.1}, \"cpu_s\": {:.2}}}",
        begin.elapsed().as_secs_f64(),
        cpu(None).as_secs_f64()
    );
}
