//! What archive, inbox and search cost in the Cassandra engine, and the servers.
//!
//! `cargo run --release -p antiphon-store --example bench_cassandra_archive -- fill|read POINT
//! KEYSPACE PID TEXTS [MESSAGES [USERS]]`
//!
//! `fill` makes the keyspace and writes so many messages (default 300,000) between 10,000 users, of
//! whom one has a third of all, each into both archives with inbox and search; `read` pages and
//! searches what `fill` left. TEXTS is a folder whose `.md` files give the sentences; PID is the
//! server's process, whose CPU is told beside ours (all threads, the load's own taken off).
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use antiphon_routing::archive::{
    ArchiveFilter, ArchiveId, ArchiveRecord, Flags, InboxEffect, InboxFilter, InboxSlice, id_hash,
};
use antiphon_routing::store::{Store, StoreFuture, Write};
use antiphon_store::cassandra::{Cassandra, CassandraConfig, MIGRATIONS, SCOPE, VERSION_TABLE};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use scylla::client::session_builder::SessionBuilder;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Conversations of each user; of the first one: [`HEAVY_PEERS`].
const PEERS: usize = 20;
const HEAVY_PEERS: usize = 500;

/// Messages on the way at a time.
const IN_FLIGHT: usize = 1000;

/// A second after which messages begin, ms since 1970, and the time between two of them: four
/// months for a million.
const BEGIN_MS: u64 = 1_780_000_000_000;
const STEP_MS: u64 = 10_000;

/// What the kernel counts processor time in: ticks of 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// A page of a search.
const FOUND: usize = 20;

struct Bench {
    store: Cassandra,
    runtime: Runtime,
    server: u32,
    users: Vec<Jid>,
    sentences: Vec<String>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, point, keyspace, server, texts, ..] = arguments.as_slice() else {
        println!("fill|read POINT KEYSPACE PID TEXTS [MESSAGES [USERS]]");
        return;
    };
    let number = |at: usize, default: usize| {
        let text = arguments.get(at);
        text.map_or(default, |text| text.parse().unwrap())
    };
    let (messages, count) = (number(5, 300_000), number(6, 10_000));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    if mode == "fill" {
        runtime.block_on(migrate(point, keyspace));
    }
    let store = Cassandra::open(CassandraConfig::new(vec![point.clone()], keyspace)).unwrap();
    let users = (0..count)
        .map(|n| Jid::parse(&format!("user{n:05}@bench.example")).unwrap())
        .collect();
    let bench = Bench {
        store,
        runtime,
        server: server.parse().unwrap(),
        users,
        sentences: sentences(Path::new(texts)),
    };
    if mode == "fill" {
        bench.accounts();
        bench.fill(messages);
        bench.paced(messages);
    } else {
        bench.pages();
        bench.inbox();
        bench.searches();
    }
    bench.store.close();
}

async fn migrate(point: &str, keyspace: &str) {
    let session = SessionBuilder::new()
        .known_node(point)
        .build()
        .await
        .unwrap();
    let run = async |statement: String| {
        session.query_unpaged(statement, ()).await.unwrap();
    };
    run(format!(
        "CREATE KEYSPACE {keyspace} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
    ))
    .await;
    run(format!("USE {keyspace}")).await;
    run(VERSION_TABLE.to_owned()).await;
    for migration in MIGRATIONS {
        for statement in migration.statements() {
            run(statement).await;
        }
        let (version, name, readers) = (migration.version, migration.name, migration.readers());
        run(format!(
            "INSERT INTO schema_version (scope, version, name, readers, applied_ms) \
             VALUES ('{SCOPE}', {version}, '{name}', {readers}, 0)"
        ))
        .await;
    }
}

/// What stands between full stops, of 40 to 240 bytes.
fn sentences(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    files.sort();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let text = text.replace(['\n', '\r', '<', '>', '&'], " ");
        for part in text.split(". ") {
            let sentence = part.split_whitespace().collect::<Vec<_>>().join(" ");
            let is_prose = (40..240).contains(&sentence.len());
            if is_prose && seen.insert(sentence.clone()) {
                found.push(sentence);
            }
        }
    }
    let bytes: usize = found.iter().map(String::len).sum();
    println!(
        "texts      {} sentences of {} bytes",
        found.len(),
        bytes / found.len()
    );
    found
}

