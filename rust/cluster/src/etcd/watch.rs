//! A prefix of etcd as one snapshot and every change since, whatever breaks on the way.
//!
//! The position is the revision behind the last event that was handed over, and every stream is
//! opened with it: not with what a "created" header says, or a cut between that and the replay of
//! history would skip events (seen in another client). A revision that was compacted away means a
//! new snapshot.

use super::client::Client;
use super::error::EtcdError;
use super::op::{self, KeyValue};
use crate::wire::etcd as pb;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Streaming;

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Created or changed.
    Put(KeyValue),
    /// Deleted, or its lease ended.
    Deleted {
        /// Which.
        key: Bytes,
        /// At which revision.
        revision: i64,
    },
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// All there is; forget what was known before.
    Snapshot {
        /// As of this revision.
        revision: i64,
        /// By key.
        kvs: Vec<KeyValue>,
    },
    /// What changed, in order; whole revisions.
    Changes(Vec<Change>),
    /// The watch is broken and being opened again; nothing is missed. Told once for each break,
    /// and again when the reason becomes another.
    Broken(EtcdError),
    /// The watch stands again.
    Restored,
}

/// Follows a prefix until it is dropped.
#[derive(Debug)]
pub struct Watch {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often etcd is asked how far it is; it must answer within twice the time of a call.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Pauses after a break: the first at once, then growing to a second.
const PAUSES_MS: [u64; 5] = [0, 100, 250, 500, 1000];
/// Updates that wait for their reader; then the stream waits, and etcd with it.
const WAITING: usize = 64;

impl Watch {
    /// Begins with a snapshot of everything under `prefix`.
    #[must_use]
    pub fn follow(client: &Client, prefix: &str) -> Self {
        Self::begin(client, prefix, None)
    }

    /// Begins with the changes from this revision on; without a snapshot unless history was
    /// compacted.
    #[must_use]
    pub fn resume(client: &Client, prefix: &str, revision: i64) -> Self {
        Self::begin(client, prefix, Some(revision))
    }

    fn begin(client: &Client, prefix: &str, next: Option<i64>) -> Self {
        let (out, updates) = mpsc::channel(WAITING);
        let follower = Follower {
            client: client.clone(),
            prefix: prefix.to_owned(),
            next,
            out,
            told: None,
            failures: 0,
        };
        Self {
            updates,
            task: tokio::spawn(follower.run()),
        }
    }

