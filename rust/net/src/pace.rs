//! How fast an account may send, kept over its connections: who logs in again goes on where they
//! were, and has no second burst.

use crate::client::ClientLimits;
use antiphon_routing::shaper::TokenBucket;
use antiphon_xmpp::Jid;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Accounts remembered at most. Each is forgotten once its buckets have filled up again, which takes
/// seconds, so only as many logouts within these reach it; one more is not remembered.
const REMEMBERED: usize = 50_000;
/// Between two looks for those that can be forgotten, ms.
const SWEEP_MS: u64 = 1_000;

/// What a client may send now.
#[derive(Debug, Clone)]
pub struct Pace {
    stanzas: TokenBucket,
    bytes: TokenBucket,
}

impl Pace {
    /// Of somebody who has sent nothing yet.
    #[must_use]
    pub fn new(limits: &ClientLimits, now_ms: u64) -> Self {
        Self {
            stanzas: TokenBucket::new(limits.stanzas_per_second, limits.burst_stanzas, now_ms),
            bytes: TokenBucket::new(limits.bytes_per_second, limits.burst_bytes, now_ms),
        }
    }

    /// So many stanzas came; the milliseconds to wait before more are taken.
    pub fn stanzas(&mut self, count: u64, now_ms: u64) -> u64 {
        self.stanzas.take(count, now_ms)
    }

    /// So many bytes came; likewise.
    pub fn bytes(&mut self, count: u64, now_ms: u64) -> u64 {
        self.bytes.take(count, now_ms)
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        self.stanzas.is_full(now_ms) && self.bytes.is_full(now_ms)
    }

    fn lower_to(&mut self, other: &Self, now_ms: u64) {
        self.stanzas.lower_to(&other.stanzas, now_ms);
        self.bytes.lower_to(&other.bytes, now_ms);
    }
}

#[derive(Debug, Default)]
struct State {
    /// By bare JID; only where something is missing to a whole burst.
    by_account: HashMap<Jid, Pace>,
    swept_ms: u64,
}

impl State {
    fn sweep(&mut self, now_ms: u64) {
        if self.swept_ms + SWEEP_MS > now_ms {
            return;
        }
        self.swept_ms = now_ms;
        self.by_account.retain(|_, pace| !pace.is_fresh(now_ms));
        if self.by_account.len() * 4 < self.by_account.capacity() {
            self.by_account.shrink_to_fit();
        }
    }
}

/// What accounts have left whose connections ended, or are being slowed down. A connection that is
/// there has a pace of its own, so that a user's clients do not hinder each other.
#[derive(Debug, Default)]
pub struct Paces(Mutex<State>);

impl Paces {
    /// A connection has become this account's: from now on it has no more than the account has
    /// left.
    pub fn go_on(&self, account: &Jid, pace: &mut Pace, now_ms: u64) {
        let mut state = self.0.lock();
        state.sweep(now_ms);
        if let Some(kept) = state.by_account.get(account.bare_str()) {
            pace.lower_to(kept, now_ms);
        }
    }

    /// A connection of this account ends with this pace, or is slowed down to it.
    pub fn keep(&self, account: &Jid, pace: &Pace, now_ms: u64) {
        if pace.is_fresh(now_ms) {
            return;
        }
        let mut state = self.0.lock();
        state.sweep(now_ms);
        if let Some(kept) = state.by_account.get_mut(account.bare_str()) {
            // The later limits count.
            let mut pace = pace.clone();
            pace.lower_to(kept, now_ms);
            *kept = pace;
        } else if state.by_account.len() < REMEMBERED {
            state.by_account.insert(account.bare(), pace.clone());
        }
    }

    /// Accounts that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().by_account.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    /// 10 stanzas a second and 50 at once, 100 bytes a second and 1,000 at once.
    fn limits() -> ClientLimits {
        ClientLimits {
            login_seconds: 0,
            stanzas_per_second: 10,
            burst_stanzas: 50,
            bytes_per_second: 100,
            burst_bytes: 1_000,
            ping_seconds: 0,
            ping_timeout_seconds: 0,
            read_ahead: 0,
        }
    }

