//! Connections by address: how many are open and how many came of late.

use crate::admission::network;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

const MINUTE_MS: u64 = 60_000;
/// New connections of an address in a minute: so many times those that it may have open, for a
/// handshake costs us several times what it costs whoever sends a recorded one. At least as many
/// as a user with a dozen clients and a failing network makes.
const RENEWALS: u32 = 10;
const MIN_NEW: u32 = 600;
/// Addresses without a connection remembered at most.
const REMEMBERED: usize = 100_000;

#[derive(Debug, Clone, Copy)]
struct Count {
    open: u32,
    /// Since then.
    new: u32,
    since_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    by_address: HashMap<IpAddr, Count>,
    cleaned_ms: u64,
}

/// Connections by address, as [`network`] tells addresses apart.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<State>);

/// Counts a connection of an address while it lives.
#[derive(Debug)]
pub struct AddressGuard {
    addresses: Arc<Addresses>,
    ip: IpAddr,
}

impl Addresses {
    /// Lets the address in, unless it has `limit` connections open or has opened too many within a
    /// minute; 0: no limit, neither of the one nor of the other.
    pub fn admit(self: &Arc<Self>, ip: IpAddr, limit: u32, now_ms: u64) -> Option<AddressGuard> {
        let ip = network(ip);
        let mut state = self.0.lock();
        state.clean(now_ms);
        let count = state.by_address.entry(ip).or_insert(Count {
            open: 0,
            new: 0,
            since_ms: now_ms,
        });
        if count.since_ms + MINUTE_MS <= now_ms {
            (count.new, count.since_ms) = (0, now_ms);
        }
        let most_new = limit.saturating_mul(RENEWALS).max(MIN_NEW);
        if limit > 0 && (count.open >= limit || count.new >= most_new) {
            return None;
        }
        count.open += 1;
        count.new = count.new.saturating_add(1);
        drop(state);
        Some(AddressGuard {
            addresses: Arc::clone(self),
            ip,
        })
    }

    /// Addresses that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().by_address.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Forgets who has no connection and opened none within a minute.
    fn clean(&mut self, now_ms: u64) {
        if self.cleaned_ms + MINUTE_MS > now_ms {
            return;
        }
        self.cleaned_ms = now_ms;
        self.by_address
            .retain(|_, count| count.open > 0 || count.since_ms + MINUTE_MS > now_ms);
        self.by_address.shrink_to_fit();
    }
}

impl Drop for AddressGuard {
    fn drop(&mut self) {
        let mut state = self.addresses.0.lock();
        let is_full = state.by_address.len() > REMEMBERED;
        if let Some(count) = state.by_address.get_mut(&self.ip) {
            count.open -= 1;
            if count.open == 0 && is_full {
                state.by_address.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_another_its_own() {
        let addresses = Arc::<Addresses>::default();
        let first = addresses.admit(ip("192.0.2.1"), 2, 0).unwrap();
        let _second = addresses.admit(ip("::ffff:192.0.2.1"), 2, 0).unwrap();
        assert!(addresses.admit(ip("192.0.2.1"), 2, 0).is_none());
        assert!(addresses.admit(ip("192.0.2.2"), 2, 0).is_some());
        drop(first);
        assert!(addresses.admit(ip("192.0.2.1"), 2, 0).is_some());
    }

    #[test]
    fn an_ipv6_network_shares_one_limit() {
        let addresses = Arc::<Addresses>::default();
        let _first = addresses.admit(ip("2001:db8:1:2::1"), 1, 0).unwrap();
        assert!(addresses.admit(ip("2001:db8:1:2:a:b:c:d"), 1, 0).is_none());
        assert!(addresses.admit(ip("2001:db8:1:3::1"), 1, 0).is_some());
    }

    #[test]
    fn who_comes_and_goes_too_often_waits_for_the_next_minute() {
        let addresses = Arc::<Addresses>::default();
        let home = ip("192.0.2.1");
        assert!((0..MIN_NEW).all(|_| addresses.admit(home, 4, 1_000).is_some()));
        assert!(addresses.admit(home, 4, 1_000).is_none());
        assert!(addresses.admit(ip("192.0.2.2"), 4, 1_000).is_some());
        assert!(addresses.admit(home, 0, 1_000).is_some(), "0 is no limit");
        assert!(addresses.admit(home, 4, 60_999).is_none());
        assert!(addresses.admit(home, 4, 61_000).is_some());
        assert!((0..2_000).all(|_| addresses.admit(ip("192.0.2.3"), 200, 61_000).is_some()));
        assert!(addresses.admit(ip("192.0.2.3"), 200, 61_000).is_none());
    }

    #[test]
    fn no_flood_of_addresses_makes_it_grow_without_bound() {
        let addresses = Arc::<Addresses>::default();
        let nth = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        let stays = addresses.admit(nth(0), 9, 60_000).unwrap();
        for n in 1..REMEMBERED + 10 {
            assert!(addresses.admit(nth(n), 9, 60_000).is_some());
        }
        assert_eq!(addresses.len(), REMEMBERED);
        let _other = addresses.admit(nth(1), 9, 120_000).unwrap();
        assert_eq!(addresses.len(), 2);
        drop(stays);
        assert!(addresses.admit(nth(2), 9, 180_000).is_some());
        assert_eq!(addresses.len(), 2);
    }
}
