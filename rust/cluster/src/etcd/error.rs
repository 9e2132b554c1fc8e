//! What can go wrong with etcd, told apart by what the caller may conclude from it.

/// Why a call to etcd gave no answer that may be acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(String),
    /// No endpoint took the request: nothing was done.
    #[error(
        "no etcd endpoint can be reached: {0}; start etcd, or check cluster.etcd.endpoints and the \
         network to them"
    )]
    Unreachable(String),
    /// The request was sent and no answer came: it may or may not have been done.
    #[error(
        "etcd at {endpoint} did not answer: {reason}; the request may have been done; see \
         `etcdctl endpoint health`, its disk and its log"
    )]
    Unknown {
        /// Where.
        endpoint: String,
        /// What broke.
        reason: String,
    },
    /// What answers is no etcd.
    #[error("what answers at {endpoint} is no etcd v3: {reason}; check cluster.etcd.endpoints")]
    NotEtcd {
        /// Where.
        endpoint: String,
        /// What it did.
        reason: String,
    },
    /// Another etcd cluster than before, or than the other endpoints.
    #[error(
        "etcd at {endpoint} belongs to cluster {found:x}, the others to {expected:x}; \
         check cluster.etcd.endpoints"
    )]
    WrongCluster {
        /// Where.
        endpoint: String,
        /// The cluster that answered first.
        expected: u64,
        /// The cluster that answers there.
        found: u64,
    },
    /// The store's revision is older than one already seen: restored from a backup.
    #[error(
        "etcd at {endpoint} went back from revision {seen} to {found}: was it restored? Stop all \
         nodes, start etcd empty, then the nodes"
    )]
    WentBack {
        /// Where.
        endpoint: String,
        /// Highest revision seen before.
        seen: i64,
        /// What it says now.
        found: i64,
    },
    /// User or password are not accepted, or the user may not do this.
    #[error("etcd refuses the user: {0}; check cluster.etcd.user and its role")]
    Auth(String),
    /// The lease has ended.
    #[error("the lease has ended")]
    LeaseGone,
    /// The revision asked for was compacted; list again.
    #[error("revision compacted")]
    Compacted,
    /// etcd's quota is used up: it takes no writes.
    #[error("etcd is full ({0}); compact and defragment it, then `etcdctl alarm disarm`")]
    Full(String),
    /// etcd understood and said no.
    #[error("etcd refuses: {0}; see its log")]
    Refused(String),
}

impl EtcdError {
    /// Whether the same request may be sent elsewhere without being done twice.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::NotEtcd { .. } | Self::WrongCluster { .. }
        )
    }

    /// Whether another endpoint may do better.
    pub(crate) fn is_of_the_endpoint(&self) -> bool {
        self.is_unsent() || matches!(self, Self::Unknown { .. } | Self::WentBack { .. })
    }

    /// Whether this says that etcd itself is away, as against an answer of it.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unknown { .. })
    }

    /// What a status of gRPC means, by etcd's own texts (api/v3rpc/rpctypes/error.go).
    pub(crate) fn of_status(endpoint: &str, status: &tonic::Status) -> Self {
        use tonic::Code;
        let text = status.message();
        let endpoint = endpoint.to_owned();
        if let Some(text) = text.strip_prefix("etcdserver: ") {
            return Self::of_answer(endpoint, status.code(), text);
        }
        let mut reason = format!("{:?}: {text}", status.code());
        if let Some(source) = std::error::Error::source(status) {
            reason = format!("{reason}: {}", crate::dial::chain(source));
        }
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Auth(text.to_owned()),
            Code::Unimplemented => Self::NotEtcd { endpoint, reason },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                Self::Unknown { endpoint, reason }
            }
            _ if looks_foreign(&reason) => Self::NotEtcd { endpoint, reason },
            _ => Self::Unknown { endpoint, reason },
        }
    }

    fn of_answer(endpoint: String, code: tonic::Code, text: &str) -> Self {
        use tonic::Code;
        match code {
            Code::Unauthenticated | Code::PermissionDenied => Self::Auth(text.to_owned()),
            Code::InvalidArgument if text.contains("auth") || text.contains("user name") => {
                Self::Auth(text.to_owned())
            }
            Code::NotFound if text.contains("lease not found") => Self::LeaseGone,
            Code::OutOfRange if text.contains("compacted") => Self::Compacted,
            Code::ResourceExhausted if text.contains("space exceeded") => {
                Self::Full(text.to_owned())
            }
            // No leader, leader changed, too many requests, timed out: the fate is not known.
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Self::Unknown {
                endpoint,
                reason: text.to_owned(),
            },
            _ => Self::Refused(text.to_owned()),
        }
    }
}

/// Whether a failure shows a peer that speaks something else than gRPC.
fn looks_foreign(reason: &str) -> bool {
    [
        "grpc-status header missing",
        "protocol error",
        "PROTOCOL_ERROR",
        "FRAME_SIZE_ERROR",
        "frame with invalid size",
        "invalid compression flag",
        "failed to decode Protobuf",
        "buffer underflow",
        "invalid wire type",
        "invalid tag",
        "content-type",
    ]
    .iter()
    .any(|sign| reason.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    #[test]
    fn what_etcd_says_is_told_from_what_the_network_does() {
        let says = |code, text: &str| EtcdError::of_status("e:1", &Status::new(code, text));
        assert_eq!(
            says(Code::NotFound, "etcdserver: requested lease not found"),
            EtcdError::LeaseGone
        );
        assert_eq!(
            says(
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted"
            ),
            EtcdError::Compacted
        );
        assert!(says(Code::Unavailable, "etcdserver: no leader").is_outage());
        assert!(says(Code::Unavailable, "broken pipe").is_outage());
        assert!(matches!(
            says(Code::Unauthenticated, "etcdserver: invalid auth token"),
            EtcdError::Auth(_)
        ));
        assert!(matches!(
            says(
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded"
            ),
            EtcdError::Full(_)
        ));
        assert!(matches!(
            says(
                Code::Unknown,
                "grpc-status header missing, mapped from HTTP status code 404"
            ),
            EtcdError::NotEtcd { .. }
        ));
        assert!(matches!(
            says(Code::InvalidArgument, "etcdserver: key is not provided"),
            EtcdError::Refused(_)
        ));
    }
}
