//! The look around before a node joins: what would make it a bad member is found while nobody
//! counts on it.

use super::calls::Keys;
use crate::etcd::{Client, EtcdError};
use crate::id::{Incarnation, NodeId, SKEW_MAX_MS};
use crate::link::{Links, Probe, Refusal, Why};
use crate::member::{Member, PROTOCOL, speaks_with};
use std::time::Duration;

/// Why a node does not join; an operator must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The configuration, or another etcd than before.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// A living process has the name.
    #[error(
        "the node name {name:?} belongs to a living process at {address}; give each node its own \
         [node] name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where it is.
        address: String,
    },
    /// Clocks are too far apart.
    #[error("the clock of this machine is off: {0}; {SKEW_MAX_MS} ms are allowed, see NTP")]
    Clock(String),
    /// Versions are no neighbours.
    #[error("{0}; upgrade one version at a time")]
    Protocol(String),
    /// The others refuse this node.
    #[error("node {node} refuses this one: {text}")]
    Refused {
        /// Who.
        node: String,
        /// Why.
        text: String,
    },
    /// The process ends before it joined.
    #[error("stopped")]
    Stopped,
}

/// How long a member may take to answer.
const PROBE: Duration = Duration::from_millis(1500);
/// Most members that are asked; any of them finds what is wrong.
const ASKED_MAX: usize = 32;

/// Looks at who is there. `Ok(Err(_))`: no answer of etcd yet; try again.
pub(super) async fn look(
    client: &Client,
    keys: &Keys,
    links: &Links,
    me: &NodeId,
) -> Result<Result<(), EtcdError>, JoinError> {
    let (kvs, _) = match client.get_prefix(keys.all()).await {
        Ok(read) => read,
        Err(error @ (EtcdError::Config(_) | EtcdError::WrongCluster { .. })) => {
            return Err(error.into());
        }
        Err(error) => return Ok(Err(error)),
    };
    let listed = keys.listed(kvs);
    // What does not read is the agent's matter, who alerts and leaves it alone.
    let members: Vec<Member> = listed
        .nodes
        .iter()
        .filter_map(|(id, stored)| Member::read(id, &stored.value).ok())
        .collect();
    for member in members.iter().filter(|m| m.id != *me) {
        if !speaks_with(member.protocol, PROTOCOL) {
            return Err(JoinError::Protocol(format!(
                "node {} ({}) speaks version {} of the protocol, this one {PROTOCOL}",
                member.id, member.version, member.protocol
            )));
        }
    }
    let answers = ask(links, &members).await;
    judge(me, &answers).map(Ok)
}

type Asked = (Member, Result<Probe, Refusal>);

async fn ask(links: &Links, members: &[Member]) -> Vec<Asked> {
    let mut asked = tokio::task::JoinSet::new();
    for member in members.iter().take(ASKED_MAX).cloned() {
        let links = links.clone();
        asked.spawn(async move {
            let found = links.probe(&member.id, &member.relay, PROBE).await;
            (member, found)
        });
    }
    asked.join_all().await
}

fn judge(me: &NodeId, answers: &[Asked]) -> Result<(), JoinError> {
    let mut answered = 0_usize;
    let mut off = Vec::new();
    for (member, found) in answers {
        match found {
            Ok(probe) if member.id == *me => {
                // Ourselves say 0; whoever says the life of the record is alive.
                if probe.incarnation == member.incarnation && probe.incarnation != Incarnation(0) {
                    return Err(JoinError::NameTaken {
                        name: me.to_string(),
                        address: member.relay.clone(),
                    });
                }
            }
            Ok(probe) => {
                answered += 1;
                if probe.skew_ms.unsigned_abs() > SKEW_MAX_MS {
                    let side = if probe.skew_ms > 0 { "ahead" } else { "behind" };
                    let ms = probe.skew_ms.unsigned_abs();
                    off.push(format!("{} is {ms} ms {side}", member.id));
                }
            }
            Err(refusal) if member.id != *me => match refusal.reason {
                Why::Cluster | Why::Protocol => {
                    return Err(JoinError::Refused {
                        node: member.id.to_string(),
                        text: refusal.text.clone(),
                    });
                }
                // One whose own certificate has run out must keep nobody out.
                _ => {}
            },
            Err(_) => {}
        }
    }
    let certificates = answers.iter().filter(|(member, found)| {
        member.id != *me && matches!(found, Err(r) if r.reason == Why::Certificate)
    });
    let refusing: Vec<_> = certificates.collect();
    if answered == 0
        && let Some((member, Err(refusal))) = refusing.first()
    {
        return Err(JoinError::Refused {
            node: member.id.to_string(),
            text: refusal.text.clone(),
        });
    }
    // With half of them off it is not known who is right: then this one stays outside.
    if !off.is_empty() && off.len() * 2 >= answered {
        return Err(JoinError::Clock(off.join(", ")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::MemberState;

    fn member(id: &str, life: u32) -> Member {
        Member {
            id: NodeId::new(id).unwrap(),
            incarnation: Incarnation(life),
            state: MemberState::Up,
            zone: None,
            version: String::new(),
            protocol: PROTOCOL,
            relay: "h:1".into(),
            control: String::new(),
        }
    }

    fn found(id: &str, life: u32, answers: u32, skew_ms: i64) -> Asked {
        let probe = Probe {
            node: id.into(),
            incarnation: Incarnation(answers),
            skew_ms,
            version: String::new(),
        };
        (member(id, life), Ok(probe))
    }

    fn refuses(id: &str, reason: Why) -> Asked {
        let refusal = Refusal {
            reason,
            text: "no".into(),
        };
        (member(id, 9), Err(refusal))
    }

    #[test]
    fn a_node_joins_unless_it_would_be_a_bad_member() {
        let me = NodeId::new("a").unwrap();
        assert_eq!(judge(&me, &[]), Ok(()));
        assert_eq!(
            judge(&me, &[found("b", 1, 1, 400), found("c", 2, 2, -500)]),
            Ok(())
        );
        let one_of_three = [
            found("b", 1, 1, 900),
            found("c", 2, 2, 0),
            found("d", 3, 3, 0),
        ];
        assert_eq!(judge(&me, &one_of_three), Ok(()));
        assert!(matches!(
            judge(&me, &one_of_three[..2]),
            Err(JoinError::Clock(text)) if text == "b is 900 ms ahead"
        ));
        assert!(matches!(
            judge(&me, &[found("a", 4, 4, 0)]),
            Err(JoinError::NameTaken { .. })
        ));
        // The record of a former life, whose address is ours again or nobody's.
        assert_eq!(judge(&me, &[found("a", 4, 0, 0)]), Ok(()));
        assert_eq!(judge(&me, &[refuses("a", Why::Silent)]), Ok(()));
        assert_eq!(judge(&me, &[refuses("b", Why::Silent)]), Ok(()));
        for fatal in [Why::Cluster, Why::Protocol, Why::Certificate] {
            let judged = judge(&me, &[refuses("b", fatal)]);
            assert!(
                matches!(judged, Err(JoinError::Refused { .. })),
                "{fatal:?}"
            );
        }
        let mixed = [refuses("b", Why::Certificate), found("c", 2, 2, 0)];
        assert_eq!(judge(&me, &mixed), Ok(()));
    }
}
