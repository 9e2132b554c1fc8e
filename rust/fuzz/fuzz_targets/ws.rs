//! WebSocket frames: whatever bytes come, nothing panics, splits make no difference, and no message
//! is larger than allowed; and what a client frames, arrives.
//!
//! The input is a byte that chooses the split and the bound, then the bytes of a connection.
#![no_main]

#[allow(dead_code, reason = "the half of the file that writes is used in part")]
#[path = "../../net/src/ws.rs"]
mod ws;

use libfuzzer_sys::fuzz_target;
use ws::{Decoder, WsError, WsEvent, write_frame};

const BOUND: usize = 1024;

fn read<'a>(
    bound: usize,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<WsEvent>, Option<WsError>) {
    let mut decoder = Decoder::new(bound);
    let mut events = Vec::new();
    let mut fed = 0;
    for piece in pieces {
        decoder.feed(piece);
        fed += piece.len();
        assert!(decoder.buffered() <= fed);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// A frame as a client writes it: masked (RFC 6455 §5.3).
fn masked(opcode: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(opcode, payload, &mut frame);
    let header = frame.len() - payload.len();
    frame[1] |= 0x80;
    for (byte, key) in frame[header..].iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    let body = frame.split_off(header);
    [frame, key.to_vec(), body].concat()
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let bound = if choice & 0x80 == 0 {
        BOUND
    } else {
        usize::MAX
    };
    let size = usize::from(choice & 0x7f) + 1;
    let whole = read(bound, std::iter::once(bytes));
    assert_eq!(read(bound, bytes.chunks(size)), whole);
    for event in &whole.0 {
        match event {
            WsEvent::Text(text) => assert!(text.len() <= bound),
            // RFC 6455 §5.5
            WsEvent::Ping(payload) => assert!(payload.len() <= 125),
            WsEvent::Pong | WsEvent::Close(_) => {}
        }
    }
    if let Some(error) = whole.1 {
        assert!(matches!(error.0, 1002 | 1003 | 1009), "{error}");
    }
    let frame = masked(1, bytes, [choice, 0, 0xff, 0x55]);
    let (events, error) = read(usize::MAX, frame.chunks(size));
    assert_eq!((events, error), (vec![WsEvent::Text(bytes.to_vec())], None));
});
