//! Latencies, log-linear: 64 steps for each power of two, so an error of at most 1.6 %.

const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of nanosecond values by their bucket; grows with the largest value, not with their number.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

fn bucket(value: u64) -> usize {
    let exponent = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let index = u64::from(exponent) * STEPS + (value >> exponent);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The middle of a bucket.
fn value(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let exponent = (bucket / STEPS).saturating_sub(1);
    let low = (bucket - exponent * STEPS) << exponent;
    low + ((1 << exponent) >> 1)
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, nanoseconds: u64) {
        let index = bucket(nanoseconds);
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// How many were counted.
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The value below which the share `q` (0 to 1) of all lies, in milliseconds; 0 without values.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of a run and nanoseconds of minutes are far below 2^52"
    )]
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = ((self.total as f64 * q).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return value(index).min(self.max) as f64 / 1e6;
            }
        }
        0.0
    }

    /// The largest value, in milliseconds.
    #[allow(
        clippy::cast_precision_loss,
        reason = "nanoseconds of minutes are below 2^52"
    )]
    pub fn max_ms(&self) -> f64 {
        self.max as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_for_its_values_within_1_6_percent() {
        for shift in 0..50 {
            for around in [0, 1, 3, 7] {
                let exact = (1_u64 << shift) + (around << shift) / 9;
                let stands = value(bucket(exact));
                assert!(
                    exact.abs_diff(stands) * 1000 <= exact * 16,
                    "{exact} {stands}"
                );
            }
        }
    }

    #[test]
    fn buckets_are_in_order_and_without_gap() {
        let mut last = 0;
        for exact in 0..100_000 {
            let now = bucket(exact);
            assert!(now == last || now == last + 1, "{exact}");
            last = now;
        }
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut histogram = Histogram::default();
        assert!(histogram.quantile_ms(0.5).abs() < f64::EPSILON);
        for ms in 1..=1000 {
            histogram.record(ms * 1_000_000);
        }
        assert!((histogram.quantile_ms(0.5) - 500.0).abs() < 8.0);
        assert!((histogram.quantile_ms(0.99) - 990.0).abs() < 16.0);
        assert!((histogram.max_ms() - 1000.0).abs() < 1e-9);
        assert_eq!(histogram.count(), 1000);
    }
}
