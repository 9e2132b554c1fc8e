//! What a transaction asks and what it answers.

use crate::wire::etcd as pb;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};

/// A key with its value and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, prefix included.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the cluster at which the key came to be.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// Changes since it came to be.
    pub version: i64,
    /// Lease it hangs on; 0: none.
    pub lease: i64,
}

impl From<pb::KeyValue> for KeyValue {
    fn from(kv: pb::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// There is no such key.
    Absent(String),
    /// The key came to be at this revision.
    Created(String, i64),
    /// The key was last changed at this revision (0: there is none).
    Modified(String, i64),
    /// The key was changed so often (0: there is none).
    Version(String, i64),
    /// The key hangs on this lease.
    Leased(String, i64),
    /// The key has this value.
    Value(String, Bytes),
}

/// A step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key; `lease` 0: for ever.
    Put {
        /// Which.
        key: String,
        /// What.
        value: Bytes,
        /// Under which lease.
        lease: i64,
    },
    /// Deletes one key.
    Delete(String),
    /// Deletes every key that begins with this.
    DeletePrefix(String),
    /// Reads one key.
    Get(String),
    /// Reads every key that begins with this.
    GetPrefix(String),
}

/// The answer to an [`Op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Written.
    Put,
    /// How many keys were deleted.
    Deleted(i64),
    /// What was read, by key.
    Read(Vec<KeyValue>),
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the conditions held; says which branch ran.
    pub succeeded: bool,
    /// The store's revision afterwards.
    pub revision: i64,
    /// One for each step of the branch that ran.
    pub answers: Vec<Answer>,
}

/// The end of the range of keys that begin with `prefix`: the prefix plus one at its last byte.
pub(super) fn range_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    // Every key from here on, as etcd writes it.
    Bytes::from_static(&[0])
}

fn key(text: String) -> Bytes {
    Bytes::from(text.into_bytes())
}

impl From<Check> for pb::Compare {
    fn from(check: Check) -> Self {
        let (name, target, union) = match check {
            Check::Absent(name) => (name, CompareTarget::Create, TargetUnion::CreateRevision(0)),
            Check::Created(name, at) => {
                (name, CompareTarget::Create, TargetUnion::CreateRevision(at))
            }
            Check::Modified(name, at) => (name, CompareTarget::Mod, TargetUnion::ModRevision(at)),
            Check::Version(name, count) => {
                (name, CompareTarget::Version, TargetUnion::Version(count))
            }
            Check::Leased(name, id) => (name, CompareTarget::Lease, TargetUnion::Lease(id)),
            Check::Value(name, value) => (name, CompareTarget::Value, TargetUnion::Value(value)),
        };
        Self {
            result: CompareResult::Equal as i32,
            target: target as i32,
            key: key(name),
            target_union: Some(union),
        }
    }
}

impl From<Op> for pb::RequestOp {
    fn from(op: Op) -> Self {
        use pb::request_op::Request;
        let range = |name: String, end: Bytes| pb::RangeRequest {
            key: key(name),
            range_end: end,
            ..pb::RangeRequest::default()
        };
        let delete = |name: String, end: Bytes| pb::DeleteRangeRequest {
            key: key(name),
            range_end: end,
            prev_kv: false,
        };
        let request = match op {
            Op::Put {
                key: name,
                value,
                lease,
            } => Request::RequestPut(pb::PutRequest {
                key: key(name),
                value,
                lease,
                prev_kv: false,
            }),
            Op::Delete(name) => Request::RequestDeleteRange(delete(name, Bytes::new())),
            Op::DeletePrefix(name) => {
                let end = range_end(name.as_bytes());
                Request::RequestDeleteRange(delete(name, end))
            }
            Op::Get(name) => Request::RequestRange(range(name, Bytes::new())),
            Op::GetPrefix(name) => {
                let end = range_end(name.as_bytes());
                Request::RequestRange(range(name, end))
            }
        };
        Self {
            request: Some(request),
        }
    }
}

impl Op {
    /// Whether it changes something.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Get(_) | Self::GetPrefix(_))
    }
}

/// `None`: the answer makes no sense.
pub(super) fn answer(response: pb::ResponseOp) -> Option<Answer> {
    use pb::response_op::Response;
    Some(match response.response? {
        Response::ResponseRange(read) => {
            Answer::Read(read.kvs.into_iter().map(KeyValue::from).collect())
        }
        Response::ResponsePut(_) => Answer::Put,
        Response::ResponseDeleteRange(deleted) => Answer::Deleted(deleted.deleted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(&range_end(b"/a/")[..], b"/a0");
        assert_eq!(&range_end(b"a\xff")[..], b"b");
        assert_eq!(&range_end(b"\xff")[..], b"\0");
    }
}
