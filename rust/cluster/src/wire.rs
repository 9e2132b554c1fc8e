//! Generated from `proto/` at build time.
#![allow(missing_docs, clippy::all, reason = "generated; proto/ is the text")]

pub(crate) mod v1 {
    tonic::include_proto!("antiphon.v1");
}

pub(crate) mod etcd {
    tonic::include_proto!("antiphon.etcd");
}