    /// Stanzas that a connection which has just become this account's may send at once.
    fn burst(paces: &Paces, account: &Jid, now_ms: u64) -> usize {
        let mut pace = Pace::new(&limits(), now_ms);
        paces.go_on(account, &mut pace, now_ms);
        (0..).take_while(|_| pace.stanzas(1, now_ms) == 0).count()
    }

    #[test]
    fn a_spent_burst_is_not_there_again_until_time_has_filled_it() {
        let (paces, romeo) = (Paces::default(), jid("romeo@a.example/one"));
        let mut pace = Pace::new(&limits(), 10_000);
        assert_eq!(pace.stanzas(50, 10_000), 0);
        paces.keep(&romeo, &pace, 10_000);
        assert_eq!(burst(&paces, &jid("romeo@a.example/two"), 10_000), 0);
        assert_eq!(burst(&paces, &romeo, 12_000), 20);
        assert_eq!(burst(&paces, &jid("juliet@a.example/one"), 12_000), 50);
        assert_eq!(burst(&paces, &romeo, 20_000), 50);
    }

    #[test]
    fn bytes_are_kept_as_stanzas_are() {
        let (paces, romeo) = (Paces::default(), jid("romeo@a.example/one"));
        let mut pace = Pace::new(&limits(), 10_000);
        assert_eq!(pace.bytes(1_000, 10_000), 0);
        paces.keep(&romeo, &pace, 10_000);
        let mut again = Pace::new(&limits(), 11_000);
        paces.go_on(&romeo, &mut again, 11_000);
        assert_eq!(again.bytes(100, 11_000), 0);
        assert_eq!(again.bytes(100, 11_000), 1_000);
    }

    #[test]
    fn of_two_connections_the_one_that_has_less_counts() {
        let (paces, romeo) = (Paces::default(), jid("romeo@a.example/one"));
        let (mut one, mut two) = (Pace::new(&limits(), 0), Pace::new(&limits(), 0));
        one.stanzas(40, 0);
        two.stanzas(5, 0);
        paces.keep(&romeo, &one, 0);
        paces.keep(&romeo, &two, 0);
        assert_eq!(burst(&paces, &romeo, 0), 10);
        assert_eq!(burst(&paces, &romeo, 0), 10, "asking does not use it up");
    }

    #[test]
    fn who_has_a_whole_burst_is_not_remembered_and_who_had_less_is_forgotten() {
        let paces = Paces::default();
        let mut pace = Pace::new(&limits(), 0);
        paces.keep(&jid("a@a.example"), &pace, 0);
        assert!(paces.is_empty());
        pace.stanzas(30, 0);
        paces.keep(&jid("a@a.example"), &pace, 1_000);
        assert_eq!(paces.len(), 1);
        paces.go_on(&jid("b@a.example"), &mut Pace::new(&limits(), 2_900), 2_900);
        assert_eq!(paces.len(), 1);
        paces.go_on(&jid("b@a.example"), &mut Pace::new(&limits(), 4_000), 4_000);
        assert!(paces.is_empty());
    }

    #[test]
    fn no_flood_of_accounts_makes_it_grow_without_bound() {
        let paces = Paces::default();
        let mut pace = Pace::new(&limits(), 0);
        pace.stanzas(50, 0);
        for i in 0..REMEMBERED + 10 {
            paces.keep(&jid(&format!("u{i}@a.example")), &pace, 0);
        }
        assert_eq!(paces.len(), REMEMBERED);
        assert_eq!(burst(&paces, &jid("u0@a.example"), 0), 0);
        paces.go_on(&jid("x@a.example"), &mut pace, 10_000);
        assert!(paces.is_empty());
    }
}
