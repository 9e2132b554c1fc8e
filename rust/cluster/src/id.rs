//! Names, numbers and times of the cluster.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The longest name of a node or zone, bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 63 letters, digits, '.', '-' and '_' of ASCII")]
pub struct BadName;

/// Checked, since names become parts of etcd keys: no slash, nothing that a prefix could match.
fn checked(text: &str) -> Result<Arc<str>, BadName> {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(is_fine) {
        return Err(BadName);
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name as configured.
            ///
            /// # Errors
            /// [`BadName`] for anything that could not stand in an etcd key.
            pub fn new(text: &str) -> Result<Self, BadName> {
                checked(text).map(Self)
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The configured name of a node (`[node] name`); one process at a time holds it.
    NodeId
}
name! {
    /// Where a node stands: what fails together.
    Zone
}

/// One life of a process in the cluster, given by etcd and strictly growing: the fencing token.
/// 0 is no process of a cluster.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u32);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the published maps; 0: none yet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one behind it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shard of the address space, below [`antiphon_routing::home::SHARDS`].
pub type Shard = u16;

/// Milliseconds of this process's monotonic clock, one that goes on while the process is stopped
/// (`CLOCK_BOOTTIME`), or a stopped node would believe in its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// So much later.
    #[must_use]
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Two clocks of the wall that are further apart refuse each other, ms; also the head start of the
/// ids of a shard that was not released.
pub const SKEW_MAX_MS: u64 = 500;

/// Every time the cluster knows, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time to live of a node's lease in etcd.
    pub lease_ms: u64,
    /// A node stops believing in its lease so long before etcd does.
    pub margin_ms: u64,
    /// Between two keepalives.
    pub keepalive_ms: u64,
    /// A call to etcd without an answer is given up, its outcome unknown.
    pub call_ms: u64,
    /// Between two pings of a pair of nodes.
    pub ping_ms: u64,
    /// A link is up while a ping younger than this was answered.
    pub fresh_ms: u64,
    /// So long a port must have refused before it is evidence.
    pub refused_ms: u64,
    /// How long the word of most peers that etcd is gone holds, counted from the question.
    pub freeze_ms: u64,
    /// Without a good answer for so long etcd counts as gone.
    pub gap_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_ms: 10_000,
            margin_ms: 1_000,
            keepalive_ms: 2_000,
            call_ms: 1_500,
            ping_ms: 150,
            fresh_ms: 600,
            refused_ms: 300,
            freeze_ms: 3_000,
            gap_ms: 4_500,
        }
    }
}

/// Times that do not fit together: see [`Timing::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cluster times do not fit: {0}")]
pub struct BadTiming(&'static str);

impl Timing {
    /// Whether the promises hold with these times.
    ///
    /// # Errors
    /// Names the rule that is broken.
    pub fn check(&self) -> Result<(), BadTiming> {
        let rules = [
            (self.margin_ms > 0, "the margin must be above 0"),
            (
                self.keepalive_ms + self.call_ms + self.margin_ms < self.lease_ms,
                "one lost keepalive must not cost the lease",
            ),
            (
                self.freeze_ms + self.margin_ms <= self.lease_ms,
                "a frozen view must end within a lease",
            ),
            (
                self.keepalive_ms + self.call_ms < self.gap_ms && self.gap_ms < self.lease_ms,
                "a gap is longer than a keepalive and shorter than a lease",
            ),
            (
                2 * self.ping_ms < self.fresh_ms,
                "a lost ping is no lost link",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(BadTiming(rule)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_etcd_key_is_refused() {
        for bad in ["", "a/b", "a b", "ä", "a\0", &"x".repeat(64)] {
            assert_eq!(NodeId::new(bad), Err(BadName), "{bad:?}");
        }
        assert!(NodeId::new("Pod-0.antiphon_x").is_ok());
    }

    #[test]
    fn the_default_times_fit_together() {
        assert_eq!(Timing::default().check(), Ok(()));
        let wrong = Timing {
            freeze_ms: 9_500,
            ..Timing::default()
        };
        assert!(wrong.check().is_err());
    }
}
