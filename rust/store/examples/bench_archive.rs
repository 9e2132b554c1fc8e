//! What archive, inbox and search cost in the SQLite engine.
//!
//! `cargo run --release -p antiphon-store --example bench_archive [-- MESSAGES [USERS [DIRECTORY]]]`
//!
//! Writes so many messages (default 1,000,000) of 100 bytes of text between 10,000 users, of whom
//! one has a tenth of all, each into both archives with inbox and index; then reads. CPU is of the
//! whole process.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use antiphon_routing::archive::{
    ArchiveFilter, ArchiveId, ArchiveRecord, Flags, InboxEffect, InboxFilter, InboxSlice, id_hash,
};
use antiphon_routing::store::{Store, StoreFuture, Write};
use antiphon_store::{Sqlite, SqliteConfig};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Conversations of each user; of the first one: [`HEAVY_PEERS`].
const PEERS: usize = 20;
const HEAVY_PEERS: usize = 500;

/// Words of the texts: as many as people use, by Zipf's law.
const VOCABULARY: usize = 50_000;

/// Messages on the way at a time.
const IN_FLIGHT: usize = 1000;

/// A second after which messages begin, ms since 1970.
const BEGIN_MS: u64 = 1_780_000_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let messages: u64 = arguments
        .next()
        .map_or(1_000_000, |text| text.parse().unwrap());
    let count: usize = arguments
        .next()
        .map_or(10_000, |text| text.parse().unwrap());
    let base = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let directory = base.join(format!("antiphon-bench-archive-{}", std::process::id()));
    let store = Sqlite::open(SqliteConfig::new(&directory)).unwrap();
    let users = accounts(&store, count);
    let words = vocabulary();
    write(&store, &users, &words, messages, &directory);
    paced(&store, &users, &words, messages);
    pages(&store, &users);
    searches(&store, &users, &words);
    inbox(&store, &users);
    drop(store);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn accounts(store: &Sqlite, count: usize) -> Vec<Jid> {
    let users: Vec<Jid> = (0..count)
        .map(|n| Jid::parse(&format!("user{n:05}@bench.example")).unwrap())
        .collect();
    let (told, tell) = channel();
    for jid in &users {
        let told = told.clone();
        let credentials = Credentials {
            keys: Vec::new(),
            is_enabled: true,
        };
        let write = Write::AccountCreate {
            jid: jid.clone(),
            credentials,
        };
        store.write(write, Box::new(move |outcome| told.send(outcome).unwrap()));
    }
    assert!((0..count).all(|_| tell.recv().unwrap().is_ok()));
    users
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

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Words of 2 to 12 letters, the shorter the commoner.
fn vocabulary() -> Vec<String> {
    let mut dice = Dice(7);
    (0..VOCABULARY)
        .map(|n| {
            let length = 2 + (n as f64).log2().max(0.0) as usize / 2 + dice.below(3);
            (0..length)
                .map(|at| {
                    let letters: &[u8] = if at % 2 == 0 {
                        b"tnsrhldcmfpgwybv"
                    } else {
                        b"eaoiu"
                    };
                    char::from(letters[dice.below(letters.len())])
                })
                .collect()
        })
        .collect()
}

/// About 100 bytes of words, by Zipf's law.
fn body(dice: &mut Dice, words: &[String]) -> String {
    let mut text = String::new();
    while text.len() < 94 {
        let rank = (words.len() as f64).powf(dice.unit()) as usize - 1;
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&words[rank.min(words.len() - 1)]);
    }
    text
}

/// Who writes to whom.
fn sides(dice: &mut Dice, count: usize) -> (usize, usize) {
    let is_heavy = dice.below(10) == 0;
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

fn make(dice: &mut Dice, users: &[Jid], words: &[String], n: u64) -> Message {
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
        body(dice, words)
    )
    .into_bytes()
    .into();
    // Ten messages a second: a day of a small server.
    let at = (BEGIN_MS + n * 100) << 12;
    let dup = id_hash(&id);
    Message {
        sender,
        receiver,
        sent: record(true, &users[receiver], at, dup, &stanza),
        received: record(false, &users[sender], at, dup, &stanza),
    }
}

