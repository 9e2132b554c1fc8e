//! Logins: stored keys, slow hashes off the runtime's threads, throttling by address.

use crate::node::Node;
use antiphon_routing::store::{Store, Write};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{self, Answer, Credentials, Failure, Query};
use antiphon_xmpp::stanza::{StanzaCondition, StanzaError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// Addresses with failed logins remembered at most.
const MAX_ADDRESSES: usize = 100_000;
const MINUTE_MS: u64 = 60_000;

/// Failed logins by address in the current minute.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    by_address: HashMap<IpAddr, (u64, u32)>,
    /// When those of earlier minutes were last thrown out.
    cleaned_ms: u64,
}

impl Failures {
    /// Counts one. An address that is one too many is not remembered.
    pub fn count(&self, ip: IpAddr, now_ms: u64) {
        let mut guard = self.0.lock();
        let recent = &mut *guard;
        let is_full = recent.by_address.len() >= MAX_ADDRESSES;
        if recent.cleaned_ms + MINUTE_MS <= now_ms {
            recent.cleaned_ms = now_ms;
            let is_recent = |since: u64| since + MINUTE_MS > now_ms;
            recent.by_address.retain(|_, (since, _)| is_recent(*since));
            recent.by_address.shrink_to_fit();
        } else if is_full && !recent.by_address.contains_key(&ip) {
            return;
        }
        let entry = recent.by_address.entry(ip).or_insert((now_ms, 0));
        if entry.0 + MINUTE_MS <= now_ms {
            *entry = (now_ms, 0);
        }
        entry.1 = entry.1.saturating_add(1);
    }

    /// Whether the address has used up its failures.
    #[must_use]
    pub fn is_over(&self, ip: IpAddr, limit: u32, now_ms: u64) -> bool {
        let recent = self.0.lock();
        let Some((since, count)) = recent.by_address.get(&ip) else {
            return false;
        };
        limit > 0 && *count >= limit && *since + MINUTE_MS > now_ms
    }
}

/// Slow hashes: as many at once as leave one core to everybody else. The others wait their turn, so
/// a flood of passwords to check takes neither all cores nor hundreds of threads.
#[derive(Debug)]
pub struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self(Arc::new(Semaphore::new((cores - 1).max(1))))
    }
}

impl Hashing {
    /// Runs it on a thread of its own. `None`: it panicked, or the node stops.
    async fn run<T: Send + 'static>(
        &self,
        runtime: &Handle,
        hash: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.0).acquire_owned().await.ok()?;
        let hashing = runtime.spawn_blocking(move || {
            // Who asked may be gone; the core is busy all the same.
            let _turn = turn;
            hash()
        });
        hashing.await.ok()
    }
}

impl Node {
    /// Answers what a SASL exchange needs.
    pub(crate) async fn answer_query(self: Arc<Self>, query: Query) -> Answer {
        match query {
            Query::Keys(account) => match self.store.credentials(&account).await {
                Ok(credentials) => Answer::Keys(credentials),
                Err(error) => self.no_credentials(&error),
            },
            Query::Account(account) => match self.store.credentials(&account).await {
                Ok(Some(credentials)) if credentials.is_enabled => Answer::Verdict(Ok(())),
                Ok(Some(_)) => Answer::Verdict(Err(Failure::AccountDisabled)),
                Ok(None) => Answer::Verdict(Err(Failure::NotAuthorized)),
                Err(error) => self.no_credentials(&error),
            },
            Query::Password { account, password } => match self.store.credentials(&account).await {
                Ok(credentials) => self.check(account, credentials, password).await,
                Err(error) => self.no_credentials(&error),
            },
        }
    }

    fn no_credentials(&self, error: &antiphon_routing::store::StoreError) -> Answer {
        self.log_store_error("credentials not read", error);
        Answer::Unavailable
    }

    async fn check(
        self: &Arc<Self>,
        account: Jid,
        credentials: Option<Credentials>,
        password: String,
    ) -> Answer {
        if let Some(credentials) = &credentials
            && credentials.is_enabled
            && self.store.is_proven(&account, credentials, &password)
        {
            return Answer::Verdict(Ok(()));
        }
        let iterations = self.live.load().config.auth.scram_iterations;
        let node = Arc::clone(self);
        let checking = self.hashing.run(&self.runtime, move || {
            let verdict = sasl::check_password(credentials.as_ref(), &password, iterations);
            if let (Ok(()), Some(credentials)) = (verdict, &credentials) {
                node.store.prove(&account, credentials, &password);
            }
            verdict
        });
        checking.await.map_or(Answer::Unavailable, Answer::Verdict)
    }

    /// Whether this is the account's password.
    pub(crate) async fn verify(
        self: Arc<Self>,
        account: Jid,
        password: String,
    ) -> Result<bool, StanzaError> {
        let prepared = antiphon_xmpp::jid::prepare_opaque(&password)
            .map_err(|_| StanzaCondition::NotAcceptable)?;
        match self
            .answer_query(Query::Password {
                account,
                password: prepared,
            })
            .await
        {
            Answer::Verdict(verdict) => Ok(verdict.is_ok()),
            Answer::Keys(_) | Answer::Unavailable => {
                Err(StanzaCondition::ResourceConstraint.into())
            }
        }
    }

    /// The keys of a new password; takes milliseconds on a thread of its own.
    pub(crate) async fn derive(
        self: &Arc<Self>,
        password: String,
    ) -> Result<Credentials, StanzaError> {
        let live = self.live.load_full();
        let node = Arc::clone(self);
        let deriving = self.hashing.run(&self.runtime, move || {
            let mut random = |out: &mut [u8]| node.fill_random(out);
            Credentials::derive(
                &password,
                live.config.auth.scram_iterations,
                &live.hashes(),
                &mut random,
            )
        });
        let derived = deriving.await.ok_or(StanzaCondition::InternalServerError)?;
        derived.map_err(|error| {
            StanzaError::new(StanzaCondition::NotAcceptable).with_text(error.to_string())
        })
    }

    /// A write, awaited.
    pub(crate) async fn commit(&self, write: Write) -> Result<(), StanzaError> {
        let (done, receiver) = oneshot::channel();
        self.store.write(
            write,
            Box::new(move |result| {
                // Whoever asked may have given up.
                let _ = done.send(result);
            }),
        );
        match receiver.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(crate::node::store_error(&error)),
            Err(_) => Err(StanzaCondition::ResourceConstraint.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_try_again_a_minute_later() {
        let failures = Failures::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..3 {
            assert!(!failures.is_over(ip, 3, 1_000));
            failures.count(ip, 1_000);
        }
        assert!(failures.is_over(ip, 3, 1_000));
        assert!(!failures.is_over(ip, 0, 1_000));
        assert!(!failures.is_over(ip, 3, 61_000));
        failures.count(ip, 61_000);
        assert!(!failures.is_over(ip, 3, 61_000));
    }

    #[test]
    fn no_flood_of_addresses_makes_it_grow_without_bound() {
        let failures = Failures::default();
        let ip = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 10 {
            failures.count(ip(n), 60_000);
        }
        assert_eq!(failures.0.lock().by_address.len(), MAX_ADDRESSES);
        assert!(failures.is_over(ip(0), 1, 60_000));
        failures.count(ip(0), 120_000);
        assert_eq!(failures.0.lock().by_address.len(), 1);
    }
}
