//! Output buffers used again: a session has one from the first stanza of a turn until its socket has
//! taken it, so a thread gets by with as many as it writes to in one turn. None belongs to an idle
//! session.

use std::cell::RefCell;

/// Buffers that a thread keeps.
const BUFFERS: usize = 16;
/// Bytes of one, at most.
const BYTES: usize = 32 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, used before if there is one.
pub fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a buffer for the next who asks.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > BYTES {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < BUFFERS {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_buffer_is_used_again_and_a_large_one_is_not() {
        give(Vec::with_capacity(BYTES + 1));
        assert_eq!(take().capacity(), 0);
        give(b"old".to_vec());
        let again = take();
        assert!(again.is_empty() && again.capacity() >= 3);
        assert_eq!(take().capacity(), 0);
        for _ in 0..2 * BUFFERS {
            give(vec![0; 16]);
        }
        assert_eq!(SPARE.with_borrow(Vec::len), BUFFERS);
    }
}
