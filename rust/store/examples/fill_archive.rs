//! Fills archives, inboxes and the index of a store that a node will serve, for `make bench`.
//!
//! `fill_archive sqlite DATA_DIR MESSAGES USERS WORDS` or
//! `fill_archive cassandra HOST:PORT KEYSPACE MESSAGES USERS WORDS`
//!
//! Accounts are u0, u1 … of `localhost`; a tenth of all messages is u0's, with 500 others. WORDS is
//! a file of words, the commonest first, of which texts of 100 bytes are made. Prints one line of
//! JSON: `messages`, `seconds` until the index was done, `cpu_s` of this process.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use antiphon_routing::archive::{ArchiveId, ArchiveRecord, Flags, InboxEffect, id_hash};
use antiphon_routing::store::{Done, Store, StoreError, Write};
use antiphon_store::{Cassandra, CassandraConfig, Sqlite, SqliteConfig};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Conversations of each user, and of the first one.
const PEERS: usize = 20;
const HEAVY_PEERS: usize = 500;
/// Messages on the way at a time.
const IN_FLIGHT: u64 = 1000;
/// Bytes of a text.
const TEXT: usize = 94;
/// When the first message was sent, ms since 1970; the next ones a tenth of a second later each.
const BEGIN_MS: u64 = 1_780_000_000_000;
const STEP_MS: u64 = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["sqlite", directory, messages, users, words] => {
            let store = Sqlite::open(SqliteConfig::new(directory)).unwrap();
            let fill = Fill::new(messages, users, words);
            fill.run(&store, || store.stats().search_behind > 0);
            store.close();
        }
        ["cassandra", point, keyspace, messages, users, words] => {
            let config = CassandraConfig::new(vec![point.to_owned()], keyspace);
            let store = Cassandra::open(config).unwrap();
            let fill = Fill::new(messages, users, words);
            accounts(&store, &fill.users);
            fill.run(&store, || false);
            store.close();
        }
        _ => {
            eprintln!("fill_archive: see the head of examples/fill_archive.rs for the arguments");
            std::process::exit(2);
        }
    }
}

/// Accounts that nobody logs in to; the first one is there.
fn accounts(store: &Cassandra, users: &[Jid]) {
    let (told, tell) = channel();
    for jid in &users[1..] {
        let credentials = Credentials {
            keys: Vec::new(),
            is_enabled: true,
        };
        let jid = jid.clone();
        let told: Sender<_> = told.clone();
        let done: Done = Box::new(move |outcome| told.send(outcome).unwrap());
        store.write(Write::AccountPut { jid, credentials }, done);
    }
    for _ in &users[1..] {
        tell.recv().unwrap().unwrap();
    }
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

struct Fill {
    users: Vec<Jid>,
    words: Vec<String>,
    messages: u64,
}

/// A message as both archives get it.
struct Message {
    sender: usize,
    receiver: usize,
    sent: Box<ArchiveRecord>,
    received: Box<ArchiveRecord>,
}

type Told = Result<(), StoreError>;

impl Fill {
    fn new(messages: &str, users: &str, words: &str) -> Self {
        let count: usize = users.parse().unwrap();
        assert!(count > HEAVY_PEERS, "at least {HEAVY_PEERS} users");
        let words = std::fs::read_to_string(words).unwrap();
        Self {
            users: (0..count)
                .map(|n| Jid::parse(&format!("u{n}@localhost")).unwrap())
                .collect(),
            words: words.lines().map(str::to_owned).collect(),
            messages: messages.parse().unwrap(),
        }
    }

    fn run(&self, store: &impl Store, is_behind: impl Fn() -> bool) {
        let mut dice = Dice(1);
        let begin = Instant::now();
        let (told, tell): (Sender<Told>, Receiver<Told>) = channel();
        for n in 0..self.messages {
            if n >= IN_FLIGHT {
                tell.recv().unwrap().unwrap();
            }
            let message = self.make(&mut dice, n);
            let told = told.clone();
            let sent = Write::Archive {
                owner: self.users[message.sender].clone(),
                record: message.sent,
            };
            let received = Write::Archive {
                owner: self.users[message.receiver].clone(),
                record: message.received,
            };
            store.write(sent, Box::new(|outcome| assert_eq!(outcome.err(), None)));
            let done: Done = Box::new(move |outcome| told.send(outcome.map(drop)).unwrap());
            store.write(received, done);
        }
        for _ in 0..self.messages.min(IN_FLIGHT) {
            tell.recv().unwrap().unwrap();
        }
        while is_behind() {
            std::thread::sleep(Duration::from_millis(10));
        }
        println!(
            "{{\"messages\": {}, \"seconds\": {:.1}, \"cpu_s\": {:.2}}}",
            self.messages,
            begin.elapsed().as_secs_f64(),
            cpu().as_secs_f64()
        );
    }

    fn make(&self, dice: &mut Dice, n: u64) -> Message {
        let (sender, receiver) = self.sides(dice);
        let id = format!(
            "{n:08x}-{:04x}-4000-8000-{:012x}",
            n & 0xffff,
            dice.next() >> 16
        );
        let stanza: Arc<[u8]> = format!(
            "<message xmlns='jabber:client' from='{}/phone.{sender:04x}' to='{}' id='{id}' \
             type='chat' xml:lang='en'><body>{}</body></message>",
            self.users[sender],
            self.users[receiver],
            self.text(dice)
        )
        .into_bytes()
        .into();
        let at = (BEGIN_MS + n * STEP_MS) << 12;
        let record = |is_out: bool, peer: usize| {
            let (flags, inbox) = if is_out {
                (Flags::OUT.and(Flags::COUNTS), InboxEffect::Sent)
            } else {
                (Flags::COUNTS, InboxEffect::Received)
            };
            Box::new(ArchiveRecord {
                id: ArchiveId(at),
                uid: ArchiveId(at),
                peer: self.users[peer].clone(),
                flags: flags.and(Flags::SEARCHABLE),
                mid: id_hash(&id),
                dup: if is_out { id_hash(&id) } else { 0 },
                stanza: Arc::clone(&stanza),
                inbox,
                offline_at_ms: None,
            })
        };
        Message {
            sender,
            receiver,
            sent: record(true, receiver),
            received: record(false, sender),
        }
    }

    /// Who writes to whom.
    fn sides(&self, dice: &mut Dice) -> (usize, usize) {
        let count = self.users.len();
        let is_heavy = dice.below(10) == 0;
        let (user, peers) = if is_heavy {
            (0, HEAVY_PEERS)
        } else {
            (1 + dice.below(count - 1), PEERS)
        };
        let mut peer = 1 + (user * 31 + dice.below(peers) * 17) % (count - 1);
        if peer == user {
            peer = 1 + user % (count - 1);
        }
        if dice.below(2) == 0 {
            (user, peer)
        } else {
            (peer, user)
        }
    }

    /// Words by Zipf's law.
    fn text(&self, dice: &mut Dice) -> String {
        let mut text = String::new();
        while text.len() < TEXT {
            let rank = (self.words.len() as f64).powf(dice.unit()) as usize;
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&self.words[rank.saturating_sub(1).min(self.words.len() - 1)]);
        }
        text
    }
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
