//! What goes wrong, for operators and for callers.

use antiphon_routing::store::StoreError;
use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};
use std::path::PathBuf;

/// Why the store cannot be opened: one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// What was configured cannot be used.
    #[error("storage.cassandra.{key}: {reason}")]
    Config {
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or holds something else.
    #[error("storage.cassandra.{key}: {}: {reason}", path.display())]
    File {
        /// Which key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No node answers.
    #[error(
        "no Cassandra answers at {points}: {reason}; start it or correct \
             storage.cassandra.contact_points"
    )]
    Unreachable {
        /// Contact points.
        points: String,
        /// What the last one said.
        reason: String,
    },
    /// A node answers and refuses the login.
    #[error(
        "Cassandra at {points} refuses the login: {reason}; correct storage.cassandra.user \
             and password"
    )]
    Login {
        /// Contact points.
        points: String,
        /// What it said.
        reason: String,
    },
    /// The data centre is not part of the ring.
    #[error(
        "Cassandra has no data centre {name:?}, only {found}; correct \
             storage.cassandra.local_datacenter"
    )]
    Datacenter {
        /// As configured.
        name: String,
        /// Those that there are.
        found: String,
    },
    /// The schema is behind, or too new.
    #[error("the keyspace {keyspace:?} {reason}: {remedy}")]
    Schema {
        /// Which keyspace.
        keyspace: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A statement fails.
    #[error("Cassandra refuses a statement: {reason}")]
    Request {
        /// What it said.
        reason: String,
    },
    /// The system has no thread to give.
    #[error("cannot start a storage thread: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
}

impl OpenError {
    /// For what a statement failed with.
    pub(super) fn request(error: impl std::fmt::Display) -> Self {
        Self::Request {
            reason: one_line(&error),
        }
    }
}

/// An error's text in one line.
pub(super) fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What to do about a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The servers are away, slow or overloaded; it will pass. Whether the request was carried out
    /// is unknown.
    Away,
    /// As [`Verdict::Away`], or the fault of this request, which is found out by trying it a few
    /// times.
    Doubtful,
    /// The servers take no batch of this size.
    TooLarge,
    /// Fails however often it is tried.
    Refused,
}

/// Sorts an error of the driver.
pub(super) fn verdict(error: &ExecutionError) -> Verdict {
    match error {
        ExecutionError::EmptyPlan
        | ExecutionError::ConnectionPoolError(_)
        | ExecutionError::RequestTimeout(_)
        | ExecutionError::MetadataError(_)
        | ExecutionError::SchemaAgreementError(_)
        | ExecutionError::PrepareError(PrepareError::ConnectionPoolError(_)) => Verdict::Away,
        ExecutionError::LastAttemptError(attempt)
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: attempt,
        }) => attempt_verdict(attempt),
        ExecutionError::BadQuery(_) => Verdict::Refused,
        _ => Verdict::Doubtful,
    }
}

fn attempt_verdict(error: &RequestAttemptError) -> Verdict {
    match error {
        RequestAttemptError::BrokenConnectionError(_)
        | RequestAttemptError::UnableToAllocStreamId => Verdict::Away,
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => Verdict::Refused,
        RequestAttemptError::DbError(error, text) => match error {
            DbError::Unavailable { .. }
            | DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::ReadTimeout { .. }
            | DbError::WriteTimeout { .. }
            | DbError::RateLimitReached { .. } => Verdict::Away,
            DbError::Invalid if text.contains("Batch too large") => Verdict::TooLarge,
            DbError::SyntaxError
            | DbError::Invalid
            | DbError::AlreadyExists { .. }
            | DbError::FunctionFailure { .. }
            | DbError::AuthenticationError
            | DbError::Unauthorized
            | DbError::ConfigError
            | DbError::ProtocolError => Verdict::Refused,
            _ => Verdict::Doubtful,
        },
        _ => Verdict::Doubtful,
    }
}

/// Why a request was given up.
#[derive(Debug)]
pub(super) enum Failure {
    /// The servers stayed away for as long as we wait.
    Away,
    /// The servers take no batch of this size.
    TooLarge,
    /// The request fails, or its answer makes no sense.
    Engine(String),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away => Self::Busy,
            Failure::TooLarge => Self::Engine("too large for the servers".into()),
            Failure::Engine(text) => Self::Engine(text),
        }
    }
}

impl Failure {
    /// What came back is not what was asked for.
    pub(super) fn answer(error: impl std::fmt::Display) -> Self {
        Self::Engine(one_line(&error))
    }
}
