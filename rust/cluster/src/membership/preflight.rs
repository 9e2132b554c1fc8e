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
    /// One side does not trust the certificate of the other.
    #[error(
        "no trusted link with node {node}: {text}; all nodes of a cluster need certificates of the \
         authorities in cluster.tls.ca, in date, each with its node's name"
    )]
    Certificate {
        /// With whom.
        node: String,
        /// Why.
        text: String,
    },
    /// The process ends before it joined.
    #[error("stopped")]
    Stopped,
}

/// What a look around found that speaks against nothing.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing stands in the way.
    Way,
    /// No answer of etcd yet; try again.
    Etcd(EtcdError),
    /// Members have leases and none of them answers: who, and how that looks. Try again, until
    /// one does or their leases have ended; a node that nobody can reach would be no member.
    Nobody(Vec<String>),
}

/// How long a member may take to answer.
const PROBE: Duration = Duration::from_millis(1500);
/// How long a member may take to hear why this node does not join.
const DECLINE: Duration = Duration::from_millis(500);
/// Most members that are asked; any of them finds what is wrong.
const ASKED_MAX: usize = 32;

/// Looks at who is there; with `life`, that of this process, once more from inside.
///
/// # Errors
/// Why this node must stay out; the members that know it from this one have been told.
pub(super) async fn look(
    client: &Client,
    keys: &Keys,
    links: &Links,
    (me, life): (&NodeId, Option<Incarnation>),
) -> Result<Found, JoinError> {
    let (kvs, _) = match client.get_prefix(keys.all()).await {
        Ok(read) => read,
        Err(error @ (EtcdError::Config(_) | EtcdError::WrongCluster { .. })) => {
            return Err(error.into());
        }
        Err(error) => return Ok(Found::Etcd(error)),
    };
    let listed = keys.listed(kvs);
    // What does not read is the agent's matter, who alerts and leaves it alone.
    let members: Vec<Member> = listed
        .nodes
        .iter()
        .filter_map(|(id, stored)| Member::read(id, &stored.value).ok())
        .filter(|member| life.is_none_or(|life| member.incarnation != life))
        .collect();
    // Those of another version are asked as well: they refuse, and so their logs say it, too.
    let answers = ask(links, &members).await;
    let mut others = members.iter().filter(|m| m.id != *me);
    if let Some(member) = others.find(|m| !speaks_with(m.protocol, PROTOCOL)) {
        return Err(JoinError::Protocol(format!(
            "node {} ({}) speaks version {} of the protocol, this one {PROTOCOL}",
            member.id, member.version, member.protocol
        )));
    }
    let judged = judge(me, &answers);
    if let Err(error) = &judged {
        decline(links, me, &answers, error).await;
    }
    judged
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

/// Tells members what they cannot have seen themselves, so that their logs say it, too.
async fn decline(links: &Links, me: &NodeId, answers: &[Asked], error: &JoinError) {
    let mut told = tokio::task::JoinSet::new();
    for (member, found) in answers {
        let Some(why) = found.as_ref().ok().and_then(|p| verdict(me, p, error)) else {
            continue;
        };
        let (links, member) = (links.clone(), member.clone());
        told.spawn(async move {
            links
                .decline(&member.id, &member.relay, &why, DECLINE)
                .await;
        });
    }
    told.join_all().await;
}

/// What one that answered is told; `None`: it has nothing to do with it, or said so itself.
fn verdict(me: &NodeId, probe: &Probe, error: &JoinError) -> Option<Refusal> {
    let (reason, text) = match error {
        JoinError::Clock(_) if is_off(probe) => {
            let side = if probe.skew_ms > 0 {
                "behind"
            } else {
                "ahead of"
            };
            let ms = probe.skew_ms.unsigned_abs();
            let text = format!(
                "node {me} does not join: its clock is {ms} ms {side} this one's; {SKEW_MAX_MS} ms \
                 are allowed"
            );
            (Why::Clock, text)
        }
        JoinError::NameTaken { name, .. } if probe.node == *name => {
            let text = format!("another process is configured as node {name}, too");
            (Why::Target, text)
        }
        _ => return None,
    };
    Some(Refusal { reason, text })
}

fn is_off(probe: &Probe) -> bool {
    probe.skew_ms.unsigned_abs() > SKEW_MAX_MS
}

fn judge(me: &NodeId, answers: &[Asked]) -> Result<Found, JoinError> {
    let own = answers.iter().filter(|(member, _)| member.id == *me);
    for (member, found) in own {
        // Ourselves say 0; whoever says the life of the record is alive.
        let is_its = |p: &Probe| p.incarnation == member.incarnation;
        if member.incarnation != Incarnation(0) && found.as_ref().is_ok_and(is_its) {
            return Err(JoinError::NameTaken {
                name: me.to_string(),
                address: member.relay.clone(),
            });
        }
    }
    let others = answers.iter().filter(|(member, _)| member.id != *me);
    let (mut answered, mut off) = (0_usize, Vec::new());
    let (mut untrusted, mut silent) = (Vec::new(), Vec::new());
    for (member, found) in others {
        match found {
            Ok(probe) => {
                answered += 1;
                if is_off(probe) {
                    let side = if probe.skew_ms > 0 { "ahead" } else { "behind" };
                    let ms = probe.skew_ms.unsigned_abs();
                    off.push(format!("{} is {ms} ms {side}", member.id));
                }
            }
            Err(refusal) => match refusal.reason {
                Why::Cluster | Why::Protocol => {
                    return Err(JoinError::Refused {
                        node: member.id.to_string(),
                        text: refusal.text.clone(),
                    });
                }
                Why::Certificate => untrusted.push((member, refusal)),
                _ => silent.push(format!("{} at {}: {refusal}", member.id, member.relay)),
            },
        }
    }
    // One whose own certificate has run out must keep nobody out.
    if let Some((member, refusal)) = untrusted.first()
        && untrusted.len() > answered
    {
        return Err(JoinError::Certificate {
            node: member.id.to_string(),
            text: refusal.text.clone(),
        });
    }
    // With half of them off it is not known who is right: then this one stays outside.
    if !off.is_empty() && off.len() * 2 >= answered {
        return Err(JoinError::Clock(off.join(", ")));
    }
    match answered == 0 && !silent.is_empty() {
        true => Ok(Found::Nobody(silent)),
        false => Ok(Found::Way),
    }
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
        let is_way = |answers: &[Asked]| matches!(judge(&me, answers), Ok(Found::Way));
        assert!(is_way(&[]));
        assert!(is_way(&[found("b", 1, 1, 400), found("c", 2, 2, -500)]));
        let one_of_three = [
            found("b", 1, 1, 900),
            found("c", 2, 2, 0),
            found("d", 3, 3, 0),
        ];
        assert!(is_way(&one_of_three));
        assert!(matches!(
            judge(&me, &one_of_three[..2]),
            Err(JoinError::Clock(text)) if text == "b is 900 ms ahead"
        ));
        assert!(matches!(
            judge(&me, &[found("a", 4, 4, 0)]),
            Err(JoinError::NameTaken { .. })
        ));
        // The record of a former life, whose address is ours again or nobody's.
        assert!(is_way(&[found("a", 4, 0, 0)]));
        assert!(is_way(&[refuses("a", Why::Silent)]));
        for fatal in [Why::Cluster, Why::Protocol, Why::Certificate] {
            assert!(judge(&me, &[refuses("b", fatal)]).is_err(), "{fatal:?}");
        }
        // One of two has a certificate that ran out.
        let mixed = [refuses("b", Why::Certificate), found("c", 2, 2, 0)];
        assert!(is_way(&mixed));
        let most = [&mixed[..], &[refuses("d", Why::Certificate)]].concat();
        assert!(matches!(
            judge(&me, &most),
            Err(JoinError::Certificate { .. })
        ));
    }

    #[test]
    fn a_node_that_reaches_none_of_the_members_waits_and_says_so() {
        let me = NodeId::new("a").unwrap();
        let silent = [refuses("b", Why::Silent), refuses("c", Why::Breach)];
        match judge(&me, &silent) {
            Ok(Found::Nobody(told)) => assert_eq!(told, ["b at h:1: no", "c at h:1: no"]),
            other => panic!("{other:?}"),
        }
        let one = [refuses("b", Why::Silent), found("c", 2, 2, 0)];
        assert!(matches!(judge(&me, &one), Ok(Found::Way)));
    }

    #[test]
    fn members_are_told_what_only_the_newcomer_measured() {
        let me = NodeId::new("a").unwrap();
        let error = JoinError::Clock(String::new());
        let of = |asked: Asked, error: &JoinError| verdict(&me, &asked.1.unwrap(), error);
        let told = of(found("b", 1, 1, 900), &error).expect("told");
        assert_eq!(told.reason, Why::Clock);
        assert!(told.text.contains("its clock is 900 ms behind"), "{told}");
        assert_eq!(of(found("b", 1, 1, 100), &error), None);
        assert_eq!(of(found("b", 1, 1, 900), &JoinError::Stopped), None);
        let taken = JoinError::NameTaken {
            name: "a".into(),
            address: String::new(),
        };
        assert!(of(found("a", 1, 1, 0), &taken).is_some());
        assert_eq!(of(found("b", 1, 1, 0), &taken), None);
    }
}
