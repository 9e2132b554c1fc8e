//! Messages of clients to their partners, and the times at which an open loop sends them.

use super::stamp::{self, Stamps, push_hex};
use crate::crew::Crew;
use crate::words::Words;
use std::time::Duration;

/// What a message up to its id begins with.
pub fn opening(to: &str) -> Vec<u8> {
    format!("<message to='{to}' type='chat' id='").into_bytes()
}

/// The messages of each client to the one beside it: 0 to 1, 1 to 0, 2 to 3 …
pub struct Mail {
    openings: Vec<Vec<u8>>,
    body: usize,
    padding: Vec<u8>,
    words: Option<Words>,
    /// An ack request after so many (XEP-0198); 0: none.
    sm: u32,
    /// Messages of each client since its last one.
    unasked: Vec<u32>,
}

impl Mail {
    /// For the first `count` clients. With `words`, bodies are made of them.
    pub fn new(crew: &Crew, count: usize, words: Option<Words>) -> Self {
        Self {
            openings: (0..count)
                .map(|id| opening(&crew.sessions[id ^ 1].jid))
                .collect(),
            body: crew.options.body,
            padding: vec![b'x'; crew.options.body.saturating_sub(stamp::SIZE)],
            words,
            sm: crew.options.sm,
            unasked: vec![0; count],
        }
    }

    /// How many clients write.
    pub const fn clients(&self) -> usize {
        self.openings.len()
    }

    /// The words that bodies are made of.
    pub const fn words(&self) -> Option<&Words> {
        self.words.as_ref()
    }

    /// Appends a message of client `id`, marked with `stamp_ns`; `number` is its id where the mark
    /// is in the body.
    pub fn write(
        &mut self,
        id: usize,
        (stamps, stamp_ns): (&Stamps, u64),
        number: u64,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.openings[id]);
        if let Some(words) = &mut self.words {
            // A mark between words would be a word of its own, in no other message.
            stamps.write(stamp_ns, out);
            out.extend_from_slice(b"'><body>");
            words.text(self.body, out);
        } else {
            push_hex(number, out);
            out.extend_from_slice(b"'><body>");
            stamps.write(stamp_ns, out);
            out.extend_from_slice(&self.padding);
        }
        out.extend_from_slice(b"</body></message>");
        if self.sm > 0 {
            self.unasked[id] += 1;
            if self.unasked[id] >= self.sm {
                self.unasked[id] = 0;
                out.extend_from_slice(b"<r xmlns='urn:xmpp:sm:3'/>");
            }
        }
    }
}

/// Times that were fixed before: a server that stalls cannot slow down the clock it is measured by.
pub struct Pace {
    interval_ns: f64,
    first_ns: u64,
    next: u64,
    /// The clock when it was last looked at.
    seen_ns: u64,
}

impl Pace {
    /// So many a second from now on.
    #[allow(clippy::cast_precision_loss, reason = "rates are at most a million")]
    pub fn new(rate: u64, stamps: &Stamps) -> Self {
        let now = stamps.now();
        Self {
            interval_ns: 1e9 / rate.max(1) as f64,
            first_ns: now,
            next: 0,
            seen_ns: now,
        }
    }

    /// The number of the next message and the time it was due, if that has come.
    pub fn due(&mut self, stamps: &Stamps) -> Option<(u64, u64)> {
        let due_ns = self.due_ns();
        if due_ns > self.seen_ns {
            self.seen_ns = stamps.now();
        }
        (due_ns <= self.seen_ns).then(|| {
            self.next += 1;
            (self.next - 1, due_ns)
        })
    }

    /// From the last look at the clock to the next message.
    pub fn pause(&self) -> Duration {
        Duration::from_nanos(self.due_ns().saturating_sub(self.seen_ns))
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "nanoseconds of hours are below 2^52"
    )]
    fn due_ns(&self) -> u64 {
        self.first_ns + (self.next as f64 * self.interval_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_late_keep_the_times_they_were_due() {
        let stamps = Stamps::new();
        let mut pace = Pace::new(1000, &stamps);
        std::thread::sleep(Duration::from_millis(5));
        let mut last = None;
        while let Some((number, due_ns)) = pace.due(&stamps) {
            assert_eq!(due_ns, pace.first_ns + number * 1_000_000);
            last = Some(number);
        }
        assert!(last >= Some(5));
        assert!(pace.pause() <= Duration::from_millis(1));
    }
}
