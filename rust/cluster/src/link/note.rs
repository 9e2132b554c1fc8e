//! Notes between members, as they go over the wire.

use crate::id::{Epoch, Incarnation, Mono};
use crate::map::ShardMap;
use crate::talk::{Note, Signs};
use crate::wire::v1;
use antiphon_routing::home::SHARDS;
use std::sync::Arc;
use v1::note::Kind;

fn alive(sent: Mono, epoch: Epoch) -> v1::Alive {
    v1::Alive {
        sent_ms: sent.0,
        epoch: epoch.0,
    }
}

pub(super) fn to_wire(note: &Note) -> v1::Note {
    let kind = match note {
        Note::Ping { sent, epoch } => Kind::Ping(alive(*sent, *epoch)),
        Note::Pong { sent, epoch } => Kind::Pong(alive(*sent, *epoch)),
        Note::Map(map) => Kind::Map(map.to_bytes().into()),
        Note::Out(epoch) => Kind::Out(epoch.0),
        Note::Stopped => Kind::Stopped(true),
        Note::IsEtcdGone { ask } => Kind::IsEtcdGone(*ask),
        Note::EtcdGone {
            ask,
            is_gone,
            epoch,
        } => Kind::EtcdGone(v1::EtcdGone {
            ask: *ask,
            is_gone: *is_gone,
            epoch: epoch.0,
        }),
        Note::Doubt { ask, target } => Kind::Doubt(v1::Doubt {
            ask: *ask,
            target: target.0,
        }),
        Note::Heard { ask, target, signs } => Kind::Heard(v1::Heard {
            ask: *ask,
            target: target.0,
            signs: match signs {
                Signs::Hears => v1::Signs::Hears,
                Signs::Silent => v1::Signs::Silent,
                Signs::Refused => v1::Signs::Refused,
            } as i32,
        }),
        Note::Settled(settled) => Kind::Settled(v1::Settled {
            shards: settled.iter().map(|(shard, _)| u32::from(*shard)).collect(),
            since: settled.iter().map(|(_, since)| since.0).collect(),
        }),
    };
    v1::Note { kind: Some(kind) }
}

/// `None`: it does not read, or says what only a later version knows.
pub(super) fn of_wire(message: v1::Note) -> Option<Note> {
    Some(match message.kind? {
        Kind::Ping(v1::Alive { sent_ms, epoch }) => Note::Ping {
            sent: Mono(sent_ms),
            epoch: Epoch(epoch),
        },
        Kind::Pong(v1::Alive { sent_ms, epoch }) => Note::Pong {
            sent: Mono(sent_ms),
            epoch: Epoch(epoch),
        },
        Kind::Map(bytes) => Note::Map(Arc::new(ShardMap::read(&bytes, SHARDS).ok()?)),
        Kind::Out(epoch) => Note::Out(Epoch(epoch)),
        Kind::Stopped(_) => Note::Stopped,
        Kind::IsEtcdGone(ask) => Note::IsEtcdGone { ask },
        Kind::EtcdGone(v1::EtcdGone {
            ask,
            is_gone,
            epoch,
        }) => Note::EtcdGone {
            ask,
            is_gone,
            epoch: Epoch(epoch),
        },
        Kind::Doubt(v1::Doubt { ask, target }) => Note::Doubt {
            ask,
            target: Incarnation(target),
        },
        Kind::Heard(v1::Heard { ask, target, signs }) => Note::Heard {
            ask,
            target: Incarnation(target),
            signs: match v1::Signs::try_from(signs).ok()? {
                v1::Signs::Hears => Signs::Hears,
                v1::Signs::Silent => Signs::Silent,
                v1::Signs::Refused => Signs::Refused,
            },
        },
        Kind::Settled(v1::Settled { shards, since }) => {
            if shards.len() != since.len() || shards.len() > usize::from(SHARDS) {
                return None;
            }
            let shard = |shard: &u32| u16::try_from(*shard).ok().filter(|s| *s < SHARDS);
            let shards: Option<Vec<_>> = shards.iter().map(shard).collect();
            let since = since.into_iter().map(Epoch);
            Note::Settled(shards?.into_iter().zip(since).collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_as_they_were_written() {
        let notes = [
            Note::Ping {
                sent: Mono(7),
                epoch: Epoch(8),
            },
            Note::Pong {
                sent: Mono(9),
                epoch: Epoch(8),
            },
            Note::Out(Epoch(3)),
            Note::Stopped,
            Note::IsEtcdGone { ask: 4 },
            Note::EtcdGone {
                ask: 4,
                is_gone: true,
                epoch: Epoch(1),
            },
            Note::Doubt {
                ask: 5,
                target: Incarnation(6),
            },
            Note::Heard {
                ask: 5,
                target: Incarnation(6),
                signs: Signs::Refused,
            },
            Note::Settled(vec![(0, Epoch(1)), (4095, Epoch(2))]),
        ];
        for note in notes {
            assert_eq!(of_wire(to_wire(&note)), Some(note));
        }
    }

    #[test]
    fn a_note_that_does_not_read_is_none() {
        let of = |kind| of_wire(v1::Note { kind });
        assert_eq!(of(None), None);
        assert_eq!(of(Some(Kind::Map(vec![1, 2, 3].into()))), None);
        let settled = v1::Settled {
            shards: vec![4096],
            since: vec![1],
        };
        assert_eq!(of(Some(Kind::Settled(settled))), None);
    }
}
