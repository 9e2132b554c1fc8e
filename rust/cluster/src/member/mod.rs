//! This node in the cluster: membership, election, the published map.
