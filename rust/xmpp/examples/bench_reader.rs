//! What reading and writing a chat message of about 250 bytes costs, beside quick-xml, which only
//! splits the same bytes into tags: no namespaces, no limits, no stanza, no prepared address.
//!
//! `cargo run --release -p antiphon-xmpp --example bench_reader`; `make micro` runs it too. One line
//! each, separated by tabs: what, CPU ns of this thread a message, MB/s, allocations a message.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program that takes the time and prints figures"
)]

use antiphon_xmpp::xml::{Event, Limits, Reader};
use std::hint::black_box;

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
const MESSAGES: usize = 200_000;
const REPETITIONS: usize = 5;

/// Runs `batch`, which handles `per_batch` messages of `bytes` bytes, over and over.
fn report(what: &str, per_batch: usize, bytes: usize, mut batch: impl FnMut()) {
    batch();
    let allocated = allocation_counter::measure(&mut batch).count_total as f64 / per_batch as f64;
    let rounds = MESSAGES / per_batch;
    let best = (0..REPETITIONS)
        .map(|_| {
            let start = cpu_ns();
            for _ in 0..rounds {
                batch();
            }
            (cpu_ns() - start) / (rounds * per_batch) as f64
        })
        .fold(f64::MAX, f64::min);
    let rate = bytes as f64 / best * 1e3;
    println!("{what}\t{best:.0}\t{rate:.0} MB/s\t{allocated:.1}");
}

/// CPU time of this thread (Linux).
fn cpu_ns() -> f64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

/// Feeds `chunk`, which is `per_chunk` messages, in pieces of this size.
fn read(what: &str, chunk: &[u8], per_chunk: usize, size: usize) {
    let mut reader = Reader::tcp(LIMITS);
    reader.feed(HEADER);
    let _ = black_box(reader.next());
    report(what, per_chunk, MESSAGE.len(), || {
        let mut seen = 0;
        for piece in chunk.chunks(size) {
            reader.feed(black_box(piece));
            while let Ok(Some(Event::Stanza(stanza))) = reader.next() {
                seen += 1;
                black_box(stanza);
            }
        }
        assert_eq!(seen, per_chunk);
    });
}

fn main() {
    let many = MESSAGE.repeat(100);
    let name = |how: &str| format!("message of {} bytes read, {how}", MESSAGE.len());
    read(&name("one a time"), MESSAGE, 1, usize::MAX);
    read(&name("a hundred a time"), &many, 100, usize::MAX);
    read(&name("in 64-byte pieces"), MESSAGE, 1, 64);
    read(&name("byte by byte"), MESSAGE, 1, 1);
    report("quick-xml, a hundred a time", 100, MESSAGE.len(), || {
        let mut reader = quick_xml::Reader::from_reader(black_box(many.as_slice()));
        let mut seen = 0;
        while let Ok(event) = reader.read_event() {
            match black_box(event) {
                quick_xml::events::Event::Eof => break,
                quick_xml::events::Event::End(end) if end.name().0 == "message" => {
                    seen += 1;
                }
                _ => {}
            }
        }
        assert_eq!(seen, 100);
    });
    let mut reader = Reader::tcp(LIMITS);
    reader.feed(HEADER);
    let _ = reader.next();
    reader.feed(MESSAGE);
    if let Ok(Some(Event::Stanza(stanza))) = reader.next() {
        let mut out = Vec::with_capacity(2 * MESSAGE.len());
        report("message written", 1, MESSAGE.len(), || {
            out.clear();
            black_box(&stanza).write(None, &mut out);
            black_box(&out);
        });
    }
}
