//! Logins take turns, so that a storm of them does not delay those who are logged in.
//!
//! A step of a login (a flight of a TLS handshake, a proof, a bind) takes up to a millisecond of a
//! worker; thousands of connections that are ready for theirs at once would stand before every
//! live session in the runtime's queue. So each step needs a turn, of which there are few. A turn
//! is passed on only after its worker has run out of ready tasks and has looked at its sockets:
//! live sessions go first. The next turn is that of the connection that came first, so whoever came
//! early gets through whatever comes later; a connection that waits for its peer holds none.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

/// Time spent on logins after which their turns wait for the sockets of live sessions. A look at
/// them costs a system call, which a short step alone is not worth.
const SLICE: Duration = Duration::from_micros(200);

/// What counts as one address in limits: an IPv4 address, or the /64 that a subscriber is given
/// (RFC 6177), where the other half costs an attacker nothing.
#[must_use]
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// Bounds of logins; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimits {
    /// Steps in hand.
    pub at_once: usize,
    /// Connections that have not logged in.
    pub connections: usize,
}

/// What is read when metrics are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoginReadings {
    /// Connections that have not logged in.
    pub connections: usize,
    /// Steps in hand.
    pub in_hand: usize,
    /// The most that ever were.
    pub in_hand_max: usize,
    /// Connections that wait for their turn.
    pub waiting: usize,
    /// Steps that have had to wait so far.
    pub delayed: u64,
}

#[derive(Debug)]
struct State {
    limits: LoginLimits,
    readings: LoginReadings,
    /// By number of connection.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
    /// Of the time slice.
    spent: Duration,
}

impl State {
    fn has_turn(&self) -> bool {
        self.limits.at_once == 0 || self.readings.in_hand < self.limits.at_once
    }

    fn take(&mut self) {
        self.readings.in_hand += 1;
        self.readings.in_hand_max = self.readings.in_hand_max.max(self.readings.in_hand);
    }

    /// Whoever waits longest and may go now; it has the turn already.
    fn grant(&mut self) -> Option<Waker> {
        if !self.has_turn() {
            return None;
        }
        let (_, waker) = self.waiting.pop_first()?;
        self.take();
        Some(waker)
    }
}

/// The turns of one node's logins.
#[derive(Debug)]
pub struct Admission(Mutex<State>);

impl Admission {
    /// With nobody there.
    #[must_use]
    pub fn new(limits: LoginLimits) -> Self {
        Self(Mutex::new(State {
            limits,
            readings: LoginReadings::default(),
            waiting: BTreeMap::new(),
            next: 0,
            spent: Duration::ZERO,
        }))
    }

    /// Other bounds, for whoever comes and whoever waits.
    pub fn set(&self, limits: LoginLimits) {
        self.0.lock().limits = limits;
        self.grant_all();
    }