    /// The next update; `None` never comes before the watch is dropped.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

struct Follower {
    client: Client,
    prefix: String,
    /// First revision not handed over; `None`: a snapshot is needed.
    next: Option<i64>,
    out: mpsc::Sender<Update>,
    /// What was last told to be wrong.
    told: Option<EtcdError>,
    failures: usize,
}

/// Nobody listens any more.
struct Unheard;

impl Follower {
    async fn run(mut self) {
        // Ends when nobody listens.
        let _ = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Unheard> {
        loop {
            let error = match self.position().await? {
                Ok(next) => self.one_stream(next).await?,
                Err(error) => error,
            };
            self.client.metrics().watch_break();
            if error == EtcdError::Compacted {
                // Not a fault: list again.
                self.next = None;
                continue;
            }
            self.tell(error).await?;
            let pause = PAUSES_MS[self.failures.min(PAUSES_MS.len() - 1)];
            self.failures += 1;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn say(&self, update: Update) -> Result<(), Unheard> {
        self.out.send(update).await.map_err(|_| Unheard)
    }

    async fn tell(&mut self, error: EtcdError) -> Result<(), Unheard> {
        let is_new = match &self.told {
            None => true,
            Some(told) => std::mem::discriminant(told) != std::mem::discriminant(&error),
        };
        self.told = Some(error.clone());
        match is_new {
            true => self.say(Update::Broken(error)).await,
            false => Ok(()),
        }
    }

    async fn standing(&mut self) -> Result<(), Unheard> {
        self.failures = 0;
        match self.told.take() {
            Some(_) => self.say(Update::Restored).await,
            None => Ok(()),
        }
    }

    /// Where to begin; takes a snapshot where there is no place yet.
    async fn position(&mut self) -> Result<Result<i64, EtcdError>, Unheard> {
        if let Some(next) = self.next {
            return Ok(Ok(next));
        }
        let (kvs, revision) = match self.client.get_prefix(&self.prefix).await {
            Ok(read) => read,
            Err(error) => return Ok(Err(error)),
        };
        self.client.metrics().relist();
        self.say(Update::Snapshot { revision, kvs }).await?;
        self.next = Some(revision + 1);
        Ok(Ok(revision + 1))
    }

    /// Hands over changes until the stream breaks; says why it did.
    async fn one_stream(&mut self, next: i64) -> Result<EtcdError, Unheard> {
        let (requests, taken) = mpsc::channel(2);
        let key = Bytes::copy_from_slice(self.prefix.as_bytes());
        let create = pb::WatchCreateRequest {
            range_end: op::range_end(&key),
            key,
            start_revision: next,
            progress_notify: true,
            ..pb::WatchCreateRequest::default()
        };
        // The channel has room.
        let _ = requests.try_send(asks(pb::watch_request::RequestUnion::CreateRequest(create)));
        let opened = self.client.stream("/etcdserverpb.Watch/Watch", taken).await;
        let (mut answers, at) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(error),
        };
        let ended = self.hear(&mut answers, at, &requests).await?;
        if ended != EtcdError::Compacted {
            self.client.failed(at, &ended);
        }
        Ok(ended)
    }

    async fn hear(
        &mut self,
        answers: &mut Streaming<pb::WatchResponse>,
        at: usize,
        requests: &mpsc::Sender<pb::WatchRequest>,
    ) -> Result<EtcdError, Unheard> {
        let patience = self.client.options().call_timeout * 2;
        let mut is_asked = true;
        loop {
            let wait = if is_asked { patience } else { PROGRESS_EVERY };
            let heard = match tokio::time::timeout(wait, answers.message()).await {
                Ok(heard) => heard,
                Err(_) if is_asked => return Ok(self.client.silent(at, patience)),
                Err(_) => {
                    let progress = pb::WatchProgressRequest {};
                    let ask = pb::watch_request::RequestUnion::ProgressRequest(progress);
                    if requests.try_send(asks(ask)).is_err() {
                        return Ok(self.client.silent(at, patience));
                    }
                    is_asked = true;
                    continue;
                }
            };
            let answer = match heard {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(self.client.silent(at, Duration::ZERO)),
                Err(status) => {
                    let name = self.client.endpoint_name(at);
                    return Ok(EtcdError::of_status(&name, &status));
                }
            };
            is_asked = false;
            if let Err(error) = self.take(at, answer).await? {
                return Ok(error);
            }
        }
    }

    async fn take(
        &mut self,
        at: usize,
        answer: pb::WatchResponse,
    ) -> Result<Result<(), EtcdError>, Unheard> {
        if let Err(error) = self.client.check(at, &answer, None) {
            return Ok(Err(error));
        }
        if answer.canceled {
            return Ok(Err(canceled(&self.client.endpoint_name(at), &answer)));
        }
        self.standing().await?;
        let next = self.next.unwrap_or(0);
        let mut reached = next - 1;
        let mut changes = Vec::with_capacity(answer.events.len());
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            // What was handed over before a break is not handed over again.
            if kv.mod_revision < next {
                continue;
            }
            reached = reached.max(kv.mod_revision);
            changes.push(match pb::event::EventType::try_from(event.r#type) {
                Ok(pb::event::EventType::Delete) => Change::Deleted {
                    key: kv.key,
                    revision: kv.mod_revision,
                },
                _ => Change::Put(kv.into()),
            });
        }
        // An answer to our own question may overtake events (etcd before 3.5.8), so that alone
        // never moves the position; it shows that the watch lives.
        let shown = answer.header.as_ref().map_or(0, |h| h.revision);
        self.client.metrics().watch_contact(shown.max(reached));
        if changes.is_empty() {
            return Ok(Ok(()));
        }
        self.say(Update::Changes(changes)).await?;
        self.next = Some(reached + 1);
        Ok(Ok(()))
    }
}

fn asks(union: pb::watch_request::RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}

fn canceled(endpoint: &str, answer: &pb::WatchResponse) -> EtcdError {
    if answer.compact_revision > 0 {
        return EtcdError::Compacted;
    }
    let reason = answer.cancel_reason.clone();
    if reason.contains("permission denied") || reason.contains("auth") {
        return EtcdError::Auth(reason);
    }
    EtcdError::Unknown {
        endpoint: endpoint.to_owned(),
        reason: format!("watch canceled: {reason}"),
    }
}
