//! Calls with deadlines over several endpoints, each answer checked before it is believed.

use super::connect::{self, Endpoint, Options};
use super::error::EtcdError;
use super::metrics::Metrics;
use super::op::{self, Check, KeyValue, Op, TxnResult};
use crate::dial::Connection;
use crate::wire::etcd as pb;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Streaming};

/// Largest answer that is read: our keys are few and small, so more than this is no answer of ours.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// An etcd cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: Options,
    endpoints: Vec<Slot>,
    current: AtomicUsize,
    /// Of the etcd cluster that answered first; 0: none yet.
    cluster_id: AtomicU64,
    /// Highest revision of an answer that a majority of etcd stood behind.
    seen: AtomicI64,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    metrics: Metrics,
}

struct Slot {
    endpoint: Endpoint,
    connection: Mutex<Option<Connection>>,
}

/// Whether a request that may have been done already may be sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Freely,
    OnlyUnsent,
}

/// An answer that bears the header of every answer of etcd.
pub(super) trait Headed {
    fn header(&self) -> Option<&pb::ResponseHeader>;
}

macro_rules! headed {
    ($($name:ident),*) => {$(
        impl Headed for pb::$name {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }
        }
    )*};
}
headed!(
    RangeResponse,
    TxnResponse,
    CompactionResponse,
    WatchResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    AuthenticateResponse,
    StatusResponse
);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.options.fmt(f)
    }
}

impl Client {
    /// Reads the certificates; connects to nothing yet.
    ///
    /// # Errors
    /// [`EtcdError::Config`] names what is wrong.
    pub fn new(options: Options) -> Result<Self, EtcdError> {
        if options.password.is_some() && options.user.is_none() {
            return Err(EtcdError::Config(
                "cluster.etcd.password needs cluster.etcd.user beside it".to_owned(),
            ));
        }
        let endpoints = Endpoint::parse_all(&options)?;
        let slots = endpoints.into_iter().map(|endpoint| Slot {
            endpoint,
            connection: Mutex::new(None),
        });
        Ok(Self(Arc::new(Inner {
            endpoints: slots.collect(),
            options,
            current: AtomicUsize::new(0),
            cluster_id: AtomicU64::new(0),
            seen: AtomicI64::new(0),
            token: Mutex::new(None),
            metrics: Metrics::default(),
        })))
    }

    /// Reads the certificates anew; connections that stand stay.
    ///
    /// # Errors
    /// [`EtcdError::Config`] names the file; then the old ones stay in force.
    pub fn reload(&self) -> Result<(), EtcdError> {
        if let Some(config) = connect::config(&self.0.options)? {
            self.0
                .endpoints
                .iter()
                .for_each(|slot| slot.endpoint.renew(&config));
        }
        Ok(())
    }

