//! When to give memory back to the system: after a storm, the allocator keeps all that it took.

/// Connections that make a storm, coming or going.
const STORM: u64 = 256;
/// Ticks without as many as [`LULL`] new connections that end one.
const CALM_TICKS: u32 = 4;
/// New connections in a tick that are no storm.
const LULL: u64 = 16;
/// Ticks in which it is done once it is due: an allocator keeps a heap for each thread, and a tick
/// runs on any of the runtime's.
const ROUNDS: u32 = 8;

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
    rounds: u32,
}

impl Trim {
    /// Whether to give memory back now: logins have calmed down, or half of the connections are
    /// gone. `accepted` counts all that ever came, `connections` those that are there.
    pub fn tick(&mut self, accepted: u64, connections: u64) -> bool {
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
        if has_calmed || has_fallen {
            self.since = 0;
            self.peak = connections;
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

    fn due(trim: &mut Trim, accepted: u64, connections: u64, ticks: u32) -> u32 {
        (0..ticks)
            .filter(|_| trim.tick(accepted, connections))
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_storm_of_logins_is_followed_by_one_trim() {
        let mut trim = Trim::default();
        for accepted in [100, 1_000, 2_000] {
            assert!(!trim.tick(accepted, accepted));
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
            assert!(!trim.tick(100_000 + 10 * more, 100_000));
        }
    }

    #[test]
    fn a_few_connections_are_no_storm() {
        let mut trim = Trim::default();
        assert_eq!(due(&mut trim, 200, 200, 100), 0);
        assert_eq!(due(&mut trim, 210, 10, 100), 0);
    }
}
