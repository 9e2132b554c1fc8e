//! The same for archives: what was acknowledged is in both archives, once and in order, can be
//! found, and is known again if it is sent again.

use super::{Crash, DIRECTORY, IN_FLIGHT, USERS, user};
use crate::contract::archive::{at, keep, message};
use crate::contract::{PATIENCE, create, record, wait};
use antiphon_routing::archive::{ArchiveFilter, ArchiveId, RECENT_MAX};
use antiphon_routing::store::Store;
use antiphon_store::SqliteConfig;
use antiphon_store::sqlite::Sqlite;
use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Who writes message `n`, and to whom.
fn sides(n: usize) -> (usize, usize) {
    (n % USERS, (n + 1 + n / USERS % (USERS - 1)) % USERS)
}

/// The child: numbered messages for ever, each into two archives.
#[test]
#[ignore = "run by the other tests as their child process"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = Sqlite::open(SqliteConfig::new(PathBuf::from(directory))).expect("opened");
    for n in 0..USERS {
        create(&store, user(n).as_str());
    }
    let (told, tell) = channel();
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        if number >= IN_FLIGHT {
            let acknowledged: usize = tell.recv().unwrap();
            writeln!(out, "ack {acknowledged}").unwrap();
        }
        let (from, to) = sides(number);
        let body = format!("common word{number} {}", "x".repeat(number * 37 % 700));
        let (from, to) = (user(from), user(to));
        for (owner, is_last) in [(&from, false), (&to, true)] {
            let record = message(owner, from.as_str(), to.as_str(), number as u64, &body);
            let told = told.clone();
            store.write(
                keep(owner, record),
                Box::new(move |outcome| {
                    outcome.expect("committed");
                    if is_last {
                        let _ = told.send(number);
                    }
                }),
            );
        }
    }
}

/// The numbers of a user's messages, which are in order, that a filter finds.
fn numbers(store: &Sqlite, n: usize, text: Option<&str>) -> Vec<u64> {
    let begin = Instant::now();
    let mut filter = ArchiveFilter {
        text: text.map(str::to_owned),
        ..ArchiveFilter::default()
    };
    let mut found = Vec::new();
    loop {
        let page = wait(store.archive_page(&user(n), filter.clone(), false, 1000)).unwrap();
        if page.is_unstable {
            assert!(begin.elapsed() < PATIENCE, "the index stays behind");
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        for message in &page.messages {
            let number = (message.id.ms() - at(0).ms()) / 1000;
            let text = std::str::from_utf8(&message.stanza).unwrap();
            assert!(text.contains(&format!("common word{number} ")), "{text}");
            let (from, to) = sides(number as usize);
            assert!(n == from || n == to);
            found.push(number);
        }
        filter.after = page.messages.last().map(|message| message.id);
        if page.is_complete {
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
            return found;
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_of_its_archives() {
    for (round, acknowledged) in [1, 900, 4000, 12_000].into_iter().enumerate() {
        let mut crash = Crash::start(&format!("archive{round}"), "crash::archive::child");
        let mut count = 0;
        crash.follow(|line| {
            count += usize::from(line.starts_with("ack "));
            count >= acknowledged
        });
        crash.kill();
        let config = SqliteConfig {
            clock: Arc::new(|| at(0).ms()),
            ..SqliteConfig::new(&crash.directory)
        };
        let store = Sqlite::open(config).expect("opened after the kill");
        for n in 0..USERS {
            let stored = numbers(&store, n, None);
            let set: HashSet<u64> = stored.iter().copied().collect();
            let is_mine = |number: &u64| {
                let (from, to) = sides(*number as usize);
                n == from || n == to
            };
            let mut acknowledged = crash.acknowledged.iter().filter(|number| is_mine(number));
            assert!(acknowledged.all(|number| set.contains(number)));
            assert!(stored.len() <= crash.acknowledged.len() + 2 * IN_FLIGHT);
            // The index has what the archive has.
            assert_eq!(numbers(&store, n, Some("common")), stored);
            let newest = stored.iter().map(|number| at(*number)).max();
            let state = record(&store, &user(n)).archive;
            assert_eq!(Some(state.newest), newest.or(Some(ArchiveId(0))));
            // The newest that he sent can be known again.
            let sent = stored
                .iter()
                .filter(|number| sides(**number as usize).0 == n);
            let mut sent: Vec<ArchiveId> = sent.rev().map(|number| at(*number)).collect();
            sent.truncate(RECENT_MAX);
            sent.reverse();
            let recent: Vec<ArchiveId> = state.recent.iter().map(|recent| recent.id).collect();
            assert_eq!(recent, sent);
        }
        store.close();
    }
}
