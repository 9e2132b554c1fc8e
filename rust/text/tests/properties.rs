//! What holds for any text: folding, queries made from texts, indexes against the reference.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use antiphon_text::fts5::{Detail, document, expression};
use antiphon_text::{Bloom, BloomBuilder, Folded, Kind, Query, QueryError, Token, fold};
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rusqlite::Connection;
use unicode_segmentation::UnicodeSegmentation as _;

/// Pieces whose neighbours matter: scripts, marks, joiners, signs of the query and of FTS5.
const PIECES: &[&str] = &[
    "a", "B", "ab", "abc", "abd", "é", "e\u{301}", "ß", "İ", "ı", "ς", "Σ", "1", "23", "٣", "²",
    "手", "机", "新", "ガ", "か", "\u{3099}", "ﾊ", "ﾟ", "ー", "한", "\u{1112}", "\u{1161}",
    "\u{11ab}", "ㅋ", "ก", "ี", "่", "\u{eb8}", "\u{ec8}", "क", "\u{94d}", "ि", "\u{93c}", "ש",
    "\u{5b8}", "م", "\u{64f}", "ـ", "ﬁ", "ﷺ", "㌀", "½", "👍", "🏽", "\u{200d}", "💻", "🇩", "🇪",
    "\u{fe0f}", "\u{20e3}", "\u{200b}", "\u{ad}", " ", " ", " ", "\n", "\u{3000}", "'", "’", "\"",
    "“", "*", "-", "^", ":", "(", ")", "{", "+", ",", ".", "_", "§", "\0", "AND", "NOT", "NEAR",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => vec(select(PIECES), 0..24).prop_map(|pieces| pieces.concat()),
        1 => any::<String>(),
    ]
}

/// `PROPTEST_CASES` in the environment asks for more.
fn cases(few: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = if usual.cases == 256 { few } else { usual.cases };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..usual
    }
}

/// A text with a part of it.
fn text_and_part() -> impl Strategy<Value = (String, String)> {
    (text(), any::<Index>(), any::<Index>()).prop_map(|(text, one, two)| {
        let chars: Vec<char> = text.chars().collect();
        let (one, two) = (one.index(chars.len() + 1), two.index(chars.len() + 1));
        let part = chars[one.min(two)..one.max(two)].iter().collect();
        (text, part)
    })
}

/// A word to compare with UAX #29. That leaves numbers other than digits alone, where here `x²` and
/// `x2` are the same, and cuts after a mark that has no letter before it.
fn is_usual(token: &Token<'_>) -> bool {
    let category = |c: char| CodePointMapData::<GeneralCategory>::new().get(c);
    let is_number = |c: char| c.is_numeric() && !c.is_ascii();
    token.kind == Kind::Word
        && !token.text.contains(is_number)
        && !token
            .text
            .starts_with(|c| GeneralCategoryGroup::Mark.contains(category(c)))
}

fn table(detail: &str) -> Connection {
    let database = Connection::open_in_memory().unwrap();
    let columns = format!("text, content='', detail={detail}, tokenize='ascii'");
    database
        .execute_batch(&format!("CREATE VIRTUAL TABLE words USING fts5({columns})"))
        .unwrap();
    database
}

fn insert(database: &Connection, texts: &[String]) {
    for (row, text) in texts.iter().enumerate() {
        database
            .execute(
                "INSERT INTO words(rowid, text) VALUES (?, ?)",
                (row as i64, document(text, &[row as u64 % 2, 7])),
            )
            .unwrap();
    }
}

