//! Nanoseconds and allocations for reading a chat message of about 250 bytes.
//!
//! `cargo run --release -p antiphon-xmpp --example bench_reader`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that takes the time and prints figures"
)]

use antiphon_xmpp::xml::{Event, Limits, Reader};
use std::hint::black_box;
use std::time::Instant;

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0' xml:lang='en'>";
const MESSAGE: &[u8] = b"<message to='juliet@example.org/balcony' type='chat' id='c2a1f7d0-5b'>\
    <body>Wherefore art thou, and what does it cost to carry this line?</body>\
    <active xmlns='http://jabber.org/protocol/chatstates'/>\
    <request xmlns='urn:xmpp:receipts'/></message>";
const LIMITS: Limits = Limits {
    stanza_bytes: 262_144,
    depth: 128,
    elements: 25_000,
    attributes: 100,
};

fn reader() -> Reader {
    let mut reader = Reader::tcp(LIMITS);
    reader.feed(HEADER);
    let _ = black_box(reader.next());
    reader
}

/// Feeds `chunk` over and over and gives the nanoseconds a message.
fn measure(chunk: &[u8], per_chunk: usize, split: usize) -> f64 {
    let mut reader = reader();
    let rounds = 400_000 / per_chunk;
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let mut seen = 0;
        for _ in 0..rounds {
            for piece in chunk.chunks(split) {
                reader.feed(black_box(piece));
                while let Ok(Some(Event::Stanza(stanza))) = reader.next() {
                    seen += 1;
                    black_box(stanza);
                }
            }
        }
        assert_eq!(seen, rounds * per_chunk);
        best = best.min(start.elapsed().as_nanos() as f64 / seen as f64);
    }
    best
}

fn main() {
    let many = MESSAGE.repeat(100);
    println!("message of {} bytes", MESSAGE.len());
    println!(
        "one a read:        {:7.0} ns",
        measure(MESSAGE, 1, usize::MAX)
    );
    println!(
        "hundred a read:    {:7.0} ns",
        measure(&many, 100, usize::MAX)
    );
    println!("in 64-byte pieces: {:7.0} ns", measure(MESSAGE, 1, 64));
    println!("byte by byte:      {:7.0} ns", measure(MESSAGE, 1, 1));
    let mut reader = reader();
    reader.feed(MESSAGE);
    if let Ok(Some(Event::Stanza(stanza))) = reader.next() {
        let mut out = Vec::new();
        let start = Instant::now();
        for _ in 0..1_000_000 {
            out.clear();
            black_box(&stanza).write(None, &mut out);
            black_box(&out);
        }
        println!(
            "writing:           {:7.0} ns",
            start.elapsed().as_nanos() as f64 / 1e6
        );
    }
}
