//! Timestamps of writes: Cassandra keeps of two values the one with the later timestamp, so ours
//! must never go back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a foreign value may be ahead of this machine's clock and still be believed, µs: a row with
/// a timestamp of the next century must not take the clock there.
const MAX_AHEAD_US: i64 = 24 * 3600 * 1_000_000;

/// A hybrid clock: microseconds since 1970 that strictly grow, whatever the system's clock does.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: AtomicI64,
}

impl Clock {
    /// The next timestamp: now, or just behind the last one given or seen.
    pub(super) fn next(&self) -> i64 {
        self.next_at(system_us())
    }

    fn next_at(&self, now_us: i64) -> i64 {
        let step = |last: i64| Some(now_us.max(last + 1));
        // The closure always gives a value, so both arms are the same.
        match self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step)
        {
            Ok(last) | Err(last) => now_us.max(last + 1),
        }
    }

    /// Never runs behind this timestamp from now on; one far in the future is ignored.
    pub(super) fn observe(&self, timestamp_us: i64) {
        // Nearly always true, and then nothing is written that other threads read.
        if timestamp_us <= self.last.load(Ordering::Acquire) {
            return;
        }
        if timestamp_us <= system_us() + MAX_AHEAD_US {
            self.last.fetch_max(timestamp_us, Ordering::AcqRel);
        }
    }
}

/// Microseconds since 1970; 0 before.
pub(super) fn system_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_grow_when_the_system_clock_goes_back() {
        let clock = Clock::default();
        assert_eq!(clock.next_at(1_000), 1_000);
        assert_eq!(clock.next_at(1_000), 1_001);
        assert_eq!(clock.next_at(500), 1_002);
        assert_eq!(clock.next_at(2_000), 2_000);
    }

    #[test]
    fn what_was_seen_is_never_reached_again() {
        let clock = Clock::default();
        let ahead = system_us() + 60_000_000;
        clock.observe(ahead);
        assert_eq!(clock.next(), ahead + 1);
        clock.observe(5);
        assert_eq!(clock.next(), ahead + 2);
    }

    #[test]
    fn a_timestamp_of_another_century_is_not_believed() {
        let clock = Clock::default();
        clock.observe(i64::MAX);
        assert!(clock.next() <= system_us());
    }
}
