//! Time to tokenize, and bytes that an index or a filter takes for each message.
//!
//! `cargo run --release -p antiphon-text --example bench_text -- FOLDER`: every file of the folder
//! is text, each sentence of it a message.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program that reads files, takes the time and prints figures"
)]

use antiphon_text::fts5::{Detail, document, expression};
use antiphon_text::{Bloom, BloomBuilder, Folded, Kind, Query};
use rusqlite::Connection;
use std::collections::HashSet;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const SEGMENT: usize = 256;

fn sentences(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder can be read")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let texts = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok());
    texts
        .flat_map(|text| {
            text.lines()
                .filter(|line| line.starts_with(char::is_alphabetic))
                .flat_map(|line| line.split_inclusive(". "))
                .map(|one| one.trim().to_owned())
                .filter(|one| one.len() >= 20)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Prints nanoseconds a message and megabytes a second, the best of five rounds.
fn time(name: &str, messages: &[String], mut each: impl FnMut(&str)) {
    let bytes: usize = messages.iter().map(String::len).sum();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        messages.iter().for_each(|message| each(message));
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!(
        "{name:<28} {:>8.0} ns a message, {:>6.0} MB/s",
        best * 1e9 / messages.len() as f64,
        bytes as f64 / best / 1e6
    );
}

fn speeds(name: &str, messages: &[String]) {
    let bytes: usize = messages.iter().map(String::len).sum();
    println!(
        "{name}: {} messages of {} bytes",
        messages.len(),
        bytes / messages.len()
    );
    time("  fold", messages, |text| {
        black_box(Folded::new(text));
    });
    time("  fold and tokens", messages, |text| {
        black_box(Folded::new(text).tokens().count());
    });
    time("  fts5::document", messages, |text| {
        black_box(document(text, &[1_000, 2_000]));
    });
    for text in ["absent", "server client", "\"the server must\" strea*"] {
        let query = Query::parse(text).expect("a query");
        time(&format!("  matches {text}"), messages, |text| {
            black_box(query.matches(text));
        });
    }
    let mut builder = BloomBuilder::new();
    let mut count = 0;
    time("  BloomBuilder", messages, |text| {
        builder.add(text);
        count += 1;
        if count % SEGMENT == 0 {
            black_box(builder.finish());
            builder.clear();
        }
    });
}

/// Words with their ends marked, in threes, as the alternative to beginnings of words.
fn trigrams(messages: &[String]) -> usize {
    let mut seen = HashSet::new();
    for message in messages {
        let folded = Folded::new(message);
        for token in folded.tokens().filter(|token| token.kind == Kind::Word) {
            let marked: Vec<char> = format!("^{}$", token.text).chars().collect();
            seen.extend(marked.windows(3).map(<[char]>::to_vec));
        }
    }
    seen.len()
}

fn words(messages: &[String]) -> usize {
    let mut seen = HashSet::new();
    for message in messages {
        let folded = Folded::new(message);
        seen.extend(folded.tokens().map(|token| token.text.to_owned()));
    }
    seen.len()
}

fn filters(messages: &[String]) {
    for size in [64, SEGMENT, 1_024] {
        let (mut all, mut of_words, mut of_trigrams) = (0, 0, 0);
        let mut filters = Vec::new();
        for segment in messages.chunks_exact(size) {
            let mut builder = BloomBuilder::new();
            segment.iter().for_each(|message| builder.add(message));
            let filter = builder.finish();
            all += filter.len();
            of_words += words(segment) * 12 / 10;
            of_trigrams += trigrams(segment) * 12 / 10;
            filters.push(filter);
        }
        let count = (filters.len() * size) as f64;
        println!(
            "segments of {size}: {:.1} B a message; of it words {:.1}; trigrams would be {:.1}",
            all as f64 / count,
            of_words as f64 / count,
            of_trigrams as f64 / count
        );
        for text in [
            "lattice",
            "zeppelin",
            "encrypt*",
            "hyphen* roster",
            "zep*",
            "federation",
        ] {
            let query = Query::parse(text).expect("a query");
            let start = Instant::now();
            let open = |bytes: &Vec<u8>| query.may_match(&Bloom::decode(bytes).expect("a filter"));
            let passed = filters.iter().filter(|bytes| open(bytes)).count();
            let elapsed = start.elapsed();
            let has_answer = |segment: &&[String]| segment.iter().any(|text| query.matches(text));
            let needed = messages.chunks_exact(size).filter(has_answer).count();
            println!(
                "  {text:<16} {passed:>4} of {} segments pass, {needed:>4} have an answer, {:.1} us",
                filters.len(),
                elapsed.as_secs_f64() * 1e6
            );
        }
    }
}

/// Bytes of an FTS5 index for each message, two owners each, after it was made compact.
fn fts5(messages: &[String]) {
    for (detail, name) in [(Detail::Full, "full"), (Detail::None, "none")] {
        let database = Connection::open_in_memory().expect("a database");
        let options =
            format!("text, content='', contentless_delete=1, tokenize='ascii', detail={name}");
        let create = format!("CREATE VIRTUAL TABLE words USING fts5({options})");
        database.execute_batch(&create).expect("a table");
        let start = Instant::now();
        database.execute_batch("BEGIN").expect("a transaction");
        let mut insert = database
            .prepare("INSERT INTO words(rowid, text) VALUES (?, ?)")
            .expect("a statement");
        for (row, text) in messages.iter().enumerate() {
            let row = row as i64;
            let owners = [row as u64 % 100, 1_000 + row as u64 % 700];
            insert
                .execute((row, document(text, &owners)))
                .expect("an insert");
            if row % 100 == 99 {
                database
                    .execute_batch("COMMIT; BEGIN")
                    .expect("a transaction");
            }
        }
        database.execute_batch("COMMIT").expect("a commit");
        let elapsed = start.elapsed();
        let bytes: i64 = database
            .query_row("SELECT sum(length(block)) FROM words_data", [], |row| {
                row.get(0)
            })
            .expect("a size");
        println!(
            "FTS5 detail={name}: {:.0} B a message, {:.0} us to insert",
            bytes as f64 / messages.len() as f64,
            elapsed.as_secs_f64() * 1e6 / messages.len() as f64
        );
        let query = Query::parse("\"the server must\"").expect("a query");
        let expression = expression(&query, &[5], detail);
        let found: i64 = database
            .query_row(
                "SELECT count(*) FROM words WHERE words MATCH ?",
                [&expression],
                |row| row.get(0),
            )
            .expect("an answer");
        println!("  {found} for {expression}");
    }
}

fn main() {
    let folder = std::env::args().nth(1).expect("the folder of texts");
    let messages = sentences(Path::new(&folder));
    assert!(!messages.is_empty(), "no sentence in the folder");
    let ascii: Vec<String> = messages
        .iter()
        .filter(|one| one.is_ascii())
        .cloned()
        .collect();
    speeds("ASCII", &ascii);
    for (name, text) in [
        (
            "German",
            "Über die Straße führt täglich ein größerer Umweg, schöne Grüße aus Köln. ",
        ),
        (
            "Russian",
            "Все счастливые семьи похожи друг на друга, каждая несчастлива по-своему. ",
        ),
        (
            "Chinese",
            "我今天买了新手机，价格很贵，但是照相机非常好，明天我们一起去公园拍照吧。",
        ),
        (
            "Korean",
            "오늘 새 휴대폰을 샀는데 가격이 비싸지만 카메라가 아주 좋습니다. ",
        ),
    ] {
        let repeated: Vec<String> = (0..2_000).map(|n| format!("{text}{n}")).collect();
        speeds(name, &repeated);
    }
    filters(&messages);
    fts5(&messages);
}
