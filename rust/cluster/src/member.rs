//! What a node says of itself in etcd.

use crate::id::{Incarnation, NodeId, Zone};
use serde::{Deserialize, Serialize};

/// The largest record that is read, bytes.
pub const MEMBER_BYTES_MAX: usize = 4096;

/// Version of what nodes say to each other. Neighbours ([`speaks_with`]) work together.
pub const PROTOCOL: u16 = 1;

/// Whether nodes of these two protocol versions work together: equal or neighbours.
#[must_use]
pub fn speaks_with(one: u16, other: u16) -> bool {
    one.abs_diff(other) <= 1
}

/// What a node wants of the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Not ready: gets no shard.
    Joining,
    /// Takes its share.
    Up,
    /// Gives its shards away.
    Draining,
}

/// The value of `nodes/<id>`: JSON, so that an operator can read it. Fields are only added, and
/// unknown ones are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, that of the key as well.
    pub id: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// What it wants.
    pub state: MemberState,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Version of the program, for people.
    pub version: String,
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// `host:port` of its relay.
    pub relay: String,
    /// `host:port` of its control calls.
    pub control: String,
}

/// A record that nobody acts on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMember {
    /// Above [`MEMBER_BYTES_MAX`].
    #[error("a member's record has {0} bytes")]
    TooLarge(usize),
    /// No record, or one with an unknown state.
    #[error("a member's record does not read: {0}")]
    Garbage(String),
    /// Not the one of its key.
    #[error("the record of {key} says that it is {id}")]
    WrongKey {
        /// Name in the key.
        key: String,
        /// Name in the value.
        id: NodeId,
    },
    /// No process has it.
    #[error("incarnation 0")]
    NoIncarnation,
}

impl Member {
    /// As it stands in etcd.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the value under the key `nodes/<key>`.
    ///
    /// # Errors
    /// Whatever makes it unfit for a decision: then none is taken on it.
    pub fn read(key: &str, bytes: &[u8]) -> Result<Self, BadMember> {
        if bytes.len() > MEMBER_BYTES_MAX {
            return Err(BadMember::TooLarge(bytes.len()));
        }
        let member: Self =
            serde_json::from_slice(bytes).map_err(|e| BadMember::Garbage(e.to_string()))?;
        if member.id.as_str() != key {
            return Err(BadMember::WrongKey {
                key: key.chars().take(64).collect(),
                id: member.id,
            });
        }
        if member.incarnation == Incarnation(0) {
            return Err(BadMember::NoIncarnation);
        }
        Ok(member)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A member of this name and life.
    pub(crate) fn member(id: &str, incarnation: u32, state: MemberState) -> Member {
        Member {
            id: NodeId::new(id).unwrap(),
            incarnation: Incarnation(incarnation),
            state,
            zone: None,
            version: "0.1.0".into(),
            protocol: PROTOCOL,
            relay: "127.0.0.1:1".into(),
            control: "127.0.0.1:2".into(),
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let mut one = member("a", 7, MemberState::Draining);
        one.zone = Some(Zone::new("z1").unwrap());
        assert_eq!(Member::read("a", &one.to_bytes()), Ok(one));
    }

    #[test]
    fn a_field_of_a_later_version_is_left_alone() {
        let text = r#"{"id":"a","incarnation":7,"state":"up","version":"9","protocol":2,
            "relay":"h:1","control":"h:2","colour":"red"}"#;
        assert_eq!(Member::read("a", text.as_bytes()).unwrap().protocol, 2);
    }

    #[test]
    fn garbage_is_an_error_and_no_member() {
        let good = member("a", 7, MemberState::Up).to_bytes();
        assert!(matches!(
            Member::read("b", &good),
            Err(BadMember::WrongKey { .. })
        ));
        for at in 0..good.len() {
            assert!(Member::read("a", &good[..at]).is_err());
        }
        let text = String::from_utf8(good).unwrap();
        for (from, to) in [
            ("\"up\"", "\"upp\""),
            (":7", ":0"),
            (":7", ":-7"),
            ("\"a\"", "\"\""),
        ] {
            assert!(Member::read("a", text.replace(from, to).as_bytes()).is_err());
        }
        assert_eq!(
            Member::read("a", &vec![b' '; 5000]),
            Err(BadMember::TooLarge(5000))
        );
    }

    #[test]
    fn neighbouring_versions_speak_with_each_other() {
        assert!(speaks_with(1, 2) && speaks_with(2, 1) && !speaks_with(1, 3));
    }
}
