//! Writing and reading under the clock, one printed line each; of either engine.

use super::world::{Dice, Texts, World, cpu};
use antiphon_routing::archive::{ArchiveFilter, InboxFilter, InboxSlice};
use antiphon_routing::store::{Store, StoreFuture};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Messages on the way at a time.
pub const IN_FLIGHT: u64 = 1000;
/// A page of a search.
const FOUND: usize = 20;
/// Searches of a kind.
const EACH: usize = 200;

/// A store under the clock; CPU is of the whole process, and of the database's if it has one.
pub struct Bench<'a, S: Store> {
    pub store: &'a S,
    pub world: &'a World,
    pub server: Option<u32>,
}

type Cpus = (Duration, Duration);

impl<S: Store> Bench<'_, S> {
    fn cpus(&self) -> Cpus {
        (
            cpu(None),
            self.server
                .map_or(Duration::ZERO, |server| cpu(Some(server))),
        )
    }

    /// CPU since, µs for each of so many: ours without the load's own, the server's.
    fn used(&self, since: Cpus, count: usize, making: f64) -> String {
        let now = self.cpus();
        let each = |now: Duration, then: Duration| micros(now.saturating_sub(then)) / count as f64;
        let own = each(now.0, since.0) - making;
        let database = self.server.map_or(String::new(), |_| {
            format!(", Cassandra {:.1}", each(now.1, since.1))
        });
        format!("CPU µs: own {own:.1}{database}")
    }

    /// Writes so many messages, as fast as they are taken, and waits until `settle` returns.
    pub fn fill(&self, messages: usize, settle: impl FnOnce()) {
        let mut dice = Dice(1);
        let before = cpu(None);
        for n in 0..50_000 {
            std::hint::black_box(self.world.make(&mut dice, n));
        }
        let making = micros(cpu(None).saturating_sub(before)) / 50_000.0;
        let mut dice = Dice(1);
        let (told, tell): (Sender<Instant>, Receiver<Instant>) = channel();
        let mut delays = Vec::new();
        // The first part warms caches, and a database's compiler.
        let warm = messages / 5;
        let (mut begin, mut since) = (Instant::now(), self.cpus());
        for n in 0..messages {
            if n as u64 >= IN_FLIGHT {
                delays.push(tell.recv().unwrap().elapsed());
            }
            if n == warm && warm > 0 {
                let rate = warm as f64 / begin.elapsed().as_secs_f64();
                println!(
                    "warming    {rate:.0} messages/s, {}",
                    self.used(since, warm, making)
                );
                delays.clear();
                (begin, since) = (Instant::now(), self.cpus());
            }
            let message = self.world.make(&mut dice, n as u64);
            self.world.put(self.store, message, &told);
        }
        let counted = (messages - warm).max(1);
        let rate = counted as f64 / begin.elapsed().as_secs_f64();
        println!(
            "fill       {rate:.0} messages/s, {}",
            self.used(since, counted, making)
        );
        drop(told);
        delays.extend(tell.into_iter().map(|queued| queued.elapsed()));
        settle();
        println!("settled    {}", self.used(since, counted, making));
        println!("           acknowledged {}", percentiles(&mut delays));
    }

    /// How long an acknowledgement takes at 1,000 messages a second; `messages` are there.
    pub fn paced(&self, messages: usize) {
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
            let message = self.world.make(&mut dice, messages as u64 + n);
            self.world.put(self.store, message, &told);
        }
        let used = self.used(since, 1000 * SECONDS as usize, 0.0);
        drop(told);
        let mut delays = delays.join().unwrap();
        println!(
            "1,000/s    acknowledged {}, {used}",
            percentiles(&mut delays)
        );
    }

    /// Pages of 50, backwards, of somebody and of the one with most, with anybody and with one.
    pub fn pages(&self) {
        for (name, owner) in OWNERS {
            for is_with in [false, true] {
                let mut filter = ArchiveFilter {
                    with: is_with.then(|| self.world.users[self.world.peer(owner, 1)].clone()),
                    ..ArchiveFilter::default()
                };
                let owner = &self.world.users[owner];
                let (mut delays, mut count, since) = (Vec::new(), 0, self.cpus());
                for _ in 0..300 {
                    let begin = Instant::now();
                    let page = wait(self.store.archive_page(owner, filter.clone(), true, 50));
                    delays.push(begin.elapsed());
                    count += page.messages.len();
                    filter.before = page.messages.first().map(|m| m.id);
                    if page.is_complete {
                        filter.before = None;
                    }
                }
                println!(
                    "page       {name} {:4} {:5.1} messages, {}, {}",
                    if is_with { "with" } else { "" },
                    count as f64 / 300.0,
                    percentiles(&mut delays),
                    self.used(since, 300, 0.0)
                );
            }
        }
    }

    /// The whole inbox of the one with most conversations.
    pub fn inbox(&self) {
        let slice = InboxSlice {
            is_ascending: false,
            after: None,
            before: None,
            is_from_end: false,
            limit: 1000,
        };
        let (mut delays, mut found, since) = (Vec::new(), 0, self.cpus());
        for _ in 0..EACH {
            let begin = Instant::now();
            let owner = &self.world.users[0];
            let page = wait(self.store.inbox_page(owner, InboxFilter::default(), slice));
            delays.push(begin.elapsed());
            found = page.entries.len();
        }
        println!(
            "inbox      {found} conversations, {}, {}",
            percentiles(&mut delays),
            self.used(since, EACH, 0.0)
        );
    }

    /// Every kind of search, newest first.
    pub fn searches(&self) {
        let kinds = kinds(&Ranks::of(&self.world.texts));
        for (name, owner) in OWNERS {
            for is_with in [false, true] {
                for (kind, texts) in &kinds {
                    let (mut delays, mut found, since) = (Vec::new(), 0, self.cpus());
                    for (n, text) in texts.iter().enumerate() {
                        let peer = self.world.peer(owner, n);
                        let filter = ArchiveFilter {
                            text: Some(text.clone()),
                            with: is_with.then(|| self.world.users[peer].clone()),
                            ..ArchiveFilter::default()
                        };
                        let begin = Instant::now();
                        let owner = &self.world.users[owner];
                        let page = wait(self.store.archive_page(owner, filter, true, FOUND));
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

const OWNERS: [(&str, usize); 2] = [("light", 7), ("heavy", 0)];

/// Words by how common they are.
struct Ranks {
    common: Vec<String>,
    middle: Vec<String>,
    rare: Vec<String>,
    /// Pairs of neighbours.
    phrases: Vec<String>,
}

impl Ranks {
    fn of(texts: &Texts) -> Self {
        match texts {
            Texts::Words(words) => Self {
                common: words[..20].to_vec(),
                middle: words[500..2000].to_vec(),
                rare: words[words.len() / 3..].to_vec(),
                phrases: (0..20)
                    .map(|n| format!("{} {}", words[n], words[(n + 3) % 20]))
                    .collect(),
            },
            Texts::Sentences(sentences) => Self::counted(sentences),
        }
    }

    fn counted(sentences: &[String]) -> Self {
        let mut counts: HashMap<String, usize> = HashMap::new();
        let mut phrases = Vec::new();
        for sentence in sentences {
            let lower = sentence.to_lowercase();
            let words: Vec<&str> = lower
                .split(|c: char| !c.is_ascii_alphabetic())
                .filter(|word| word.len() > 2)
                .collect();
            for word in words.iter().collect::<HashSet<_>>() {
                *counts.entry((*word).to_owned()).or_default() += 1;
            }
            // Neighbours in the text, not only among the long words.
            let pair = words.get(..2).map(|pair| pair.join(" "));
            phrases.extend(pair.filter(|pair| lower.contains(pair.as_str())));
        }
        let mut words: Vec<(String, usize)> = counts.into_iter().collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let share = |least: usize, most: usize| -> Vec<String> {
            let some = words.iter().filter(|w| (least..=most).contains(&w.1));
            some.map(|w| w.0.clone()).collect()
        };
        Self {
            common: share(500, usize::MAX),
            middle: share(20, 60),
            rare: share(1, 1),
            phrases,
        }
    }
}

/// What is searched for, by kind.
fn kinds(ranks: &Ranks) -> Vec<(&'static str, Vec<String>)> {
    let pick = |from: &[String], n: usize| from[n * 7919 % from.len()].clone();
    let long: Vec<String> = ranks
        .middle
        .iter()
        .filter(|w| w.len() > 6)
        .cloned()
        .collect();
    let all = |make: &dyn Fn(usize) -> String| (0..EACH).map(make).collect::<Vec<String>>();
    let two = |a: &[String], b: &[String], n: usize| format!("{} {}", pick(a, n), pick(b, n + 5));
    let (common, middle, rare) = (&ranks.common, &ranks.middle, &ranks.rare);
    vec![
        ("common", all(&|n| pick(common, n))),
        ("middle", all(&|n| pick(middle, n))),
        ("rare", all(&|n| pick(rare, n))),
        ("absent", all(&|n| format!("xqxqx{n}"))),
        ("two common", all(&|n| two(common, common, n))),
        ("common and middle", all(&|n| two(common, middle, n))),
        ("common and rare", all(&|n| two(common, rare, n))),
        ("two middle", all(&|n| two(middle, middle, n))),
        (
            "phrase",
            all(&|n| format!("\"{}\"", pick(&ranks.phrases, n))),
        ),
        (
            "prefix of 2",
            all(&|n| format!("{}*", &pick(&long, n)[..2])),
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

fn percentiles(delays: &mut [Duration]) -> String {
    delays.sort_unstable();
    let last = delays.len().saturating_sub(1);
    let at = |share: f64| {
        delays
            .get((share * last as f64) as usize)
            .map_or(0.0, |d| micros(*d) / 1e3)
    };
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

/// The outcome, on this thread.
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
