//! Names of sessions.

use std::fmt;

/// A bound session in the cluster: which process holds its socket, and its number there. A number
/// is never used twice in the life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SessionId {
    /// The process, as its incarnation counts in the cluster; 0 for a node alone.
    pub node: u32,
    /// The session in that process.
    pub number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.number)
    }
}