/// Numbers that are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}

/// Who writes to whom.
fn sides(dice: &mut Dice, count: usize) -> (usize, usize) {
    let is_heavy = dice.below(3) == 0;
    let (user, peers) = if is_heavy {
        (0, HEAVY_PEERS)
    } else {
        (1 + dice.below(count - 1), PEERS)
    };
    let peer = 1 + (user * 31 + dice.below(peers) * 17) % (count - 1);
    if dice.below(2) == 0 {
        (user, peer)
    } else {
        (peer, user)
    }
}

fn record(is_out: bool, peer: &Jid, id: u64, dup: u64, stanza: &Arc<[u8]>) -> Box<ArchiveRecord> {
    let (flags, inbox) = if is_out {
        (Flags::OUT, InboxEffect::Sent)
    } else {
        (Flags::COUNTS, InboxEffect::Received)
    };
    Box::new(ArchiveRecord {
        id: ArchiveId(id),
        uid: ArchiveId(id),
        peer: peer.clone(),
        flags: flags.and(Flags::SEARCHABLE),
        mid: dup,
        dup: if is_out { dup } else { 0 },
        stanza: Arc::clone(stanza),
        inbox,
        offline_at_ms: None,
    })
}

/// A message as both archives get it.
struct Message {
    sender: usize,
    receiver: usize,
    sent: Box<ArchiveRecord>,
    received: Box<ArchiveRecord>,
}

impl Bench {
    fn accounts(&self) {
        let (told, tell) = channel();
        let begin = Instant::now();
        for jid in &self.users {
            let told = told.clone();
            let credentials = Credentials {
                keys: Vec::new(),
                is_enabled: true,
            };
            let write = Write::AccountCreate {
                jid: jid.clone(),
                credentials,
            };
            self.store
                .write(write, Box::new(move |outcome| told.send(outcome).unwrap()));
        }
        assert!(self.users.iter().all(|_| tell.recv().unwrap().is_ok()));
        println!(
            "accounts   {:.0}/s",
            self.users.len() as f64 / begin.elapsed().as_secs_f64()
        );
    }

    fn make(&self, dice: &mut Dice, n: u64) -> Message {
        let users = &self.users;
        let (sender, receiver) = sides(dice, users.len());
        let id = format!(
            "{n:08x}-{:04x}-4000-8000-{:012x}",
            n & 0xffff,
            dice.next() >> 16
        );
        let stanza: Arc<[u8]> = format!(
            "<message xmlns='jabber:client' from='{}/phone.{sender:04x}' to='{}' id='{id}' \
             type='chat' xml:lang='en'><body>{}</body></message>",
            users[sender],
            users[receiver],
            self.sentences[dice.below(self.sentences.len())]
        )
        .into_bytes()
        .into();
        let at = (BEGIN_MS + n * STEP_MS) << 12;
        let dup = id_hash(&id);
        Message {
            sender,
            receiver,
            sent: record(true, &users[receiver], at, dup, &stanza),
            received: record(false, &users[sender], at, dup, &stanza),
        }
    }

    fn cpus(&self) -> (Duration, Duration) {
        (cpu(None), cpu(Some(self.server)))
    }

    /// CPU since, µs for each of so many: ours without the load's own, the server's.
    fn used(&self, since: (Duration, Duration), count: usize, making: f64) -> String {
        let now = self.cpus();
        let each = |now: Duration, then: Duration| micros(now - then) / count as f64;
        format!(
            "CPU µs: own {:.1}, Cassandra {:.1}",
            each(now.0, since.0) - making,
            each(now.1, since.1)
        )
    }

