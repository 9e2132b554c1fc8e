//! This node in the cluster: what of the agent needs sockets, etcd and time.