fn found(database: &Connection, expression: &str) -> Vec<i64> {
    let mut statement = database
        .prepare_cached("SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid")
        .unwrap();
    let rows = statement.query_map([expression], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn folding_twice_is_folding_once(text in text()) {
        let once = fold(&text);
        prop_assert_eq!(fold(&once), once);
    }

    #[test]
    fn tokens_are_the_words_of_unicode_or_parts_of_them(text in text()) {
        let folded = Folded::new(&text);
        for token in folded.tokens().filter(|token| is_usual(token)) {
            prop_assert_eq!(token.text.split_word_bounds().count(), 1, "{:?}", token);
        }
    }

    #[test]
    fn every_word_finds_its_text(text in text()) {
        let folded = Folded::new(&text);
        for token in folded.tokens() {
            prop_assert!(Query::parse(token.text).unwrap().matches(&text));
        }
    }

    #[test]
    fn the_beginning_of_a_word_finds_its_text(text in text(), len in 2_usize..6) {
        for token in Folded::new(&text).tokens().filter(|token| token.kind == Kind::Word) {
            if let Some((at, last)) = token.text.char_indices().nth(len - 1) {
                let query = format!("{}*", &token.text[..at + last.len_utf8()]);
                prop_assert!(Query::parse(&query).unwrap().matches(&text), "{}", query);
            }
        }
    }

    #[test]
    fn any_run_of_words_in_quotes_finds_its_text(
        text in text(), start in any::<Index>(), len in 1_usize..5,
    ) {
        let folded = Folded::new(&text);
        let words: Vec<&str> = folded.tokens().map(|token| token.text).collect();
        if !words.is_empty() {
            let start = start.index(words.len());
            let phrase = words[start..words.len().min(start + len)].join(" ");
            let query = Query::parse(&format!("\"{phrase}\"")).unwrap();
            prop_assert!(query.matches(&text));
        }
    }

    #[test]
    fn no_query_panics_and_its_cost_is_bounded(text in any::<String>()) {
        match Query::parse(&text) {
            Ok(query) => {
                let expression = expression(&query, &[1], Detail::Full);
                prop_assert!(expression.len() < 16 * text.len() + 1_024);
                let _ = query.matches(&text);
            }
            Err(error) => prop_assert_ne!(error, QueryError::TooLong),
        }
    }

}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_filter_lets_every_answer_through(
        texts in vec(text_and_part(), 1..8), other in text(),
    ) {
        let mut builder = BloomBuilder::new();
        texts.iter().for_each(|(text, _)| builder.add(text));
        let bytes = builder.finish();
        let filter = Bloom::decode(&bytes).unwrap();
        let bytes = builder.finish_neighbours();
        let neighbours = Bloom::decode(&bytes).unwrap();
        let queries = texts.iter().flat_map(|(_, part)| [part.clone(), format!("\"{part}\"*")]);
        for query in queries.chain([other]).filter_map(|query| Query::parse(&query).ok()) {
            if texts.iter().any(|(text, _)| query.matches(text)) {
                prop_assert!(query.may_match(&filter), "{:?}", query);
                prop_assert!(query.may_follow(&neighbours), "{:?}", query);
            }
        }
    }

    #[test]
    fn fts5_finds_what_the_reference_finds(
        texts in vec(text_and_part(), 1..12), other in text(), owner in 0_u64..2,
    ) {
        let parts: Vec<String> = texts.iter().map(|one| one.1.clone()).collect();
        let texts: Vec<String> = texts.into_iter().map(|one| one.0).collect();
        let (full, none) = (table("full"), table("none"));
        insert(&full, &texts);
        insert(&none, &texts);
        let quoted = parts.iter().map(|part| format!("\"{part}\""));
        let starred = parts.iter().map(|part| format!("{part}*"));
        for query in parts.iter().cloned().chain(quoted).chain(starred).chain([other]) {
            let Ok(query) = Query::parse(&query) else { continue };
            let expected: Vec<i64> = (0..texts.len())
                .filter(|&row| row as u64 % 2 == owner && query.matches(&texts[row]))
                .map(|row| row as i64)
                .collect();
            let expression_full = expression(&query, &[owner, 7], Detail::Full);
            prop_assert_eq!(&found(&full, &expression_full), &expected, "{}", expression_full);
            let more = found(&none, &expression(&query, &[owner, 7], Detail::None));
            let verified: Vec<i64> =
                more.into_iter().filter(|&row| query.matches(&texts[row as usize])).collect();
            prop_assert_eq!(&verified, &expected);
        }
    }
}
