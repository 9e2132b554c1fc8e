//! A lease that is kept alive, and its local deadline.
//!
//! The deadline counts from the moment the last answered keepalive was **sent**, so it never lies
//! behind the server's. The other way round nothing is known: etcd gives a lease its full time
//! again when it restarts (measured), so a passed deadline is what one fences on and no proof that
//! the key is gone.

use super::client::Client;
use super::error::EtcdError;
use crate::clock;
use crate::wire::etcd as pb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tonic::Streaming;

/// What is taken off the time to live: clocks that run apart, and the way to the message path.
pub const MARGIN_MS: u64 = 1000;

/// When the lease ends by our own clock; asked on the message path without a lock.
#[derive(Debug, Default)]
pub struct LeaseClock {
    deadline_ms: AtomicU64,
    confirmed_ms: AtomicU64,
}

impl LeaseClock {
    /// Milliseconds since boot ([`clock::now_ms`]) at which nothing may be owned any more.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms.load(Ordering::Acquire)
    }

    /// When the last keepalive that was answered had been sent, milliseconds since boot: whatever
    /// was committed before is confirmed.
    #[must_use]
    pub fn confirmed_ms(&self) -> u64 {
        self.confirmed_ms.load(Ordering::Acquire)
    }

    /// Whether the lease held at this moment of [`clock::now_ms`].
    #[must_use]
    pub fn holds_at(&self, now_ms: u64) -> bool {
        now_ms < self.deadline_ms()
    }

    /// Whether the lease holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds_at(clock::now_ms())
    }

    /// Milliseconds left; 0: passed.
    #[must_use]
    pub fn remaining_ms(&self) -> u64 {
        self.deadline_ms().saturating_sub(clock::now_ms())
    }

    /// The next lease takes over from this one, or ours was given up: only then may it go back.
    pub(crate) fn confirm(&self, sent_ms: u64, ttl_ms: u64) {
        let end = sent_ms + ttl_ms.saturating_sub(MARGIN_MS);
        self.deadline_ms.fetch_max(end, Ordering::AcqRel);
        self.confirmed_ms.fetch_max(sent_ms, Ordering::AcqRel);
    }

    /// The lease has ended, whatever the time.
    pub(crate) fn end(&self) {
        self.deadline_ms.store(0, Ordering::Release);
    }
}

/// What etcd last said of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// It was renewed.
    Alive,
    /// No answer right now; the local deadline counts.
    Unanswered(EtcdError),
    /// It has ended: revoked, or renewed too late. Its keys are gone.
    Gone,
}

/// Kept alive by a task until it is dropped; dropping does not revoke.
#[derive(Debug)]
pub struct Lease {
    id: i64,
    clock: Arc<LeaseClock>,
    state: watch::Receiver<LeaseState>,
    now: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lease {
    /// A new lease of `ttl_s` seconds whose deadline goes to `clock`, renewed five times in it.
    ///
    /// # Errors
    /// See [`EtcdError`]; then there is none.
    pub async fn start(
        client: &Client,
        ttl_s: u32,
        clock: Arc<LeaseClock>,
    ) -> Result<Self, EtcdError> {
        let sent = clock::now_ms();
        let id = client.grant(ttl_s).await?;
        clock.confirm(sent, u64::from(ttl_s) * 1000);
        let (tell, state) = watch::channel(LeaseState::Alive);
        let now = Arc::new(Notify::new());
        let keeper = Keeper {
            client: client.clone(),
            id,
            every: Duration::from_millis(u64::from(ttl_s) * 200),
            clock: Arc::clone(&clock),
            tell,
            now: Arc::clone(&now),
        };
        Ok(Self {
            id,
            clock,
            state,
            now,
            task: tokio::spawn(keeper.run()),
        })
    }

    /// etcd's number of it.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Its deadline.
    #[must_use]
    pub fn clock(&self) -> &Arc<LeaseClock> {
        &self.clock
    }

    /// What etcd last said; changes wake who waits on it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Sends a keepalive at once: for what must be confirmed after a commit.
    pub fn confirm_soon(&self) {
        self.now.notify_one();
    }
}

struct Keeper {
    client: Client,
    id: i64,
    every: Duration,
    clock: Arc<LeaseClock>,
    tell: watch::Sender<LeaseState>,
    now: Arc<Notify>,
}

/// Between attempts to open a stream of keepalives.
const PAUSE: Duration = Duration::from_millis(200);

impl Keeper {
    async fn run(self) {
        loop {
            match self.one_stream().await {
                EtcdError::LeaseGone => {
                    self.clock.end();
                    self.tell.send_replace(LeaseState::Gone);
                    return;
                }
                error => {
                    self.tell.send_replace(LeaseState::Unanswered(error));
                }
            }
            tokio::time::sleep(PAUSE.min(self.every)).await;
        }
    }

    /// Renews over one stream until it breaks; says why it did.
    async fn one_stream(&self) -> EtcdError {
        let (requests, taken) = mpsc::channel(1);
        let renew = pb::LeaseKeepAliveRequest { id: self.id };
        let mut sent = clock::now_ms();
        // The channel has room for one.
        let _ = requests.try_send(renew);
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let opened = self.client.stream(path, taken).await;
        let (mut answers, at) = match opened {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        loop {
            if let Err(error) = self.answer(&mut answers, at, sent).await {
                if error != EtcdError::LeaseGone {
                    self.client.failed(at, &error);
                }
                return error;
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = self.now.notified() => {}
            }
            sent = clock::now_ms();
            if requests.try_send(renew).is_err() {
                // The last one was never taken off: the stream has ended.
                return self.client.silent(at, self.every);
            }
        }
    }

    async fn answer(
        &self,
        answers: &mut Streaming<pb::LeaseKeepAliveResponse>,
        at: usize,
        sent_ms: u64,
    ) -> Result<(), EtcdError> {
        let timeout = self.client.options().call_timeout;
        let answer = tokio::time::timeout(timeout, answers.message()).await;
        let name = self.client.endpoint_name(at);
        let answer = match answer {
            Err(_) => return Err(self.client.silent(at, timeout)),
            Ok(Err(status)) => return Err(EtcdError::of_status(&name, &status)),
            Ok(Ok(None)) => return Err(self.client.silent(at, Duration::ZERO)),
            Ok(Ok(Some(answer))) => answer,
        };
        self.client.check(at, &answer, None)?;
        if answer.id != self.id {
            return Err(EtcdError::NotEtcd {
                endpoint: name,
                reason: "an answer for another lease".to_owned(),
            });
        }
        if answer.ttl <= 0 {
            return Err(EtcdError::LeaseGone);
        }
        self.clock
            .confirm(sent_ms, answer.ttl.unsigned_abs() * 1000);
        self.tell.send_if_modified(|state| {
            let changes = *state != LeaseState::Alive;
            *state = LeaseState::Alive;
            changes
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_counts_from_the_send_time_and_never_goes_back() {
        let clock = LeaseClock::default();
        assert!(!clock.holds_at(0), "without a keepalive nothing holds");
        clock.confirm(1_000, 10_000);
        assert_eq!(clock.deadline_ms(), 10_000);
        assert!(clock.holds_at(9_999) && !clock.holds_at(10_000));
        clock.confirm(500, 10_000);
        assert_eq!(clock.deadline_ms(), 10_000);
        assert_eq!(clock.confirmed_ms(), 1_000);
        clock.end();
        assert!(!clock.holds_at(1_001));
    }
}
