//! Users, who of them writes to whom, and what: the same messages in every run.

use antiphon_routing::archive::{ArchiveId, ArchiveRecord, Flags, InboxEffect, id_hash};
use antiphon_routing::store::{Store, StoreError, Write};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Conversations of each user, and of the first one.
const PEERS: usize = 20;
pub const HEAVY_PEERS: usize = 500;
/// Bytes of a text of words.
const TEXT: usize = 94;
/// Words of a text without a file: as many as people use.
const VOCABULARY: usize = 50_000;
/// When the first message was sent, ms since 1970.
const BEGIN_MS: u64 = 1_780_000_000_000;

/// Numbers that are the same in every run (xorshift64*).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What is said.
pub enum Texts {
    /// Words by Zipf's law, the commonest first.
    Words(Vec<String>),
    /// Sentences of people.
    Sentences(Vec<String>),
}

impl Texts {
    /// A file of words, one a line, or a folder whose `.md` files give the sentences.
    pub fn read(path: &Path) -> Self {
        if path.is_dir() {
            return Self::Sentences(sentences(path));
        }
        let words = std::fs::read_to_string(path).unwrap();
        Self::Words(words.lines().map(str::to_owned).collect())
    }

    /// Words of 2 to 12 letters, the shorter the commoner.
    pub fn made() -> Self {
        let mut dice = Dice(7);
        let word = |n: usize| {
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
        };
        Self::Words((0..VOCABULARY).map(word).collect())
    }

    fn draw(&self, dice: &mut Dice) -> String {
        let words = match self {
            Self::Sentences(sentences) => return sentences[dice.below(sentences.len())].clone(),
            Self::Words(words) => words,
        };
        let mut text = String::new();
        while text.len() < TEXT {
            let rank = (words.len() as f64).powf(dice.unit()) as usize;
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&words[rank.saturating_sub(1).min(words.len() - 1)]);
        }
        text
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
    assert!(!found.is_empty(), "no sentences in {}", folder.display());
    found
}

/// Everybody, and how they write.
pub struct World {
    pub users: Vec<Jid>,
    pub texts: Texts,
    /// One of so many messages is the first user's.
    pub heavy_one_in: usize,
    /// Between two messages.
    pub step_ms: u64,
}

/// A message as both archives get it.
pub struct Message {
    sender: usize,
    receiver: usize,
    sent: Box<ArchiveRecord>,
    received: Box<ArchiveRecord>,
}

impl World {
    /// So many users of this name; a tenth of all messages is the first one's, ten a second in all.
    pub fn new(count: usize, name: impl Fn(usize) -> String, texts: Texts) -> Self {
        assert!(count > HEAVY_PEERS, "at least {HEAVY_PEERS} users");
        let jid = |n| Jid::parse(&name(n)).unwrap();
        Self {
            users: (0..count).map(jid).collect(),
            texts,
            heavy_one_in: 10,
            step_ms: 100,
        }
    }

    /// The `n`th of those whom a user writes to.
    pub fn peer(&self, user: usize, n: usize) -> usize {
        let count = self.users.len();
        let peers = if user == 0 { HEAVY_PEERS } else { PEERS };
        let peer = 1 + (user * 31 + n % peers * 17) % (count - 1);
        if peer == user {
            1 + user % (count - 1)
        } else {
            peer
        }
    }

    /// Message `n`.
    pub fn make(&self, dice: &mut Dice, n: u64) -> Message {
        let (sender, receiver) = self.sides(dice);
        let mark = dice.next();
        let id = format!("{n:08x}-{:04x}-4000-8000-{:012x}", n & 0xffff, mark >> 16);
        let stanza: Arc<[u8]> = format!(
            "<message xmlns='jabber:client' from='{}/phone.{sender:04x}' to='{}' id='{id}' \
             type='chat' xml:lang='en'><body>{}</body></message>",
            self.users[sender],
            self.users[receiver],
            self.texts.draw(dice)
        )
        .into_bytes()
        .into();
        let at = ArchiveId((BEGIN_MS + n * self.step_ms) << 12);
        let record = |is_out: bool, peer: usize| {
            let (flags, inbox) = if is_out {
                (Flags::OUT.and(Flags::COUNTS), InboxEffect::Sent)
            } else {
                (Flags::COUNTS, InboxEffect::Received)
            };
            Box::new(ArchiveRecord {
                id: at,
                uid: at,
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

    fn sides(&self, dice: &mut Dice) -> (usize, usize) {
        let is_heavy = dice.below(self.heavy_one_in) == 0;
        let user = if is_heavy {
            0
        } else {
            1 + dice.below(self.users.len() - 1)
        };
        let peer = self.peer(user, dice.below(HEAVY_PEERS));
        if dice.below(2) == 0 {
            (user, peer)
        } else {
            (peer, user)
        }
    }

    /// Queues a message for both archives; told of when it was queued once the second has it.
    pub fn put(&self, store: &impl Store, message: Message, told: &Sender<Instant>) {
        let (told, queued) = (told.clone(), Instant::now());
        let sent = Write::Archive {
            owner: self.users[message.sender].clone(),
            record: message.sent,
        };
        let received = Write::Archive {
            owner: self.users[message.receiver].clone(),
            record: message.received,
        };
        store.write(sent, Box::new(needed));
        let done = move |outcome| {
            needed(outcome);
            // The end of the run does not wait for the last.
            let _ = told.send(queued);
        };
        store.write(received, Box::new(done));
    }
}

/// Ends the program where a write failed: it is a thread of the store that knows.
fn needed(outcome: Result<(), StoreError>) {
    if let Err(error) = outcome {
        eprintln!("the store refuses a message: {error:?}");
        std::process::exit(1);
    }
}

/// Makes accounts that nobody logs in to; those that are there are replaced. A few at a time, and
/// again where the store is busy: one that has just begun is slow.
pub fn accounts(store: &impl Store, users: &[Jid]) {
    const AT_ONCE: usize = 500;
    const TRIES: usize = 100;
    for group in users.chunks(AT_ONCE) {
        let mut left = group.to_vec();
        for _ in 0..TRIES {
            left = refused(store, left);
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(left.is_empty(), "the store stays busy");
    }
}

/// Asks for all of these at once; those that the store was too busy for.
fn refused(store: &impl Store, users: Vec<Jid>) -> Vec<Jid> {
    let (told, tell) = channel();
    let count = users.len();
    for jid in users {
        let credentials = Credentials {
            keys: Vec::new(),
            is_enabled: true,
        };
        let told: Sender<_> = told.clone();
        let again = jid.clone();
        let done = move |outcome| {
            let _ = told.send((again, outcome));
        };
        store.write(Write::AccountPut { jid, credentials }, Box::new(done));
    }
    let mut busy = Vec::new();
    for _ in 0..count {
        match tell.recv().unwrap() {
            (jid, Err(StoreError::Busy)) => busy.push(jid),
            (_, outcome) => needed(outcome),
        }
    }
    busy
}

/// Processor time of a process so far, all threads; `None`: this one (Linux; elsewhere 0).
pub fn cpu(process: Option<u32>) -> Duration {
    let name = process.map_or("self".to_owned(), |number| number.to_string());
    let text = std::fs::read_to_string(format!("/proc/{name}/stat")).unwrap_or_default();
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