    /// A new connection; `None`: there are too many that have not logged in.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.0.lock();
        let limit = state.limits.connections;
        if limit > 0 && state.readings.connections >= limit {
            return None;
        }
        state.readings.connections += 1;
        drop(state);
        Some(self.turn(true))
    }

    /// A connection that is not there to log in, such as a browser's: its TLS handshake takes turns
    /// with the others.
    #[must_use]
    pub fn visit(self: &Arc<Self>) -> Turn {
        self.turn(false)
    }

    fn turn(self: &Arc<Self>, is_counted: bool) -> Turn {
        let mut state = self.0.lock();
        state.next += 1;
        Turn {
            admission: Arc::clone(self),
            number: state.next,
            phase: Phase::Out,
            is_counted,
        }
    }

    /// How it stands.
    #[must_use]
    pub fn readings(&self) -> LoginReadings {
        let state = self.0.lock();
        LoginReadings {
            waiting: state.waiting.len(),
            ..state.readings
        }
    }

    fn release(&self) {
        self.0.lock().readings.in_hand -= 1;
        self.grant_all();
    }

    fn grant_all(&self) {
        loop {
            let granted = self.0.lock().grant();
            match granted {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }
}

/// A turn that is over; woken by the runtime when the worker that took the step has looked at its
/// sockets since. One object for each, since the runtime wakes what it knows already only once.
struct Over(Arc<Admission>);

impl Wake for Over {
    fn wake(self: Arc<Self>) {
        self.0.release();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Out,
    Waiting,
    In(Instant),
}

/// One connection's place among those that log in. Dropped when it has, or is gone.
#[derive(Debug)]
pub struct Turn {
    admission: Arc<Admission>,
    number: u64,
    phase: Phase,
    is_counted: bool,
}

impl Turn {
    /// Ready: the caller may take a step now and says [`Turn::done`] after it. Otherwise the waker
    /// is woken when it may.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.admission.0.lock();
        match self.phase {
            Phase::Out if state.has_turn() && state.waiting.is_empty() => state.take(),
            Phase::Out => {
                state.readings.delayed += 1;
                state.waiting.insert(self.number, cx.waker().clone());
                self.phase = Phase::Waiting;
                return Poll::Pending;
            }
            Phase::Waiting => {
                if let Some(waker) = state.waiting.get_mut(&self.number) {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
            }
            Phase::In(_) => return Poll::Ready(()),
        }
        drop(state);
        self.phase = Phase::In(Instant::now());
        Poll::Ready(())
    }

    /// The step is taken: the turn is somebody else's, soon.
    pub fn done(&mut self) {
        let Phase::In(since) = self.phase else { return };
        self.phase = Phase::Out;
        let mut state = self.admission.0.lock();
        state.spent += since.elapsed();
        if state.spent < SLICE && state.waiting.is_empty() {
            state.readings.in_hand -= 1;
            return;
        }
        state.spent = Duration::ZERO;
        drop(state);
        wake_later(Arc::new(Over(Arc::clone(&self.admission))).into());
    }

    /// A future of which every poll is a step; for one that has no other waker than its peer.
    pub async fn gate<F: Future>(&mut self, steps: F) -> F::Output {
        let mut steps = pin!(steps);
        poll_fn(|cx| {
            ready!(self.poll(cx));
            let polled = steps.as_mut().poll(cx);
            self.done();
            polled
        })
        .await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.admission.0.lock();
        state.readings.connections -= usize::from(self.is_counted);
        let has_turn = match self.phase {
            Phase::Out => false,
            // Not among those who wait any more: it was granted.
            Phase::Waiting => state.waiting.remove(&self.number).is_none(),
            Phase::In(_) => true,
        };
        drop(state);
        if has_turn {
            self.admission.release();
        }
    }
}

/// Wakes when this worker has run out of ready tasks and has looked at its sockets; at once outside
/// of the runtime.
fn wake_later(waker: Waker) {
    // What yields tells the runtime so at its first poll, and need not be polled again.
    let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn admission(at_once: usize, connections: usize) -> Arc<Admission> {
        Arc::new(Admission::new(LoginLimits {
            at_once,
            connections,
        }))
    }

    fn poll(turn: &mut Turn, woken: &Arc<Woken>) -> bool {
        let waker = Waker::from(Arc::clone(woken));
        turn.poll(&Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn who_came_first_goes_first() {
        let admission = admission(1, 0);
        let mut turns: Vec<Turn> = (0..4).map(|_| admission.enter().unwrap()).collect();
        let woken: Vec<Arc<Woken>> = (0..4).map(|_| Arc::default()).collect();
        assert!(poll(&mut turns[3], &woken[3]));
        for i in [2, 0, 1] {
            assert!(!poll(&mut turns[i], &woken[i]));
        }
        assert_eq!(admission.readings().waiting, 3);
        turns[3].done();
        for i in 0..3 {
            assert_eq!(woken[i].0.load(Ordering::Relaxed), 1);
            assert!(poll(&mut turns[i], &woken[i]));
            assert!(!poll(&mut turns[3], &woken[3]), "it waits again, behind");
            turns[i].done();
        }
        assert!(poll(&mut turns[3], &woken[3]));
        assert_eq!(admission.readings().in_hand_max, 1);
    }

    #[test]
    fn who_goes_away_leaves_its_turn() {
        let admission = admission(1, 0);
        let mut turns: Vec<Turn> = (0..4).map(|_| admission.enter().unwrap()).collect();
        let woken = Arc::<Woken>::default();
        assert!(poll(&mut turns[0], &woken));
        assert!(!poll(&mut turns[1], &woken));
        assert!(!poll(&mut turns[2], &woken));
        assert!(!poll(&mut turns[3], &woken));
        // one that waits, one that has been granted its turn, one that has it in hand
        turns.remove(1);
        assert_eq!(admission.readings().waiting, 2);
        turns[0].done();
        turns.remove(1);
        assert!(poll(&mut turns[1], &woken));
        turns.remove(1);
        turns.remove(0);
        let none = LoginReadings {
            in_hand_max: 1,
            delayed: 3,
            ..LoginReadings::default()
        };
        assert_eq!(admission.readings(), none);
    }

    #[test]
    fn zero_is_no_limit_and_lets_everybody_go_who_waits() {
        let admission = admission(1, 0);
        let woken = Arc::<Woken>::default();
        let mut turns: Vec<Turn> = (0..10).map(|_| admission.enter().unwrap()).collect();
        let ready = turns
            .iter_mut()
            .filter_map(|t| poll(t, &woken).then_some(()));
        assert_eq!(ready.count(), 1);
        admission.set(LoginLimits {
            at_once: 0,
            connections: 0,
        });
        assert_eq!(woken.0.load(Ordering::Relaxed), 9);
        assert!(turns.iter_mut().all(|turn| poll(turn, &woken)));
    }

    #[test]
    fn so_many_connections_may_be_without_a_login() {
        let admission = admission(1, 2);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert!(admission.enter().is_none());
        drop(first);
        assert!(admission.enter().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storm_has_no_more_in_hand_than_it_may_and_everybody_gets_in() {
        let admission = admission(3, 0);
        let logins: Vec<_> = (0..500)
            .map(|_| {
                let mut turn = admission.enter().unwrap();
                tokio::spawn(async move {
                    for _ in 0..4 {
                        turn.gate(async { std::thread::sleep(Duration::from_micros(20)) })
                            .await;
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for login in logins {
            login.await.unwrap();
        }
        let readings = admission.readings();
        assert_eq!(
            (readings.connections, readings.in_hand, readings.waiting),
            (0, 0, 0)
        );
        assert!(readings.in_hand_max <= 3, "{readings:?}");
        assert!(readings.delayed > 100, "{readings:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn turns_that_end_on_one_worker_before_it_looks_up_all_come_back() {
        let admission = admission(4, 0);
        let inner = Arc::clone(&admission);
        let steps = async move {
            let woken = Arc::<Woken>::default();
            let mut turns: Vec<Turn> = (0..9).map(|_| inner.enter().unwrap()).collect();
            let ready = turns
                .iter_mut()
                .filter_map(|t| poll(t, &woken).then_some(()));
            assert_eq!(ready.count(), 4);
            for turn in &mut turns[..4] {
                turn.done();
            }
            assert_eq!(inner.readings().in_hand, 4, "not before it looks up");
            while woken.0.load(Ordering::Relaxed) < 4 {
                tokio::task::yield_now().await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(10), tokio::spawn(steps)).await;
        done.expect("turns are lost").unwrap();
        assert_eq!(admission.readings().in_hand, 0);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let net = |text: &str| network(text.parse().unwrap());
        assert_eq!(
            net("2001:db8:1:2::1"),
            net("2001:db8:1:2:ffff:ffff:ffff:ffff")
        );
        assert_ne!(net("2001:db8:1:2::1"), net("2001:db8:1:3::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
        assert_eq!(net("::1"), net("::1"));
    }
}
