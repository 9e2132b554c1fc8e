//! etcd as the simulation has it: leases, transactions, a watch, and its ways to fail.

use crate::id::Incarnation;
use crate::talk::{Answer, Call, Change, LeaseId, Listed, Revision, Stored};
use std::collections::BTreeMap;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Up,
    /// Stopped (SIGSTOP): calls wait, leases run out at once when it goes on.
    Stalled,
    /// Away: calls are lost, leases get their full time again.
    Down,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl_ms: u64,
    expires: u64,
}

/// The whole of it.
#[derive(Debug)]
pub(super) struct Etcd {
    pub(super) status: Status,
    revision: i64,
    last_lease: i64,
    leases: BTreeMap<LeaseId, Lease>,
    state: Listed,
    /// Changes that the watchers have not been told.
    pub(super) changes: Vec<Change>,
    /// Puts of anything; keepalives are none.
    pub(super) writes: u64,
}

impl Etcd {
    pub(super) fn new() -> Self {
        Self {
            status: Status::Up,
            revision: 1,
            last_lease: 0,
            leases: BTreeMap::new(),
            state: Listed::default(),
            changes: Vec::new(),
            writes: 0,
        }
    }

    pub(super) fn map(&self) -> Option<&Stored> {
        self.state.map.as_ref()
    }

    /// Whether this life holds its key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.state.nodes.iter().any(|(key, _)| key == name)
    }

    fn stored(&mut self, lease: Option<LeaseId>, value: Vec<u8>) -> Stored {
        self.revision += 1;
        self.writes += 1;
        let revision = Revision(self.revision);
        Stored {
            revision,
            lease,
            value,
        }
    }

    fn node_revision(&self, name: &str) -> Revision {
        let found = self.state.nodes.iter().find(|(key, _)| key == name);
        found.map_or(Revision(0), |(_, stored)| stored.revision)
    }

    fn put_node(&mut self, name: &str, stored: Stored) {
        self.state.nodes.retain(|(key, _)| key != name);
        self.state.nodes.push((name.into(), stored.clone()));
        self.changes.push(Change::Node(name.into(), Some(stored)));
    }

    /// Carries a call out.
    pub(super) fn apply(&mut self, now: u64, call: Call) -> Answer {
        match call {
            Call::List => Answer::Listed(self.state.clone()),
            Call::Grant { ttl_ms } => {
                self.last_lease += 1;
                let lease = LeaseId(self.last_lease);
                let expires = now + ttl_ms;
                self.leases.insert(lease, Lease { ttl_ms, expires });
                Answer::Granted(lease)
            }
            Call::Keepalive { lease } => match self.leases.get_mut(&lease) {
                Some(one) => {
                    one.expires = now + one.ttl_ms;
                    Answer::Alive(true)
                }
                None => Answer::Alive(false),
            },
            Call::Revoke { lease } => {
                let is_there = self.leases.remove(&lease).is_some();
                self.drop_keys(lease);
                Answer::Txn(is_there)
            }
            other => Answer::Txn(self.put(other)),
        }
    }

    fn put(&mut self, call: Call) -> bool {
        match call {
            Call::Create {
                counter,
                lease,
                member,
            } => {
                let name = member.id.as_str();
                if counter != self.state.counter
                    || self.has(name)
                    || !self.leases.contains_key(&lease)
                {
                    return false;
                }
                self.state.counter += 1;
                self.changes.push(Change::Counter(self.state.counter));
                let stored = self.stored(Some(lease), member.to_bytes());
                self.put_node(name, stored);
                true
            }
            Call::Recreate { lease, member, map } => {
                let name = member.id.as_str();
                let revision = self.map().map_or(Revision(0), |map| map.revision);
                if self.has(name) || map != revision || !self.leases.contains_key(&lease) {
                    return false;
                }
                let stored = self.stored(Some(lease), member.to_bytes());
                self.put_node(name, stored);
                true
            }
            Call::Update {
                lease,
                member,
                revision,
            } => {
                let name = member.id.as_str();
                if self.node_revision(name) != revision || !self.leases.contains_key(&lease) {
                    return false;
                }
                let stored = self.stored(Some(lease), member.to_bytes());
                self.put_node(name, stored);
                true
            }
            Call::Campaign { lease, me } => {
                if self.state.leader.is_some() || !self.leases.contains_key(&lease) {
                    return false;
                }
                let stored = self.stored(Some(lease), me.to_string().into_bytes());
                self.state.leader = Some(stored.clone());
                self.changes.push(Change::Leader(Some(stored)));
                true
            }
            Call::Publish {
                map,
                revision,
                me,
                nodes,
            } => {
                let now = self.map().map_or(Revision(0), |map| map.revision);
                let is_leader = self.leader() == Some(me);
                let mut absent = nodes.iter();
                let are_gone = absent.all(|(id, r)| self.node_revision(id.as_str()) == *r);
                if now != revision || !is_leader || !are_gone {
                    return false;
                }
                let stored = self.stored(None, map.to_bytes());
                self.state.map = Some(stored.clone());
                self.changes.push(Change::Map(Some(stored)));
                true
            }
            _ => false,
        }
    }

    fn leader(&self) -> Option<Incarnation> {
        let leader = self.state.leader.as_ref()?;
        let text = std::str::from_utf8(&leader.value).ok()?;
        text.parse().ok().map(Incarnation)
    }

    fn drop_keys(&mut self, lease: LeaseId) {
        let is_its = |stored: &Stored| stored.lease == Some(lease);
        let gone: Vec<String> = self
            .state
            .nodes
            .iter()
            .filter(|(_, stored)| is_its(stored))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.state.nodes.retain(|(other, _)| *other != key);
            self.changes.push(Change::Node(key, None));
        }
        if self.state.leader.as_ref().is_some_and(is_its) {
            self.state.leader = None;
            self.changes.push(Change::Leader(None));
        }
    }

    /// Ends the leases whose time is up.
    pub(super) fn expire(&mut self, now: u64) {
        if self.status != Status::Up {
            return;
        }
        let over: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires <= now)
            .map(|(id, _)| *id)
            .collect();
        for lease in over {
            self.leases.remove(&lease);
            self.drop_keys(lease);
        }
    }

    /// It was away: every lease has its full time again.
    pub(super) fn back(&mut self, now: u64) {
        self.status = Status::Up;
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl_ms;
        }
    }
}
