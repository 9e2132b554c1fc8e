//! How many offline messages a second the Cassandra engine commits, at what cost and delay.
//!
//! `cargo run --release -p antiphon-store --example bench_cassandra -- 127.0.0.1:9042 KEYSPACE
//! [SECONDS [PID_OF_CASSANDRA [THREADS]]]`, the keyspace made by `antiphon migrate`.
//!
//! One line a load (so many writes in flight, or so many a second offered): rows/s, CPU µs per row
//! of this process (all threads, the load included) and of Cassandra, rows per batch, and the delay
//! of an acknowledgement. Then reads: a user's record, and a page of 50 offline messages.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use antiphon_routing::store::{Done, Store, Write};
use antiphon_store::cassandra::{Cassandra, CassandraConfig};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A chat message with a sentence.
const STANZA: usize = 300;

/// What the kernel counts processor time in: ticks of 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// How writes are given.
#[derive(Clone, Copy)]
enum Load {
    /// The next when fewer than this many are on the way.
    InFlight(usize),
    /// Evenly, whatever the answers.
    PerSecond(u32),
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let point = arguments.next().unwrap();
    let keyspace = arguments.next().unwrap();
    let seconds: f64 = arguments.next().map_or(5.0, |text| text.parse().unwrap());
    let server: Option<u32> = arguments.next().map(|text| text.parse().unwrap());
    let mut config = CassandraConfig::new(vec![point], keyspace);
    if let Some(threads) = arguments.next() {
        config.threads = threads.parse().unwrap();
    }
    let store = Cassandra::open(config).unwrap();
    let users = users(&store, 5000);
    println!("  owners      load   rows/s  µs/row: own Cassandra  rows/batch  ack ms p50    p99");
    let loads = [
        (5000, Load::PerSecond(1000)),
        (5000, Load::InFlight(1)),
        (5000, Load::InFlight(32)),
        (5000, Load::InFlight(256)),
        (5000, Load::InFlight(1000)),
        (5000, Load::InFlight(4000)),
        (200, Load::InFlight(4000)),
        (1, Load::InFlight(1000)),
    ];
    for (owners, load) in loads {
        run(
            &store,
            &users[..owners],
            load,
            Duration::from_secs_f64(seconds),
            server,
        );
    }
    read(&store, &users[1000..], server);
    store.close();
}

fn users(store: &Cassandra, count: usize) -> Vec<Jid> {
    let users: Vec<Jid> = (0..count)
        .map(|n| Jid::parse(&format!("user{n}@bench.example")).unwrap())
        .collect();
    let (told, tell) = channel();
    let begin = Instant::now();
    for user in &users {
        let credentials = Credentials {
            keys: Vec::new(),
            is_enabled: true,
        };
        let told = told.clone();
        let done: Done = Box::new(move |outcome| told.send(outcome).unwrap());
        let jid = user.clone();
        store.write(Write::AccountPut { jid, credentials }, done);
    }
    for _ in &users {
        tell.recv().unwrap().unwrap();
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    println!("{count} accounts put, {rate:.0}/s");
    users
}

fn run(store: &Cassandra, users: &[Jid], load: Load, time: Duration, server: Option<u32>) {
    let (told, tell) = channel();
    let (cpu, server_cpu, before) = (cpu(None), server.map(|s| cpu(Some(s))), store.stats());
    let begin = Instant::now();
    let (mut sent, mut delays) = (0usize, Vec::new());
    let give = |sent: &mut usize| {
        let owner = users[*sent % users.len()].clone();
        let stanza = vec![b'x'; STANZA].into();
        let (told, at) = (told.clone(), Instant::now());
        let done: Done = Box::new(move |outcome| {
            outcome.unwrap();
            told.send(at.elapsed()).unwrap();
        });
        store.write(
            Write::OfflineAppend {
                owner,
                at_ms: 1,
                stanza,
            },
            done,
        );
        *sent += 1;
    };
    while begin.elapsed() < time {
        match load {
            Load::InFlight(depth) => {
                while sent - delays.len() < depth {
                    give(&mut sent);
                }
                delays.push(tell.recv().unwrap());
            }
            Load::PerSecond(rate) => {
                let due = begin.elapsed().as_secs_f64() * f64::from(rate);
                while (sent as f64) < due {
                    give(&mut sent);
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        delays.extend(tell.try_iter());
    }
    while delays.len() < sent {
        delays.push(tell.recv().unwrap());
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let after = store.stats();
    let per_row = |used: Duration| used.as_micros() as f64 / sent as f64;
    let own = per_row(self::cpu(None) - cpu);
    let theirs = server_cpu.map_or(f64::NAN, |old| per_row(self::cpu(server) - old));
    delays.sort_unstable();
    let at = |share: f64| delays[(share * (delays.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
    let name = match load {
        Load::InFlight(depth) => depth.to_string(),
        Load::PerSecond(rate) => format!("{rate}/s"),
    };
    println!(
        "{:8} {name:>9} {:8.0} {own:12.1} {theirs:9.1} {:11.1} {:11.2} {:6.2}",
        users.len(),
        sent as f64 / elapsed,
        (after.committed - before.committed) as f64 / (after.batches - before.batches) as f64,
        at(0.5),
        at(0.99),
    );
}

/// Both kinds of read, 64 at a time.
fn read(store: &Cassandra, users: &[Jid], server: Option<u32>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    for (name, kind) in [("user", 0), ("offline 50", 1)] {
        let (own, theirs) = (cpu(None), server.map(|s| cpu(Some(s))));
        let begin = Instant::now();
        let mut count = 0;
        for users in users.chunks(64).cycle().take(200) {
            let reads: Vec<_> = users
                .iter()
                .map(|user| {
                    if kind == 0 {
                        let read = store.user(user);
                        runtime.spawn(async move { read.await.map(drop) })
                    } else {
                        let read = store.offline(user, 0, 50);
                        runtime.spawn(async move { read.await.map(drop) })
                    }
                })
                .collect();
            for read in reads {
                runtime.block_on(read).unwrap().unwrap();
                count += 1;
            }
        }
        let each = |used: Duration| used.as_micros() as f64 / f64::from(count);
        let theirs = theirs.map_or(f64::NAN, |old| each(cpu(server) - old));
        println!(
            "read {name}: {:.0}/s, CPU µs: own {:.0}, Cassandra {theirs:.0}",
            f64::from(count) / begin.elapsed().as_secs_f64(),
            each(cpu(None) - own),
        );
    }
}

/// Processor time of a process so far; `None`: this one.
fn cpu(process: Option<u32>) -> Duration {
    let name = process.map_or("self".to_owned(), |number| number.to_string());
    let text = std::fs::read_to_string(format!("/proc/{name}/stat")).unwrap();
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u32 = [11, 12]
        .map(|at| fields[at].parse::<u32>().unwrap())
        .iter()
        .sum();
    TICK * ticks
}