fn write(store: &Sqlite, users: &[Jid], words: &[String], messages: u64, directory: &Path) {
    let mut dice = Dice(1);
    let before = cpu();
    for n in 0..50_000 {
        std::hint::black_box(make(&mut dice, users, words, n));
    }
    let making = micros(cpu().saturating_sub(before)) / 50_000.0;
    let (told, tell): (Sender<Instant>, Receiver<Instant>) = channel();
    let (begin, before) = (Instant::now(), cpu());
    let mut delays = Vec::new();
    for n in 0..messages {
        if n >= IN_FLIGHT as u64 {
            delays.push(tell.recv().unwrap().elapsed());
        }
        put(store, users, make(&mut dice, users, words, n), &told);
    }
    while delays.len() < messages as usize {
        delays.push(tell.recv().unwrap().elapsed());
    }
    let written = begin.elapsed();
    let cpu_written = cpu().saturating_sub(before);
    while store.stats().search_behind > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let stats = store.stats();
    let each = |time: Duration| micros(time) / messages as f64 - making;
    println!(
        "write      {:.0} messages/s, {:.0} until indexed; CPU {:.1} µs a message, {:.1} until \
         indexed; {:.0} writes a commit",
        messages as f64 / written.as_secs_f64(),
        messages as f64 / begin.elapsed().as_secs_f64(),
        each(cpu_written),
        each(cpu().saturating_sub(before)),
        stats.committed as f64 / stats.commits as f64,
    );
    println!("           acknowledged {}", percentiles(&mut delays));
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

/// Queues a message for both archives; told of when it was queued once the second has it.
fn put(store: &Sqlite, users: &[Jid], message: Message, told: &Sender<Instant>) {
    let (told, queued) = (told.clone(), Instant::now());
    store.write(
        Write::Archive {
            owner: users[message.sender].clone(),
            record: message.sent,
        },
        Box::new(|outcome| outcome.unwrap()),
    );
    store.write(
        Write::Archive {
            owner: users[message.receiver].clone(),
            record: message.received,
        },
        Box::new(move |outcome| {
            outcome.unwrap();
            told.send(queued).unwrap();
        }),
    );
}

/// How long an acknowledgement takes at 1,000 messages a second.
fn paced(store: &Sqlite, users: &[Jid], words: &[String], messages: u64) {
    const SECONDS: u64 = 10;
    let mut dice = Dice(2);
    let (told, tell) = channel();
    let delays = std::thread::spawn(move || {
        let tell: Receiver<Instant> = tell;
        tell.into_iter()
            .map(|queued| queued.elapsed())
            .collect::<Vec<Duration>>()
    });
    let begin = Instant::now();
    let before = cpu();
    for n in 0..1000 * SECONDS {
        let due = begin + Duration::from_millis(n);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let message = make(&mut dice, users, words, messages + n);
        put(store, users, message, &told);
    }
    drop(told);
    let mut delays = delays.join().unwrap();
    println!(
        "1,000/s    acknowledged {}, CPU {:.1} µs a message",
        percentiles(&mut delays),
        micros(cpu().saturating_sub(before)) / (1000 * SECONDS) as f64
    );
}

fn pages(store: &Sqlite, users: &[Jid]) {
    for (name, owner) in [("light", 7), ("heavy", 0)] {
        let owner = &users[owner];
        let mut filter = ArchiveFilter::default();
        let mut delays = Vec::new();
        let (cpu, mut count) = (cpu(), 0);
        for _ in 0..300 {
            let begin = Instant::now();
            let page = wait(store.archive_page(owner, filter.clone(), true, 50));
            delays.push(begin.elapsed());
            count += page.messages.len();
            filter.before = page.messages.first().map(|m| m.id);
            if page.is_complete {
                filter.before = None;
            }
        }
        println!(
            "page {name} {:.0} messages a page, {}, CPU {:.3} ms",
            count as f64 / 300.0,
            percentiles(&mut delays),
            micros(self::cpu().saturating_sub(cpu)) / 300_000.0
        );
    }
}

/// What is searched for.
const KINDS: [&str; 11] = [
    "rare",
    "common",
    "middle",
    "absent",
    "two common",
    "common and rare",
    "phrase",
    "long phrase",
    "prefix of 2",
    "prefix of 3",
    "prefix of 5",
];

/// Search `n` of a kind.
fn text(kind: &str, words: &[String], n: usize) -> String {
    let common = &words[n % 20];
    let next = &words[(n + 3) % 20];
    let third = &words[20 + n % 30];
    match kind {
        "rare" => words[20_000 + n * 50].clone(),
        "common" => common.clone(),
        "middle" => words[500 + n].clone(),
        "absent" => format!("xqxqx{n}"),
        "two common" => format!("{common} {third}"),
        "common and rare" => format!("{common} {}", words[5000 + n * 9]),
        "phrase" => format!("\"{common} {next}\""),
        "long phrase" => format!("\"{common} {next} {third}\""),
        "prefix of 2" => format!("{}*", &words[3000 + n * 7][..2]),
        "prefix of 3" => format!("{}*", &words[3000 + n * 7][..3]),
        _ => format!("{}*", &words[9000 + n * 7][..5]),
    }
}

fn searches(store: &Sqlite, users: &[Jid], words: &[String]) {
    for (name, owner) in [("light", 7), ("heavy", 0)] {
        for with in [None, Some(())] {
            for kind in KINDS {
                let mut delays = Vec::new();
                let mut found = 0;
                for n in 0..200 {
                    let peers = if owner == 0 { HEAVY_PEERS } else { PEERS };
                    let peer = 1 + (owner * 31 + (n % peers) * 17) % (users.len() - 1);
                    let filter = ArchiveFilter {
                        text: Some(text(kind, words, n)),
                        with: with.map(|()| users[peer].clone()),
                        ..ArchiveFilter::default()
                    };
                    let begin = Instant::now();
                    let page = wait(store.archive_page(&users[owner], filter, true, 20));
                    delays.push(begin.elapsed());
                    found += page.messages.len();
                }
                let scope = if with.is_some() { "with" } else { "" };
                println!(
                    "search     {name} {scope:5} {kind:16} {:5.1} found, {}",
                    found as f64 / 200.0,
                    percentiles(&mut delays)
                );
            }
        }
    }
}

fn inbox(store: &Sqlite, users: &[Jid]) {
    let slice = InboxSlice {
        is_ascending: false,
        after: None,
        before: None,
        is_from_end: false,
        limit: 500,
    };
    let mut delays = Vec::new();
    let mut count = 0;
    let cpu = cpu();
    for _ in 0..200 {
        let begin = Instant::now();
        let page = wait(store.inbox_page(&users[0], InboxFilter::default(), slice));
        delays.push(begin.elapsed());
        count = page.entries.len();
    }
    println!(
        "inbox      {count} conversations, {}, CPU {:.2} ms",
        percentiles(&mut delays),
        micros(self::cpu().saturating_sub(cpu)) / 200_000.0
    );
}

fn percentiles(delays: &mut [Duration]) -> String {
    delays.sort_unstable();
    let at = |part: f64| micros(delays[((delays.len() - 1) as f64 * part) as usize]) / 1000.0;
    format!(
        "p50 {:.2} p99 {:.2} max {:.2} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// CPU time of this process so far (Linux; elsewhere 0).
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    // Ticks of 10 ms on every Linux of today.
    Duration::from_millis(ticks * 10)
}

fn wait<T>(mut future: StoreFuture<T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome.unwrap(),
            Poll::Pending => std::thread::park(),
        }
    }
}
