//! Units in a frame and outcomes in words, as bytes.

use crate::id::Epoch;
use crate::relay::{Frame, Outcome, Words};
use crate::wire::v1;
use bytes::{BufMut, Bytes, BytesMut};

/// Most outcomes in one message of words.
pub(super) const OUTCOMES_MAX: usize = 4096;

/// A message that does not read: the connection is closed, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message that does not read")]
pub(super) struct Garbled;

fn put(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take(bytes: &[u8], at: &mut usize) -> Result<u64, Garbled> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(Garbled)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Garbled)
}

/// What a unit is charged: its bytes and what it costs to keep it.
#[must_use]
pub(super) fn charge(unit: &Bytes) -> usize {
    unit.len() + 32
}

pub(super) fn frame(frame: Frame<Bytes>, epoch: u64, clock: u64) -> v1::Frame {
    let size: usize = frame.stanzas.iter().map(|(bytes, _)| bytes).sum();
    let n = frame.stanzas.len() as u32;
    // One unit needs no copy with its own length around it but is packed all the same: one format.
    let mut packed = BytesMut::with_capacity(size);
    for (_, unit) in &frame.stanzas {
        put(&mut packed, unit.len() as u64);
        packed.put_slice(unit);
    }
    v1::Frame {
        connection: frame.connection,
        first: frame.first,
        n,
        packed: packed.freeze(),
        seen: frame.seen,
        epoch,
        clock,
    }
}

/// Units share the frame's memory.
pub(super) fn unframe(message: v1::Frame) -> Result<Frame<Bytes>, Garbled> {
    let packed = message.packed;
    // Each takes a byte at least, so a number from the wire never asks for memory.
    if message.n as usize > packed.len() {
        return Err(Garbled);
    }
    let mut stanzas = Vec::with_capacity(message.n as usize);
    let mut at = 0;
    for _ in 0..message.n {
        let length = usize::try_from(take(&packed, &mut at)?).map_err(|_| Garbled)?;
        let end = at.checked_add(length).filter(|end| *end <= packed.len());
        let end = end.ok_or(Garbled)?;
        let unit = packed.slice(at..end);
        stanzas.push((charge(&unit), unit));
        at = end;
    }
    if at != packed.len() {
        return Err(Garbled);
    }
    Ok(Frame {
        connection: message.connection,
        first: message.first,
        stanzas,
        seen: message.seen,
    })
}

pub(super) fn words(words: &Words, epoch: u64, clock: u64) -> v1::Words {
    let mut outcomes = BytesMut::with_capacity(words.outcomes.len() * 6);
    for (number, outcome) in &words.outcomes {
        put(&mut outcomes, *number);
        match outcome {
            Outcome::Done => put(&mut outcomes, 0),
            Outcome::Returned(epoch) => {
                put(&mut outcomes, 1);
                put(&mut outcomes, epoch.0);
            }
            Outcome::Refused => put(&mut outcomes, 2),
            Outcome::NotYet => put(&mut outcomes, 3),
        }
    }
    v1::Words {
        connection: words.connection,
        received: words.received,
        room: words.room,
        first: words.first,
        outcomes: outcomes.freeze(),
        epoch,
        clock,
    }
}

pub(super) fn unwords(message: &v1::Words) -> Result<Words, Garbled> {
    let bytes = &message.outcomes;
    let (mut at, mut outcomes) = (0, Vec::new());
    while at < bytes.len() {
        let number = take(bytes, &mut at)?;
        let outcome = match take(bytes, &mut at)? {
            0 => Outcome::Done,
            1 => Outcome::Returned(Epoch(take(bytes, &mut at)?)),
            2 => Outcome::Refused,
            3 => Outcome::NotYet,
            _ => return Err(Garbled),
        };
        outcomes.push((number, outcome));
    }
    Ok(Words {
        connection: message.connection,
        received: message.received,
        room: message.room,
        first: message.first,
        outcomes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_words_read_as_they_were_written() {
        let units = [&b""[..], b"a", &[7; 300]].map(Bytes::copy_from_slice);
        let stanzas: Vec<_> = units.iter().map(|u| (charge(u), u.clone())).collect();
        let one = Frame {
            connection: 3,
            first: 9,
            stanzas,
            seen: 4,
        };
        assert_eq!(unframe(frame(one.clone(), 1, 2)), Ok(one));
        let said = Words {
            connection: 3,
            received: 300,
            room: 1 << 40,
            first: 2,
            outcomes: vec![
                (1, Outcome::Done),
                (300, Outcome::Returned(Epoch(77))),
                (2, Outcome::Refused),
                (3, Outcome::NotYet),
            ],
        };
        assert_eq!(unwords(&words(&said, 1, 2)), Ok(said));
    }

    #[test]
    fn a_frame_that_lies_about_its_units_is_garbled() {
        let units = vec![(33, Bytes::from_static(b"x"))];
        let good = frame(
            Frame {
                connection: 1,
                first: 1,
                stanzas: units,
                seen: 0,
            },
            1,
            1,
        );
        for (n, packed) in [
            (2, &b"\x01x"[..]),
            (u32::MAX, b"\x01x"),
            (1, b"\x02x"),
            (1, b"\x01xy"),
            (1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            (1, b"\xff"),
        ] {
            let bad = v1::Frame {
                n,
                packed: Bytes::copy_from_slice(packed),
                ..good.clone()
            };
            assert_eq!(unframe(bad), Err(Garbled), "{n} {packed:?}");
        }
        let bad = v1::Words {
            outcomes: Bytes::from_static(b"\x01\x07"),
            ..v1::Words::default()
        };
        assert_eq!(unwords(&bad), Err(Garbled));
    }
}