    fn fill(&self, messages: usize) {
        let mut dice = Dice(1);
        let before = cpu(None);
        for n in 0..50_000 {
            std::hint::black_box(self.make(&mut dice, n));
        }
        let making = micros(cpu(None) - before) / 50_000.0;
        let mut dice = Dice(1);
        let (told, tell): (Sender<Instant>, Receiver<Instant>) = channel();
        let mut delays = Vec::new();
        // The first part warms the servers' compiler.
        let warm = messages / 5;
        let mut begin = Instant::now();
        let mut since = self.cpus();
        for n in 0..messages {
            if n >= IN_FLIGHT {
                delays.push(tell.recv().unwrap().elapsed());
            }
            if n == warm {
                println!(
                    "warming    {:.0} messages/s, {}",
                    warm as f64 / begin.elapsed().as_secs_f64(),
                    self.used(since, warm, making)
                );
                delays.clear();
                (begin, since) = (Instant::now(), self.cpus());
            }
            self.put(self.make(&mut dice, n as u64), &told);
        }
        let counted = messages - warm;
        println!(
            "fill       {:.0} messages/s, {}",
            counted as f64 / begin.elapsed().as_secs_f64(),
            self.used(since, counted, making)
        );
        // The inbox's rows and the last segments too.
        std::thread::sleep(Duration::from_secs(13));
        let stats = self.store.stats();
        println!(
            "settled    {}, {:.1} messages a batch",
            self.used(since, counted, making),
            stats.committed as f64 / stats.batches as f64
        );
        println!("           acknowledged {}", percentiles(&mut delays));
    }

    /// Queues a message for both archives; told of when it was queued once the second has it.
    fn put(&self, message: Message, told: &Sender<Instant>) {
        let (told, queued) = (told.clone(), Instant::now());
        self.store.write(
            Write::Archive {
                owner: self.users[message.sender].clone(),
                record: message.sent,
            },
            Box::new(|outcome| outcome.unwrap()),
        );
        self.store.write(
            Write::Archive {
                owner: self.users[message.receiver].clone(),
                record: message.received,
            },
            Box::new(move |outcome| {
                outcome.unwrap();
                // The end of the run does not wait for the last.
                let _ = told.send(queued);
            }),
        );
    }

    /// How long an acknowledgement takes at 1,000 messages a second.
    fn paced(&self, messages: usize) {
        const SECONDS: u64 = 10;
        let mut dice = Dice(2);
        let (told, tell): (Sender<Instant>, Receiver<Instant>) = channel();
        let delays = std::thread::spawn(move || {
            let delays = tell.into_iter().map(|queued| queued.elapsed());
            delays.collect::<Vec<Duration>>()
        });
        let (begin, since) = (Instant::now(), self.cpus());
        for n in 0..1000 * SECONDS {
            let due = begin + Duration::from_millis(n);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.put(self.make(&mut dice, messages as u64 + n), &told);
        }
        let used = self.used(since, 1000 * SECONDS as usize, 0.0);
        drop(told);
        let mut delays = delays.join().unwrap();
        println!(
            "1,000/s    acknowledged {}, {used}",
            percentiles(&mut delays)
        );
    }

