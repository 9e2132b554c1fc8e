//! How many offline messages a second the SQLite engine commits, at what cost and delay.
//!
//! `cargo run --release -p antiphon-store --example bench_store [-- [--tsv] SECONDS [DIRECTORY]]`
//!
//! One line a load (so many writes in flight, or so many a second offered): rows/s, CPU µs per row
//! (all threads of this process, the load included), rows per commit, and the delay of an
//! acknowledgement. With `--tsv`, as `make micro` reads it: what, CPU ns a row, rows/s.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use antiphon_routing::store::{Done, Store, Write};
use antiphon_store::{Sqlite, SqliteConfig};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Recipients: more than the writer remembers would be slower, fewer would share pages.
const USERS: usize = 5000;

/// A chat message with a sentence.
const STANZA: usize = 300;

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_tsv = arguments.next_if_eq("--tsv").is_some();
    let seconds: f64 = arguments.next().map_or(3.0, |text| text.parse().unwrap());
    let base = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let mut loads = vec![Load::PerSecond(1000)];
    loads.extend([1, 10, 100, 512, 1000, 4000].map(Load::InFlight));
    if is_tsv {
        loads = [1, 10, 100, 1000].map(Load::InFlight).to_vec();
    } else {
        println!("     load     rows/s  CPU µs/row  rows/commit   ack ms p50    p99    max");
    }
    for load in loads {
        let directory = base.join(format!("antiphon-bench-{}", std::process::id()));
        let figures = run(&directory, load, Duration::from_secs_f64(seconds));
        std::fs::remove_dir_all(&directory).unwrap();
        if is_tsv {
            figures.print_tsv(load);
        } else {
            figures.print(load);
        }
    }
}

/// How writes are given.
#[derive(Clone, Copy)]
enum Load {
    /// The next when fewer than this many are on the way.
    InFlight(usize),
    /// Evenly, whatever the answers.
    PerSecond(u32),
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InFlight(depth) => f.pad(&depth.to_string()),
            Self::PerSecond(rate) => f.pad(&format!("{rate}/s")),
        }
    }
}

/// What came of a load.
struct Figures {
    rows_per_second: f64,
    cpu_us: f64,
    rows_per_commit: f64,
    /// p50, p99, largest.
    ack_ms: [f64; 3],
}

impl Figures {
    fn print(&self, load: Load) {
        let [p50, p99, max] = self.ack_ms;
        println!(
            "{load:>9} {:>10.0} {:>11.1} {:>12.1} {p50:>12.2} {p99:>6.2} {max:>6.1}",
            self.rows_per_second, self.cpu_us, self.rows_per_commit,
        );
    }

    fn print_tsv(&self, load: Load) {
        println!(
            "offline messages stored, {load} in flight ({:.0} a commit)\t{:.0}\t{:.0}/s\t",
            self.rows_per_commit,
            self.cpu_us * 1e3,
            self.rows_per_second,
        );
    }
}

fn run(directory: &Path, load: Load, time: Duration) -> Figures {
    let store = Sqlite::open(SqliteConfig::new(directory)).unwrap();
    let users: Vec<Jid> = (0..USERS)
        .map(|n| Jid::parse(&format!("user{n}@bench.example")).unwrap())
        .collect();
    let (told, tell) = channel();
    for jid in &users {
        let told = told.clone();
        let done: Done =
            Box::new(move |outcome| told.send(outcome.map(|()| Duration::ZERO)).unwrap());
        let credentials = Credentials {
            keys: Vec::new(),
            is_enabled: true,
        };
        store.write(
            Write::AccountCreate {
                jid: jid.clone(),
                credentials,
            },
            done,
        );
    }
    assert!((0..USERS).all(|_| tell.recv().unwrap().is_ok()));

    let before = store.stats();
    let (cpu, begin) = (cpu_seconds(), Instant::now());
    let mut delays: Vec<Duration> = Vec::new();
    let mut number = 0;
    while begin.elapsed() < time {
        match load {
            Load::InFlight(depth) if number < depth => {}
            Load::InFlight(_) => delays.push(tell.recv().unwrap().unwrap()),
            Load::PerSecond(rate) => {
                let due = Duration::from_secs(1) / rate * u32::try_from(number).unwrap();
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        // A walk that meets neither neighbours nor the same few.
        let owner = users[number.wrapping_mul(2_654_435_761) % USERS].clone();
        let stanza = vec![b'x'; STANZA].into();
        let (told, at) = (told.clone(), Instant::now());
        let done: Done =
            Box::new(move |outcome| told.send(outcome.map(|()| at.elapsed())).unwrap());
        store.write(
            Write::OfflineAppend {
                owner,
                at_ms: 1,
                stanza,
            },
            done,
        );
        number += 1;
    }
    while delays.len() < number {
        delays.push(tell.recv().unwrap().unwrap());
    }
    let (wall, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let after = store.stats();
    let rows = (after.committed - before.committed) as f64;
    delays.sort_unstable();
    let ms = |part: f64| {
        let place = (delays.len() as f64 * part) as usize;
        delays[place.min(delays.len() - 1)].as_secs_f64() * 1e3
    };
    let figures = Figures {
        rows_per_second: rows / wall,
        cpu_us: cpu * 1e6 / rows,
        rows_per_commit: rows / (after.commits - before.commits) as f64,
        ack_ms: [ms(0.5), ms(0.99), ms(1.0)],
    };
    store.close();
    figures
}

/// CPU time of this process so far (Linux; ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted behind the name in parentheses.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap_or(0.0))
        .sum();
    ticks / 100.0
}
