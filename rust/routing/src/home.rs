//! Where an entity lives: the question the cluster answers.

/// Shards of the cluster's map (architecture: ownership moves by shard).
pub const SHARDS: u16 = 4096;

/// The shard of a prepared bare JID: xxh3-64 with seed 0, modulo [`SHARDS`]. Part of the protocol
/// between nodes; never changed.
#[must_use]
pub fn shard_of(bare: &str) -> u16 {
    (xxhash_rust::xxh3::xxh3_64(bare.as_bytes()) % u64::from(SHARDS)) as u16
}

/// The owner of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// This process.
    Here,
    /// The process with this incarnation.
    Node(u32),
    /// Nobody right now: queue or answer `resource-constraint`, type wait.
    Unknown,
}

/// The published map as this process sees it. Asked on the path of every stanza: must be an array
/// look-up.
pub trait Locator: Send + Sync + 'static {
    /// Who owns this shard.
    fn home(&self, shard: u16) -> Home;
    /// This process's incarnation, the `node` of its session ids.
    fn incarnation(&self) -> u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_of_a_known_address_never_changes() {
        assert_eq!(shard_of(""), (0x2d06_8005_38d3_94c2_u64 % 4096) as u16);
    }
}