    fn wait<T: Send + 'static>(&self, future: StoreFuture<T>) -> T {
        self.runtime.block_on(future).unwrap()
    }

    fn pages(&self) {
        for (name, owner) in [("light", 7), ("heavy", 0)] {
            for peer in [None, Some(1 + (owner * 31 + 17) % (self.users.len() - 1))] {
                let mut filter = ArchiveFilter {
                    with: peer.map(|peer| self.users[peer].clone()),
                    ..ArchiveFilter::default()
                };
                let (mut delays, mut count) = (Vec::new(), 0);
                let since = self.cpus();
                for _ in 0..300 {
                    let begin = Instant::now();
                    let owner = &self.users[owner];
                    let page = self.wait(self.store.archive_page(owner, filter.clone(), true, 50));
                    delays.push(begin.elapsed());
                    count += page.messages.len();
                    filter.before = page.messages.first().map(|m| m.id);
                    if page.is_complete {
                        filter.before = None;
                    }
                }
                println!(
                    "page       {name} {:4} {:5.1} messages, {}, {}",
                    if peer.is_some() { "with" } else { "" },
                    count as f64 / 300.0,
                    percentiles(&mut delays),
                    self.used(since, 300, 0.0)
                );
            }
        }
    }

    fn inbox(&self) {
        let slice = InboxSlice {
            is_ascending: false,
            after: None,
            before: None,
            is_from_end: false,
            limit: 1000,
        };
        let (mut delays, mut found) = (Vec::new(), 0);
        let since = self.cpus();
        for _ in 0..100 {
            let begin = Instant::now();
            let filter = InboxFilter::default();
            let page = self.wait(self.store.inbox_page(&self.users[0], filter, slice));
            delays.push(begin.elapsed());
            found = page.entries.len();
        }
        println!(
            "inbox      {found} conversations, {}, {}",
            percentiles(&mut delays),
            self.used(since, 100, 0.0)
        );
    }

    /// What is searched for, by kind.
    fn texts(&self) -> Vec<(&'static str, Vec<String>)> {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for sentence in &self.sentences {
            let lower = sentence.to_lowercase();
            let words = lower.split(|c: char| !c.is_ascii_alphabetic());
            for word in words.filter(|word| word.len() > 2).collect::<HashSet<_>>() {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        let mut words: Vec<(String, usize)> = counts.into_iter().collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let share = |least: usize, most: usize| -> Vec<String> {
            let some = words.iter().filter(|w| (least..=most).contains(&w.1));
            some.map(|w| w.0.clone()).collect()
        };
        let pick = |from: &[String], n: usize| from[n * 7919 % from.len()].clone();
        let (common, rare) = (share(500, usize::MAX), share(1, 1));
        let middle = share(20, 60);
        let long: Vec<String> = middle.iter().filter(|w| w.len() > 6).cloned().collect();
        let all = |make: &dyn Fn(usize) -> String| (0..100).map(make).collect::<Vec<String>>();
        vec![
            ("common", all(&|n| pick(&common, n))),
            ("middle", all(&|n| pick(&middle, n))),
            ("rare", all(&|n| pick(&rare, n))),
            ("absent", all(&|n| format!("xqxqx{n}"))),
            (
                "two common",
                all(&|n| format!("{} {}", pick(&common, n), pick(&common, n + 5))),
            ),
            (
                "common and middle",
                all(&|n| format!("{} {}", pick(&common, n), pick(&middle, n))),
            ),
            (
                "two middle",
                all(&|n| format!("{} {}", pick(&middle, n), pick(&middle, n + 5))),
            ),
            (
                "prefix of 3",
                all(&|n| format!("{}*", &pick(&long, n)[..3])),
            ),
            (
                "prefix of 5",
                all(&|n| format!("{}*", &pick(&long, n)[..5])),
            ),
        ]
    }

    fn searches(&self) {
        let texts = self.texts();
        for (name, owner) in [("light", 7), ("heavy", 0)] {
            for is_with in [false, true] {
                for (kind, texts) in &texts {
                    let (mut delays, mut found) = (Vec::new(), 0);
                    let since = self.cpus();
                    for (n, text) in texts.iter().enumerate() {
                        let peers = if owner == 0 { HEAVY_PEERS } else { PEERS };
                        let peer = 1 + (owner * 31 + (n % peers) * 17) % (self.users.len() - 1);
                        let filter = ArchiveFilter {
                            text: Some(text.clone()),
                            with: is_with.then(|| self.users[peer].clone()),
                            ..ArchiveFilter::default()
                        };
                        let begin = Instant::now();
                        let owner = &self.users[owner];
                        let page = self.wait(self.store.archive_page(owner, filter, true, FOUND));
                        delays.push(begin.elapsed());
                        found += page.messages.len();
                    }
                    println!(
                        "search     {name} {:4} {kind:17} {:5.1} found, {}, {}",
                        if is_with { "with" } else { "" },
                        found as f64 / texts.len() as f64,
                        percentiles(&mut delays),
                        self.used(since, texts.len(), 0.0)
                    );
                }
            }
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn percentiles(delays: &mut [Duration]) -> String {
    delays.sort_unstable();
    let at = |share: f64| delays[(share * (delays.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99))
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
