//! Token buckets for stanza and byte rates.

/// A token bucket that lends: a caller may always take, and is told how long it has to wait before
/// it takes again. So one stanza larger than the burst is a long pause, not a dead end.
///
/// Counts in thousandths of a token and whole milliseconds: nothing is lost to rounding.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Tokens per second, which are thousandths per millisecond; 0: no limit.
    rate: u64,
    /// The most the bucket holds, thousandths.
    burst_milli: i64,
    /// What it holds, thousandths; below 0: lent.
    level_milli: i64,
    /// When the level was right.
    at_ms: u64,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gets `rate` tokens a second. A rate of 0 is no limit.
    /// A burst of 0 lets every token be waited for.
    #[must_use]
    pub fn new(rate: u64, burst: u64, now_ms: u64) -> Self {
        let burst_milli = i64::try_from(burst.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self {
            rate,
            burst_milli,
            level_milli: burst_milli,
            at_ms: now_ms,
        }
    }

    /// Takes `n` tokens. Returns the milliseconds until nothing is owed any more, 0 to go on at
    /// once. A clock that goes back fills nothing in.
    pub fn take(&mut self, n: u64, now_ms: u64) -> u64 {
        if self.rate == 0 {
            return 0;
        }
        let taken = i64::try_from(n.saturating_mul(1000)).unwrap_or(i64::MAX);
        self.level_milli = self.level_at(now_ms).saturating_sub(taken);
        self.at_ms = self.at_ms.max(now_ms);
        match u64::try_from(self.level_milli.saturating_neg()) {
            Ok(owed) => owed.div_ceil(self.rate),
            Err(_) => 0,
        }
    }

    /// Thousandths.
    fn level_at(&self, now_ms: u64) -> i64 {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let filled = i64::try_from(self.rate.saturating_mul(elapsed_ms)).unwrap_or(i64::MAX);
        self.level_milli
            .saturating_add(filled)
            .min(self.burst_milli)
    }

    /// Whether it holds its whole burst by now, as a new one does.
    #[must_use]
    pub fn is_full(&self, now_ms: u64) -> bool {
        self.rate == 0 || self.level_at(now_ms) >= self.burst_milli
    }

    /// Holds no more than another one of the same purpose does now.
    pub fn lower_to(&mut self, other: &Self, now_ms: u64) {
        if self.rate > 0 && other.rate > 0 {
            self.level_milli = self.level_at(now_ms).min(other.level_at(now_ms));
            self.at_ms = self.at_ms.max(now_ms);
        }
    }

    /// Changes the rate and the burst, for a new configuration; what is owed stays owed.
    pub fn set(&mut self, rate: u64, burst: u64, now_ms: u64) {
        self.take(0, now_ms);
        let fresh = Self::new(rate, burst, now_ms);
        self.level_milli = if self.rate == 0 {
            fresh.level_milli
        } else {
            self.level_milli.min(fresh.burst_milli)
        };
        self.rate = rate;
        self.burst_milli = fresh.burst_milli;
        self.at_ms = self.at_ms.max(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::TokenBucket;

    #[test]
    fn a_burst_passes_at_once_and_the_next_token_waits() {
        let mut bucket = TokenBucket::new(10, 5, 1_000);
        for _ in 0..5 {
            assert_eq!(bucket.take(1, 1_000), 0);
        }
        assert_eq!(bucket.take(1, 1_000), 100);
        assert_eq!(bucket.take(1, 1_000), 200);
        assert_eq!(bucket.take(0, 1_150), 50);
        assert_eq!(bucket.take(0, 1_200), 0);
    }

    #[test]
    fn more_than_the_burst_is_lent_and_waited_for() {
        let mut bucket = TokenBucket::new(1_000, 100, 0);
        assert_eq!(bucket.take(10_100, 0), 10_000);
        assert_eq!(bucket.take(0, 10_000), 0);
    }

    #[test]
    fn an_idle_bucket_holds_no_more_than_its_burst() {
        let mut bucket = TokenBucket::new(10, 5, 0);
        assert_eq!(bucket.take(6, 1_000_000), 100);
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let mut bucket = TokenBucket::new(0, 0, 0);
        assert_eq!(bucket.take(u64::MAX, 0), 0);
    }

    #[test]
    fn a_slow_rate_fills_in_small_steps_without_loss() {
        let mut bucket = TokenBucket::new(1, 1, 0);
        assert_eq!(bucket.take(1, 0), 0);
        for now_ms in 1..1_000 {
            assert_eq!(bucket.take(0, now_ms), 0);
        }
        assert_eq!(bucket.take(1, 1_000), 0);
        assert_eq!(bucket.take(1, 1_000), 1_000);
    }

    #[test]
    fn a_clock_that_goes_back_fills_nothing_and_nothing_overflows() {
        let mut bucket = TokenBucket::new(u64::MAX, u64::MAX, 10);
        assert_eq!(bucket.take(u64::MAX, 5), 0);
        let mut bucket = TokenBucket::new(1, 1, 10_000);
        assert_eq!(bucket.take(2, 10_000), 1_000);
        assert_eq!(bucket.take(0, 5_000), 1_000);
        assert_eq!(
            bucket.take(u64::MAX, u64::MAX),
            (i64::MAX as u64).div_ceil(1) - 1_000
        );
    }

    #[test]
    fn one_that_is_lowered_to_another_holds_no_more_and_keeps_its_own_rate() {
        let mut spent = TokenBucket::new(10, 100, 0);
        spent.take(100, 0);
        assert!(!spent.is_full(9_999) && spent.is_full(10_000));
        let mut bucket = TokenBucket::new(20, 100, 1_000);
        bucket.lower_to(&spent, 1_000);
        assert_eq!(bucket.take(10, 1_000), 0);
        assert_eq!(bucket.take(20, 1_000), 1_000);
        spent.lower_to(&TokenBucket::new(0, 0, 0), 2_000);
        assert_eq!(spent.take(20, 2_000), 0, "one without a limit says nothing");
        assert!(TokenBucket::new(0, 0, 0).is_full(0));
    }

    #[test]
    fn a_new_configuration_keeps_the_debt() {
        let mut bucket = TokenBucket::new(10, 0, 0);
        assert_eq!(bucket.take(10, 0), 1_000);
        bucket.set(20, 5, 0);
        assert_eq!(bucket.take(0, 0), 500);
        bucket.set(0, 0, 0);
        assert_eq!(bucket.take(100, 0), 0);
    }
}
