//! The map of a node without a cluster.

use antiphon_routing::home::{Home, Locator};

/// Everything lives here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl Locator for Local {
    fn home(&self, _shard: u16) -> Home {
        Home::Here
    }

    fn incarnation(&self) -> u32 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_alone_owns_every_shard() {
        assert!((0..antiphon_routing::home::SHARDS).all(|s| Local.home(s) == Home::Here));
    }
}
