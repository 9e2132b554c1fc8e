//! When to give memory back to the system: after a storm, the allocator keeps all that it took.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Connections that make a storm, coming or going.
const STORM: u64 = 256;
/// Ticks without as many as [`LULL`] new connections that end one.
const CALM_TICKS: u32 = 4;
/// New connections in a tick that are no storm.
const LULL: u64 = 16;
/// Ticks in which it is done once it is due: what one thread frees of another's heap is given back
/// when the other looks again.
const ROUNDS: u32 = 3;

/// Ticks between two times that it is done for queues thrown away.
const PAUSE_TICKS: u32 = 4;

/// Between a queue that is thrown away and the time that it is done, at least: its connection lets
/// go first, and the next that is thrown away shares it.
const SOON: Duration = Duration::from_millis(50);
/// So many times what it takes a thread must be between two times, since the work grows with the
/// heap.
const SHARE: u32 = 50;

thread_local! {
    /// The last request that this thread has followed.
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Gives memory back on every thread of the runtime: an allocator keeps a heap for each, which only
/// the thread itself may touch.
#[derive(Debug)]
pub struct Trimmer {
    /// Gives back what the calling thread's heap keeps.
    trim: fn(),
    /// Counts requests.
    asked: AtomicU64,
    /// The longest that it took a thread since [`Trimmer::pause`] last asked, µs.
    took_us: AtomicU64,
}

impl Trimmer {
    /// With the allocator's function.
    #[must_use]
    pub fn new(trim: fn()) -> Self {
        Self {
            trim,
            asked: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
        }
    }

    /// Every thread shall give back, the next time that it calls [`Trimmer::follow`].
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back this thread's memory if that was asked since it last did. Called by each thread
    /// before it sleeps; costs a comparison then.
    pub fn follow(&self) {
        let asked = self.asked.load(Ordering::Relaxed);
        if DONE.replace(asked) != asked {
            let began = Instant::now();
            (self.trim)();
            let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.took_us.fetch_max(took_us, Ordering::Relaxed);
        }
    }

    /// How long to wait before asking for what has just become free.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let took = Duration::from_micros(self.took_us.swap(0, Ordering::Relaxed));
        took.saturating_mul(SHARE).max(SOON)
    }
}

/// Looks at the number of connections, tick by tick.
#[derive(Debug, Default)]
pub struct Trim {
    /// All that were ever accepted, at the last tick.
    accepted: u64,
    /// Accepted since memory was last given back.
    since: u64,
    calm_ticks: u32,
    /// The most connections since then.
    peak: u64,
    /// Queues that overflowed, when memory was last given back for that.
    overflows: u64,
    /// Ticks until that may be done again.
    pause_ticks: u32,
    rounds: u32,
}

impl Trim {
    /// Whether to give memory back now: logins have calmed down, half of the connections are gone,
    /// or queues of clients that do not read were thrown away. `accepted` counts all that ever
    /// came, `connections` those that are there, `overflows` all queues that were ever full.
    pub fn tick(&mut self, accepted: u64, connections: u64, overflows: u64) -> bool {
        let new = accepted.saturating_sub(self.accepted);
        self.accepted = accepted;
        self.since += new;
        self.peak = self.peak.max(connections);
        self.calm_ticks = if new < LULL { self.calm_ticks + 1 } else { 0 };
        // In proportion, since the work grows with the heap: a steady trickle of logins on a large
        // node is no reason.
        let is_storm = self.since >= STORM.max(connections / 4);
        let has_calmed = is_storm && self.calm_ticks >= CALM_TICKS;
        let has_fallen = self.peak >= STORM && connections <= self.peak / 2;
        self.pause_ticks = self.pause_ticks.saturating_sub(1);
        // A flood may throw away again and again: then now and then is enough.
        let has_emptied = overflows > self.overflows && self.pause_ticks == 0;
        if has_emptied {
            self.overflows = overflows;
            self.pause_ticks = PAUSE_TICKS;
        }
        if has_calmed || has_fallen {
            self.since = 0;
            self.peak = connections;
        }
        if has_calmed || has_fallen || has_emptied {
            self.rounds = ROUNDS;
        }
        let is_due = self.rounds > 0;
        self.rounds = self.rounds.saturating_sub(1);
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_follows_a_request_once() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let trimmer = Trimmer::new(|| {
            CALLS.fetch_add(1, Ordering::SeqCst);
        });
        let twice = || {
            trimmer.follow();
            trimmer.follow();
        };
        std::thread::scope(|scope| {
            scope.spawn(twice);
        });
        assert_eq!(CALLS.load(Ordering::SeqCst), 0);
        trimmer.ask();
        for _ in 0..2 {
            std::thread::scope(|scope| {
                scope.spawn(twice);
            });
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_takes_long_is_asked_for_seldom() {
        let trimmer = Trimmer::new(|| std::thread::sleep(Duration::from_millis(20)));
        assert_eq!(trimmer.pause(), SOON);
        trimmer.ask();
        trimmer.follow();
        assert!(trimmer.pause() >= Duration::from_secs(1));
        assert_eq!(trimmer.pause(), SOON);
    }

    fn due(trim: &mut Trim, accepted: u64, connections: u64, ticks: u32) -> u32 {
        (0..ticks)
            .filter(|_| trim.tick(accepted, connections, 0))
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_storm_of_logins_is_followed_by_one_trim() {
        let mut trim = Trim::default();
        for accepted in [100, 1_000, 2_000] {
            assert!(!trim.tick(accepted, accepted, 0));
        }
        assert_eq!(due(&mut trim, 2_000, 2_000, 100), ROUNDS);
    }

    #[test]
    fn half_of_many_connections_going_is_followed_by_one() {
        let mut trim = Trim::default();
        due(&mut trim, 2_000, 2_000, 100);
        assert_eq!(due(&mut trim, 2_000, 1_100, 100), 0);
        assert_eq!(due(&mut trim, 2_000, 900, 100), ROUNDS);
        assert_eq!(due(&mut trim, 2_000, 400, 1), 1);
    }

    #[test]
    fn a_trickle_of_logins_on_a_large_node_is_no_storm() {
        let mut trim = Trim::default();
        due(&mut trim, 100_000, 100_000, 100);
        for more in 1..1_000 {
            assert!(!trim.tick(100_000 + 10 * more, 100_000, 0));
        }
    }

    #[test]
    fn queues_thrown_away_are_followed_by_one_and_a_flood_of_them_by_a_few() {
        let mut trim = Trim::default();
        assert!(trim.tick(10, 10, 1));
        let rest = (0..100).filter(|_| trim.tick(10, 10, 1)).count();
        assert_eq!(rest, ROUNDS as usize - 1);
        let starts = (2..102).filter(|n| {
            trim.rounds = 0;
            trim.tick(10, 10, *n)
        });
        assert_eq!(starts.count(), 100 / PAUSE_TICKS as usize);
    }

    #[test]
    fn a_few_connections_are_no_storm() {
        let mut trim = Trim::default();
        assert_eq!(due(&mut trim, 200, 200, 100), 0);
        assert_eq!(due(&mut trim, 210, 10, 100), 0);
    }
}
