//! What the agent of a node says and hears: calls to etcd and notes to other nodes.
//!
//! Keys, below the configured prefix: `nodes/<id>` ([`Member`] as JSON, under the node's lease),
//! `incarnations` (its version, which etcd counts, is the last incarnation given), `leader` (the
//! planner's incarnation in decimal, under its lease), `map` ([`ShardMap::to_bytes`]).

use crate::id::{Epoch, Incarnation, Mono, NodeId, Shard};
use crate::map::{BadMap, ShardMap};
use crate::member::{BadMember, Member};
use std::sync::Arc;

/// A lease of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A revision of etcd; 0: the key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

/// A value with what etcd knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// When it last changed.
    pub revision: Revision,
    /// Its lease, if any.
    pub lease: Option<LeaseId>,
    /// The bytes.
    pub value: Vec<u8>,
}

/// A call to etcd. Each has a deadline ([`crate::id::Timing::call_ms`]); without an answer until
/// then its outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Read everything below the prefix at one revision, and watch from the next one on. The
    /// driver resumes a broken watch behind the last revision it saw; after a compaction it lists
    /// again by itself. Answered by [`Answer::Listed`].
    List,
    /// A lease. [`Answer::Granted`].
    Grant {
        /// Time to live.
        ttl_ms: u64,
    },
    /// Join: if the version of `incarnations` is still this one and `nodes/<id>` is absent, put
    /// both. [`Answer::Txn`].
    Create {
        /// Version of `incarnations`.
        counter: u32,
        /// Of the member's key.
        lease: LeaseId,
        /// With incarnation `counter + 1`.
        member: Member,
    },
    /// The lease was lost in a stall: if `nodes/<id>` is absent and `map` has this revision, put
    /// the record again. [`Answer::Txn`].
    Recreate {
        /// Of the member's key.
        lease: LeaseId,
        /// As it was.
        member: Member,
        /// Of `map`.
        map: Revision,
    },
    /// If `nodes/<id>` has this revision, put it. [`Answer::Txn`].
    Update {
        /// Of the member's key.
        lease: LeaseId,
        /// As it shall be.
        member: Member,
        /// Of `nodes/<id>`.
        revision: Revision,
    },
    /// [`Answer::Alive`].
    Keepalive {
        /// Which.
        lease: LeaseId,
    },
    /// If `leader` is absent, put it. [`Answer::Txn`].
    Campaign {
        /// Of the key.
        lease: LeaseId,
        /// The value.
        me: Incarnation,
    },
    /// If `map` has this revision, `leader` is this incarnation, and each of these keys `nodes/<id>`
    /// has its revision still, put the map. [`Answer::Txn`].
    Publish {
        /// The map.
        map: Arc<ShardMap>,
        /// Of the former one.
        revision: Revision,
        /// Value of `leader`.
        me: Incarnation,
        /// Those that the map leaves out.
        nodes: Vec<(NodeId, Revision)>,
    },
    /// End a lease: this node's own, or that of a dead one. [`Answer::Txn`].
    Revoke {
        /// Which.
        lease: LeaseId,
    },
}

/// Everything below the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Version of `incarnations`; 0 if it is absent.
    pub counter: u32,
    /// By the name in the key.
    pub nodes: Vec<(String, Stored)>,
    /// The planner.
    pub leader: Option<Stored>,
    /// The map.
    pub map: Option<Stored>,
}

/// What etcd answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Everything.
    Listed(Listed),
    /// A lease.
    Granted(LeaseId),
    /// Whether the conditions held.
    Txn(bool),
    /// Whether the lease is there.
    Alive(bool),
}

/// A change that the watch saw. `None`: the key was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `nodes/<key>`.
    Node(String, Option<Stored>),
    /// `leader`.
    Leader(Option<Stored>),
    /// `map`.
    Map(Option<Stored>),
    /// `incarnations`, its version.
    Counter(u32),
}

/// What nodes say to each other beside the streams of stanzas: short, may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Are you there?
    Ping {
        /// By the sender's clock.
        sent: Mono,
        /// Of its map.
        epoch: Epoch,
    },
    /// Yes.
    Pong {
        /// As in the ping.
        sent: Mono,
        /// Of the map here.
        epoch: Epoch,
    },
    /// The receiver's map is older than this one.
    Map(Arc<ShardMap>),
    /// The receiver is out of the view.
    Out(Epoch),
    /// The sender has stopped: it acknowledges nothing any more.
    Stopped,
    /// Do you reach etcd? My lease ends.
    IsEtcdGone {
        /// Number of the question.
        ask: u64,
    },
    /// The answer.
    EtcdGone {
        /// Number of the question.
        ask: u64,
        /// It is.
        is_gone: bool,
        /// Of the map here.
        epoch: Epoch,
    },
    /// The planner asks about a node.
    Doubt {
        /// Number of the question.
        ask: u64,
        /// About whom.
        target: Incarnation,
    },
    /// The answer.
    Heard {
        /// Number of the question.
        ask: u64,
        /// About whom.
        target: Incarnation,
        /// How it looks from here.
        signs: Signs,
    },
    /// To the planner: served since this epoch.
    Settled(Vec<(Shard, Epoch)>),
}

/// How a node looks from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signs {
    /// Its ping was answered of late.
    Hears,
    /// No ping of it came of late.
    Silent,
    /// Nor is there anybody at its port.
    Refused,
}

/// What an operator is told. Each is logged and counted; none leads to a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alert {
    /// `map` does not read; the map in force stays. Only a planner's bug or a hand in etcd does
    /// this: restore the key, or delete it when no node runs.
    BadMap(BadMap),
    /// `map` is older than one seen before: etcd was restored from a backup, or is another etcd.
    OldMap(Epoch),
    /// A record under `nodes/` does not read; its node is left as it is.
    BadMember(BadMember),
    /// A record of a node speaks a protocol that this one does not.
    OtherProtocol(NodeId, u16),
    /// `leader` does not read.
    BadLeader,
    /// Another process has this node's name; its lease must end first.
    NameTaken,
    /// etcd answered something else than was asked.
    BadAnswer,
    /// etcd does not answer.
    EtcdGone,
    /// etcd answers again.
    EtcdBack,
    /// The planner revokes the lease of a dead node.
    Revoked(Incarnation),
}

/// Why a process is out of the cluster. It may join again, as another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutReason {
    /// Its lease has passed, and the others do not say that etcd is gone.
    LeasePassed,
    /// etcd answers, and its lease is gone for good.
    LeaseLost,
    /// A published map leaves it out.
    LeftOut,
    /// It was told to leave.
    Left,
}
