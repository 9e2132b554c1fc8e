//! The agent's calls as requests to etcd, and etcd's keys as the agent's changes.

use crate::etcd::{Change as Changed, Check, Client, EtcdError, KeyValue, Op};
use crate::id::{Incarnation, NodeId};
use crate::map::ShardMap;
use crate::talk::{Answer, Call, Change, LeaseId, Listed, Revision, Stored};
use bytes::Bytes;

/// Where the cluster's keys are.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// `prefix` as configured, with or without a slash at its end.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{}/", prefix.trim_end_matches('/')),
        }
    }

    pub(super) fn all(&self) -> &str {
        &self.prefix
    }

    pub(super) fn node(&self, id: &str) -> String {
        format!("{}nodes/{id}", self.prefix)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The part behind the prefix.
    fn name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let text = std::str::from_utf8(key).ok()?;
        text.strip_prefix(self.prefix.as_str())
    }

    pub(super) fn listed(&self, kvs: Vec<KeyValue>) -> Listed {
        let mut listed = Listed::default();
        for kv in kvs {
            let Some(name) = self.name(&kv.key).map(str::to_owned) else {
                continue;
            };
            match name.as_str() {
                "incarnations" => listed.counter = counter(kv.version),
                "leader" => listed.leader = Some(stored(kv)),
                "map" => listed.map = Some(stored(kv)),
                _ => {
                    if let Some(id) = name.strip_prefix("nodes/") {
                        listed.nodes.push((id.to_owned(), stored(kv)));
                    }
                }
            }
        }
        listed
    }

    /// `None`: not a key of ours.
    pub(super) fn change(&self, changed: Changed) -> Option<Change> {
        let (key, version, value) = match changed {
            Changed::Put(kv) => (kv.key.clone(), kv.version, Some(stored(kv))),
            Changed::Deleted { key, .. } => (key, 0, None),
        };
        match self.name(&key)? {
            "incarnations" => Some(Change::Counter(counter(version))),
            "leader" => Some(Change::Leader(value)),
            "map" => Some(Change::Map(value)),
            name => {
                let id = name.strip_prefix("nodes/")?;
                Some(Change::Node(id.to_owned(), value))
            }
        }
    }
}

/// Lives of a cluster are counted to 2^32, so one a second for 136 years.
fn counter(version: i64) -> u32 {
    u32::try_from(version).unwrap_or(u32::MAX)
}

fn stored(kv: KeyValue) -> Stored {
    Stored {
        revision: Revision(kv.mod_revision),
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        value: kv.value.to_vec(),
    }
}

fn put(key: String, value: impl Into<Bytes>, lease: LeaseId) -> Op {
    Op::Put {
        key,
        value: value.into(),
        lease: lease.0,
    }
}

/// Carries out any call but [`Call::List`], which belongs to the watch.
pub(super) async fn carry_out(
    client: &Client,
    keys: &Keys,
    call: Call,
) -> Result<Answer, EtcdError> {
    match call {
        Call::Grant { ttl_ms } => {
            let ttl_s = u32::try_from(ttl_ms.div_ceil(1000)).unwrap_or(u32::MAX);
            Ok(Answer::Granted(LeaseId(client.grant(ttl_s).await?)))
        }
        Call::Keepalive { lease } => match client.keep_alive(lease.0).await {
            Ok(_) => Ok(Answer::Alive(true)),
            Err(EtcdError::LeaseGone) => Ok(Answer::Alive(false)),
            Err(error) => Err(error),
        },
        Call::Revoke { lease } => {
            client.revoke(lease.0).await?;
            Ok(Answer::Txn(true))
        }
        call => {
            let (checks, then) = transaction(keys, call);
            match client.txn(checks, then, Vec::new()).await {
                Ok(result) => Ok(Answer::Txn(result.succeeded)),
                // A key cannot be put under a lease that has ended: nothing was done.
                Err(EtcdError::LeaseGone) => Ok(Answer::Txn(false)),
                Err(error) => Err(error),
            }
        }
    }
}

fn transaction(keys: &Keys, call: Call) -> (Vec<Check>, Vec<Op>) {
    match call {
        Call::Create {
            counter,
            lease,
            member,
        } => {
            let node = keys.node(member.id.as_str());
            let lives = keys.key("incarnations");
            let name = member.id.as_str().as_bytes().to_vec();
            (
                vec![
                    Check::Version(lives.clone(), i64::from(counter)),
                    Check::Absent(node.clone()),
                ],
                vec![
                    put(lives, name, LeaseId(0)),
                    put(node, member.to_bytes(), lease),
                ],
            )
        }
        Call::Recreate { lease, member, map } => {
            let node = keys.node(member.id.as_str());
            (
                vec![
                    Check::Absent(node.clone()),
                    Check::Modified(keys.key("map"), map.0),
                ],
                vec![put(node, member.to_bytes(), lease)],
            )
        }
        Call::Update {
            lease,
            member,
            revision,
        } => {
            let node = keys.node(member.id.as_str());
            (
                vec![Check::Modified(node.clone(), revision.0)],
                vec![put(node, member.to_bytes(), lease)],
            )
        }
        Call::Campaign { lease, me } => {
            let leader = keys.key("leader");
            (
                vec![Check::Absent(leader.clone())],
                vec![put(leader, me.to_string().into_bytes(), lease)],
            )
        }
        Call::Publish {
            map,
            revision,
            me,
            nodes,
        } => publication(keys, &map, (revision, me), &nodes),
        // Not transactions; the caller has them elsewhere.
        Call::List | Call::Grant { .. } | Call::Keepalive { .. } | Call::Revoke { .. } => {
            (Vec::new(), Vec::new())
        }
    }
}

/// The map goes out if it follows the one that it was made from, its planner still is the planner,
/// and nobody whom it leaves out has come back.
fn publication(
    keys: &Keys,
    map: &ShardMap,
    (revision, me): (Revision, Incarnation),
    left_out: &[(NodeId, Revision)],
) -> (Vec<Check>, Vec<Op>) {
    let key = keys.key("map");
    let mut checks = vec![
        Check::Modified(key.clone(), revision.0),
        Check::Value(keys.key("leader"), me.to_string().into_bytes().into()),
    ];
    let absent = left_out.iter();
    checks.extend(absent.map(|(id, at)| Check::Modified(keys.node(id.as_str()), at.0)));
    (checks, vec![put(key, map.to_bytes(), LeaseId(0))])
}
