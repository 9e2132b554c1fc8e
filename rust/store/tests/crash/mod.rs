//! What a killed process and a failing disk leave behind: every acknowledged write, once and in
//! order.
//!
//! The writers are child processes: this same test binary, running one ignored test.

mod archive;

use crate::contract::{PATIENCE, create, jid, put, wait};
use antiphon_routing::store::{Store, StoreError, Write};
use antiphon_store::SqliteConfig;
use antiphon_store::sqlite::Sqlite;
use antiphon_xmpp::Jid;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Tells the child its directory.
const DIRECTORY: &str = "ANTIPHON_STORE_CRASH_DIRECTORY";

/// Users the child writes for, one message after another to each.
const USERS: usize = 5;

/// Writes the child keeps in flight.
const IN_FLIGHT: usize = 200;

fn user(n: usize) -> Jid {
    jid(&format!("user{n}@a.example"))
}

/// The child: numbered messages for ever. Prints a line for each that is acknowledged or failed.
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
            let (number, outcome): (usize, Result<(), StoreError>) = tell.recv().unwrap();
            let line = match outcome {
                Ok(()) => format!("ack {number}"),
                Err(error) => format!("error {number} {error}"),
            };
            writeln!(out, "{line}").unwrap();
            if line.starts_with("error") {
                // A disk that is full fails at once: do not spin.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let (owner, told) = (user(number % USERS), told.clone());
        // Of different sizes, so that pages and groups end anywhere.
        let stanza = format!("{number} {}", "x".repeat(number * 37 % 700))
            .into_bytes()
            .into();
        let write = Write::OfflineAppend {
            owner,
            at_ms: number as u64,
            stanza,
        };
        store.write(
            write,
            Box::new(move |outcome| drop(told.send((number, outcome)))),
        );
    }
}

/// The directory of a child and the child itself, gone with the test.
struct Crash {
    directory: PathBuf,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: HashSet<u64>,
}

impl Crash {
    /// Starts a child: the ignored test of this name.
    fn start(name: &str, child: &str) -> Self {
        let name = format!("antiphon-crash-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&directory);
        // A write above the limit of a file's size is to fail, not to kill.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' XFSZ; exec \"$0\" --ignored --exact \"$1\" --nocapture",
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(child)
            .env(DIRECTORY, &directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            directory,
            child,
            lines,
            acknowledged: HashSet::new(),
        }
    }

    /// Reads the child's lines until `enough`.
    fn follow(&mut self, mut enough: impl FnMut(&str) -> bool) {
        let begin = Instant::now();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("ack ") {
                self.acknowledged.insert(number.parse().unwrap());
            }
            if enough(&line) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the child stands still");
        }
        panic!("the child ended");
    }

    /// Kills the child and reads what it said before it died.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for line in self.lines.by_ref().map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("ack ").and_then(|n| n.parse().ok()) {
                self.acknowledged.insert(number);
            }
        }
    }

    /// Kills the child and checks what was acknowledged and what is stored, of each user.
    fn kill_and_check(mut self) {
        self.kill();
        let store =
            Sqlite::open(SqliteConfig::new(&self.directory)).expect("opened after the kill");
        let mut stored = HashSet::new();
        for n in 0..USERS {
            let (mut after, mut last) = (0, None);
            loop {
                let page = wait(store.offline(&user(n), after, 1000)).unwrap();
                let Some(end) = page.last() else { break };
                after = end.id;
                for record in page {
                    assert!(
                        Some(record.at_ms) > last,
                        "out of order or twice: {}",
                        record.at_ms
                    );
                    last = Some(record.at_ms);
                    assert_eq!(record.at_ms as usize % USERS, n);
                    let text = String::from_utf8(record.stanza.into()).unwrap();
                    assert!(text.starts_with(&format!("{} ", record.at_ms)));
                    stored.insert(record.at_ms);
                }
            }
        }
        let lost: Vec<_> = self.acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        assert!(stored.len() <= self.acknowledged.len() + 2 * IN_FLIGHT);
        // It goes on where it was.
        let write = Write::LastSeen {
            owner: user(0),
            at_ms: 1,
            status: String::new(),
        };
        put(&store, write).unwrap();
    }

    /// Sets the largest size a file of the child may have; `false`: no tool for it.
    fn limit_files(&self, bytes: &str) -> bool {
        let process = self.child.id().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        Command::new("prlimit")
            .args(["--pid", &process, &limit])
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Crash {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_killed_process_loses_nothing_it_has_acknowledged() {
    for (round, acknowledged) in [1, 700, 3000, 9000, 25_000].into_iter().enumerate() {
        let mut crash = Crash::start(&format!("kill{round}"), "crash::child");
        let mut count = 0;
        crash.follow(|line| {
            count += usize::from(line.starts_with("ack "));
            count >= acknowledged
        });
        crash.kill_and_check();
    }
}

#[test]
fn a_failing_disk_fails_writes_and_they_go_on_when_it_does() {
    let mut crash = Crash::start("disk", "crash::child");
    let mut count = 0;
    let mut hundred = |line: &str| {
        count += 1;
        line.starts_with("ack ") && count > 100
    };
    crash.follow(&mut hundred);
    // The log and the file soon meet it: SQLite gets an error for a write beyond.
    if !crash.limit_files("3000000") {
        eprintln!("skipped: there is no prlimit here to limit the size of a file");
        return;
    }
    let mut errors = 0;
    crash.follow(|line| {
        errors += usize::from(line.starts_with("error ") && line.contains("storage engine"));
        errors >= 300
    });
    assert!(crash.limit_files("unlimited"));
    let mut good = 0;
    crash.follow(|line| {
        good += usize::from(line.starts_with("ack "));
        good >= 5000
    });
    crash.kill_and_check();
}