    /// What was counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    /// One key, or `None`; the second part is the store's revision.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn get(&self, key: &str) -> Result<(Option<KeyValue>, i64), EtcdError> {
        let (mut found, revision) = self.range(key, Bytes::new()).await?;
        Ok((found.pop(), revision))
    }

    /// Every key that begins with `prefix`, by key; the second part is the store's revision.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn get_prefix(&self, prefix: &str) -> Result<(Vec<KeyValue>, i64), EtcdError> {
        self.range(prefix, op::range_end(prefix.as_bytes())).await
    }

    async fn range(&self, key: &str, end: Bytes) -> Result<(Vec<KeyValue>, i64), EtcdError> {
        let request = pb::RangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: end,
            ..pb::RangeRequest::default()
        };
        let path = "/etcdserverpb.KV/Range";
        let answer: pb::RangeResponse = self.call(path, request, Repeat::Freely, true).await?;
        let revision = answer.header.as_ref().map_or(0, |h| h.revision);
        Ok((
            answer.kvs.into_iter().map(KeyValue::from).collect(),
            revision,
        ))
    }

    /// Writes one key, under a lease unless that is 0; yields the store's revision.
    ///
    /// # Errors
    /// [`EtcdError::Unknown`]: it may have been written.
    pub async fn put(&self, key: &str, value: Bytes, lease: i64) -> Result<i64, EtcdError> {
        let op = Op::Put {
            key: key.to_owned(),
            value,
            lease,
        };
        Ok(self.txn(Vec::new(), vec![op], Vec::new()).await?.revision)
    }

    /// Deletes one key; yields whether it was there.
    ///
    /// # Errors
    /// [`EtcdError::Unknown`]: it may have been deleted.
    pub async fn delete(&self, key: &str) -> Result<bool, EtcdError> {
        let op = Op::Delete(key.to_owned());
        let done = self.txn(Vec::new(), vec![op], Vec::new()).await?;
        Ok(done.answers == [op::Answer::Deleted(1)])
    }

    /// Runs `then` if every check holds, else `otherwise`; all or nothing.
    ///
    /// # Errors
    /// [`EtcdError::Unknown`]: it may have been done; read before you decide. It is sent twice only
    /// when nothing in it writes, or when the first attempt reached nobody.
    pub async fn txn(
        &self,
        checks: Vec<Check>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<TxnResult, EtcdError> {
        let writes = then.iter().chain(&otherwise).any(Op::writes);
        let request = pb::TxnRequest {
            compare: checks.into_iter().map(Into::into).collect(),
            success: then.into_iter().map(Into::into).collect(),
            failure: otherwise.into_iter().map(Into::into).collect(),
        };
        let asked = (request.success.len(), request.failure.len());
        let repeat = if writes {
            Repeat::OnlyUnsent
        } else {
            Repeat::Freely
        };
        let path = "/etcdserverpb.KV/Txn";
        let answer: pb::TxnResponse = self.call(path, request, repeat, true).await?;
        let wanted = if answer.succeeded { asked.0 } else { asked.1 };
        let answers: Option<Vec<_>> = answer.responses.into_iter().map(op::answer).collect();
        match answers {
            Some(answers) if answers.len() == wanted => Ok(TxnResult {
                succeeded: answer.succeeded,
                revision: answer.header.as_ref().map_or(0, |h| h.revision),
                answers,
            }),
            _ => Err(self.nonsense("an answer to a transaction with other steps")),
        }
    }

    /// A new lease; yields its id.
    ///
    /// # Errors
    /// See [`EtcdError`]. A lease that was granted unseen ends by itself.
    pub async fn grant(&self, ttl_s: u32) -> Result<i64, EtcdError> {
        let request = pb::LeaseGrantRequest {
            ttl: i64::from(ttl_s),
            id: 0,
        };
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let answer: pb::LeaseGrantResponse = self.call(path, request, Repeat::Freely, true).await?;
        match (answer.id, answer.ttl) {
            (id, ttl) if id != 0 && ttl > 0 => Ok(id),
            _ => Err(self.nonsense("a lease without an id")),
        }
    }

    /// Ends a lease and deletes what hangs on it. A lease that is gone already is no error.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let request = pb::LeaseRevokeRequest { id: lease };
        let path = "/etcdserverpb.Lease/LeaseRevoke";
        let answer: Result<pb::LeaseRevokeResponse, _> =
            self.call(path, request, Repeat::Freely, true).await;
        match answer {
            Ok(_) | Err(EtcdError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renews a lease once; yields its time to live, seconds. For who keeps the time by himself;
    /// otherwise see [`super::Lease`].
    ///
    /// # Errors
    /// [`EtcdError::LeaseGone`]: it is not there any more.
    pub async fn keep_alive(&self, lease: i64) -> Result<u64, EtcdError> {
        let mut failed = Vec::new();
        let mut is_renewed = false;
        while failed.len() < self.0.endpoints.len() {
            self.0.metrics.call(false);
            match self.keep_alive_at_one(lease).await {
                // The token was too old, and the next attempt fetches another.
                Err(EtcdError::Auth(_)) if !is_renewed && self.0.options.user.is_some() => {
                    is_renewed = true;
                }
                Err(error) if error.is_of_the_endpoint() => failed.push(error),
                answer => return answer,
            }
        }
        Err(sum_up(failed, Repeat::Freely))
    }

    async fn keep_alive_at_one(&self, lease: i64) -> Result<u64, EtcdError> {
        let (requests, taken) = tokio::sync::mpsc::channel(1);
        // The channel has room for one.
        let _ = requests.try_send(pb::LeaseKeepAliveRequest { id: lease });
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let (mut answers, at) = self
            .stream::<_, pb::LeaseKeepAliveResponse>(path, taken)
            .await?;
        let timeout = self.0.options.call_timeout;
        let answer = match tokio::time::timeout(timeout, answers.message()).await {
            Err(_) | Ok(Ok(None)) => Err(self.silent(at, timeout)),
            Ok(Err(status)) => Err(EtcdError::of_status(&self.endpoint_name(at), &status)),
            Ok(Ok(Some(answer))) => self.check(at, &answer, None).map(|()| answer),
        };
        match answer {
            Ok(answer) if answer.id != lease => Err(self.nonsense("an answer for another lease")),
            Ok(answer) if answer.ttl <= 0 => Err(EtcdError::LeaseGone),
            Ok(answer) => Ok(answer.ttl.unsigned_abs()),
            Err(error) => {
                self.failed(at, &error);
                Err(error)
            }
        }
    }

    /// Forgets history before this revision. For tests and for nobody else: compaction is the
    /// operator's (`--auto-compaction-retention`).
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn compact(&self, revision: i64) -> Result<(), EtcdError> {
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        let path = "/etcdserverpb.KV/Compact";
        let _: pb::CompactionResponse = self.call(path, request, Repeat::OnlyUnsent, false).await?;
        Ok(())
    }

    /// Asks every endpoint for its version: (endpoint, version or what is wrong), as configured.
    pub async fn status(&self) -> Vec<(String, Result<String, EtcdError>)> {
        let mut all = Vec::new();
        for at in 0..self.0.endpoints.len() {
            let name = self.0.endpoints[at].endpoint.name.clone();
            let path = "/etcdserverpb.Maintenance/Status";
            let answer: Result<pb::StatusResponse, _> =
                self.attempt(at, path, pb::StatusRequest {}).await;
            let checked = answer.and_then(|a| self.check(at, &a, None).map(|()| a.version));
            all.push((name, checked));
        }
        all
    }

    fn nonsense(&self, what: &str) -> EtcdError {
        let at = self.0.current.load(Ordering::Relaxed);
        EtcdError::NotEtcd {
            endpoint: self.0.endpoints[at].endpoint.name.clone(),
            reason: what.to_owned(),
        }
    }

    /// One call: every endpoint at most once, beginning with the one that answered last.
    async fn call<Q, A>(
        &self,
        path: &'static str,
        request: Q,
        repeat: Repeat,
        is_ordered: bool,
    ) -> Result<A, EtcdError>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + Headed + 'static,
    {
        self.0
            .metrics
            .call(!path.ends_with("Range") && is_write(path, repeat));
        let seen_before = is_ordered.then(|| self.seen());
        let first = self.0.current.load(Ordering::Relaxed);
        let count = self.0.endpoints.len();
        let mut failed: Vec<EtcdError> = Vec::new();
        for at in (0..count).map(|step| (first + step) % count) {
            let mut answer = self.attempt::<Q, A>(at, path, request.clone()).await;
            if matches!(answer, Err(EtcdError::Auth(_))) && self.forget_token() {
                // The token was too old; etcd did nothing.
                answer = self.attempt::<Q, A>(at, path, request.clone()).await;
            }
            let error = match answer.and_then(|a| self.check(at, &a, seen_before).map(|()| a)) {
                Ok(answer) => {
                    self.0.current.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            self.0.metrics.failure();
            if !error.is_of_the_endpoint() {
                return Err(error);
            }
            self.dismiss(at);
            let may_go_on = repeat == Repeat::Freely || error.is_unsent();
            failed.push(error);
            if !may_go_on {
                break;
            }
        }
        Err(sum_up(failed, repeat))
    }

    /// Another endpoint is asked from now on, if there is one.
    pub(super) fn dismiss(&self, at: usize) {
        *self.0.endpoints[at].connection.lock() = None;
        let next = (at + 1) % self.0.endpoints.len();
        let _ = self
            .0
            .current
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn current(&self) -> usize {
        self.0.current.load(Ordering::Relaxed)
    }

    async fn connection(&self, at: usize) -> Result<Connection, EtcdError> {
        let slot = &self.0.endpoints[at];
        if let Some(open) = slot.connection.lock().clone().filter(|c| !c.is_closed()) {
            return Ok(open);
        }
        let opened = slot
            .endpoint
            .connect(self.0.options.connect_timeout)
            .await?;
        *slot.connection.lock() = Some(opened.clone());
        Ok(opened)
    }

    fn grpc(&self, at: usize, connection: Connection) -> tonic::client::Grpc<Connection> {
        let origin = self.0.endpoints[at].endpoint.origin.clone();
        tonic::client::Grpc::with_origin(connection, origin)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn request<Q>(&self, message: Q, token: Option<MetadataValue<Ascii>>) -> Request<Q> {
        let mut request = Request::new(message);
        // A member that has lost its leader answers with an error instead of waiting for one.
        let yes = MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", yes);
        if let Some(token) = token {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    async fn attempt<Q, A>(&self, at: usize, path: &'static str, message: Q) -> Result<A, EtcdError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let connection = self.connection(at).await?;
        let token = self.token(at, &connection).await?;
        let request = self.request(message, token);
        self.unary(at, connection, path, request).await
    }

    async fn unary<Q, A>(
        &self,
        at: usize,
        connection: Connection,
        path: &'static str,
        request: Request<Q>,
    ) -> Result<A, EtcdError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let name = &self.0.endpoints[at].endpoint.name;
        let mut grpc = self.grpc(at, connection);
        let asked = async {
            grpc.ready().await.map_err(|e| {
                EtcdError::Unreachable(format!("{name}: {}", crate::dial::chain(&e)))
            })?;
            let codec = tonic_prost::ProstCodec::default();
            let answer = grpc
                .unary(request, PathAndQuery::from_static(path), codec)
                .await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| EtcdError::of_status(name, &status))
        };
        let timeout = self.0.options.call_timeout;
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent(at, timeout)),
        }
    }

    pub(super) fn silent(&self, at: usize, after: Duration) -> EtcdError {
        EtcdError::Unknown {
            endpoint: self.0.endpoints[at].endpoint.name.clone(),
            reason: format!("silent for {} ms", after.as_millis()),
        }
    }

    /// A token for the user, where there is one.
    async fn token(
        &self,
        at: usize,
        connection: &Connection,
    ) -> Result<Option<MetadataValue<Ascii>>, EtcdError> {
        let Some(user) = &self.0.options.user else {
            return Ok(None);
        };
        if let Some(token) = self.0.token.lock().clone() {
            return Ok(Some(token));
        }
        let request = pb::AuthenticateRequest {
            name: user.clone(),
            password: self.0.options.password.clone().unwrap_or_default(),
        };
        let path = "/etcdserverpb.Auth/Authenticate";
        let request = self.request(request, None);
        let answer: Result<pb::AuthenticateResponse, _> =
            self.unary(at, connection.clone(), path, request).await;
        let answer = match answer {
            Ok(answer) => answer,
            // The request itself was not sent.
            Err(EtcdError::Unknown { endpoint, reason }) => {
                return Err(EtcdError::Unreachable(format!("{endpoint}: {reason}")));
            }
            // A password without authentication turned on is no reason to refuse to work.
            Err(EtcdError::Refused(text)) if text.contains("not enabled") => return Ok(None),
            Err(EtcdError::Refused(text)) => return Err(EtcdError::Auth(text)),
            Err(error) => return Err(error),
        };
        let token = MetadataValue::try_from(answer.token)
            .map_err(|_| self.nonsense("a token that is no text"))?;
        *self.0.token.lock() = Some(token.clone());
        Ok(Some(token))
    }

    /// Whether there was one that may have been too old.
    pub(super) fn forget_token(&self) -> bool {
        self.0.token.lock().take().is_some()
    }

    /// Believes an answer: the same etcd cluster as ever, and for reads and writes no revision
    /// behind one that was seen before the call began.
    pub(super) fn check<A: Headed>(
        &self,
        at: usize,
        answer: &A,
        seen_before: Option<i64>,
    ) -> Result<(), EtcdError> {
        let endpoint = || self.0.endpoints[at].endpoint.name.clone();
        let header = answer.header().filter(|h| h.cluster_id != 0);
        let Some(header) = header else {
            return Err(EtcdError::NotEtcd {
                endpoint: endpoint(),
                reason: "an answer without a header".to_owned(),
            });
        };
        let known = self.0.cluster_id.compare_exchange(
            0,
            header.cluster_id,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if let Err(expected) = known
            && expected != header.cluster_id
        {
            return Err(EtcdError::WrongCluster {
                endpoint: endpoint(),
                expected,
                found: header.cluster_id,
            });
        }
        self.0.metrics.contact(header.revision);
        match seen_before {
            Some(seen) if header.revision < seen => Err(EtcdError::WentBack {
                endpoint: endpoint(),
                seen,
                found: header.revision,
            }),
            Some(_) => {
                let _ = self.0.seen.fetch_max(header.revision, Ordering::AcqRel);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Highest revision of an answer to a read or write.
    pub(super) fn seen(&self) -> i64 {
        self.0.seen.load(Ordering::Acquire)
    }

    pub(super) fn endpoint_name(&self, at: usize) -> String {
        self.0.endpoints[at].endpoint.name.clone()
    }

    /// A stream in both directions whose first request is `first`; the answer to it comes as the
    /// stream's first message. The endpoint that serves it is the second part.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        requests: tokio::sync::mpsc::Receiver<Q>,
    ) -> Result<(Streaming<A>, usize), EtcdError>
    where
        Q: prost::Message + Send + 'static,
        A: prost::Message + Default + Send + 'static,
    {
        let at = self.current();
        let name = self.endpoint_name(at);
        let opened = async {
            let connection = self.connection(at).await?;
            let token = self.token(at, &connection).await?;
            let mut grpc = self.grpc(at, connection);
            grpc.ready().await.map_err(|e| {
                EtcdError::Unreachable(format!("{name}: {}", crate::dial::chain(&e)))
            })?;
            let request = self.request(ReceiverStream::new(requests), token);
            let codec = tonic_prost::ProstCodec::default();
            let answer = grpc
                .streaming(request, PathAndQuery::from_static(path), codec)
                .await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| EtcdError::of_status(&name, &status))
        };
        let timeout = self.0.options.call_timeout + self.0.options.connect_timeout;
        let opened = tokio::time::timeout(timeout, opened)
            .await
            .unwrap_or_else(|_| Err(self.silent(at, timeout)));
        match opened {
            Ok(stream) => Ok((stream, at)),
            Err(error) => {
                self.failed(at, &error);
                Err(error)
            }
        }
    }

    /// Takes note that a stream ended that way.
    pub(super) fn failed(&self, at: usize, error: &EtcdError) {
        self.0.metrics.failure();
        if matches!(error, EtcdError::Auth(_)) {
            self.forget_token();
        } else {
            self.dismiss(at);
        }
    }
}

/// For the count of writes: what goes through etcd's log.
fn is_write(path: &str, repeat: Repeat) -> bool {
    path.contains("Lease/") || (path.ends_with("Txn") && repeat == Repeat::OnlyUnsent)
}

/// The one error that says most. Where a request must not be done twice, one that leaves its fate
/// open counts above all others; elsewhere one that an operator must see.
fn sum_up(mut failed: Vec<EtcdError>, repeat: Repeat) -> EtcdError {
    if repeat == Repeat::Freely
        && let Some(at) = failed.iter().position(|e| !e.is_outage())
    {
        return failed.swap_remove(at);
    }
    if let Some(at) = failed.iter().position(|e| !e.is_unsent()) {
        return failed.swap_remove(at);
    }
    if failed.len() == 1
        && let Some(only) = failed.pop()
    {
        return only;
    }
    let reasons: Vec<String> = failed
        .iter()
        .map(|error| match error {
            EtcdError::Unreachable(reason) => reason.clone(),
            other => other.to_string(),
        })
        .collect();
    EtcdError::Unreachable(reasons.join("; "))
}
