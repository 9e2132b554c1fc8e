//! Full-text search: any query on any text is answered, the same by text, filter and document.
//!
//! The first line is the query, the rest the text.
#![no_main]

use antiphon_text::fts5::{Detail, document, expression};
use antiphon_text::{Bloom, BloomBuilder, Folded, MAX_TOKEN_BYTES, MAX_TOKENS, Query, fold};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (query, text) = input.split_once('\n').unwrap_or((input, input));
    let folded = Folded::new(text);
    assert_eq!(fold(folded.as_str()), folded.as_str());
    assert!(folded.as_str().len() <= 11 * text.len());
    let mut builder = BloomBuilder::new();
    builder.add(text);
    let bytes = builder.finish();
    let filter = Bloom::decode(&bytes).expect("what was just made");
    let mut count = 0;
    for token in folded.tokens() {
        assert!(!token.text.is_empty() && token.text.len() <= MAX_TOKEN_BYTES);
        count += 1;
        if count <= 16 {
            let query = Query::parse(token.text).expect("a token is a query");
            assert!(query.matches(text) && query.may_match(&filter));
        }
    }
    assert!(count <= MAX_TOKENS);
    // What FTS5's tokenizer `ascii` cuts, cut as meant.
    let words = document(text, &[]);
    assert_eq!(
        words.split(' ').filter(|word| !word.is_empty()).count(),
        count
    );
    assert!(words.bytes().all(|byte| {
        byte == b' ' || byte.is_ascii_digit() || byte.is_ascii_lowercase() || !byte.is_ascii()
    }));
    assert!(!words.contains('§'), "an owner cannot be forged");
    let Ok(query) = Query::parse(query) else {
        return;
    };
    if query.matches(text) {
        assert!(query.may_match(&filter));
    }
    for detail in [Detail::Full, Detail::None] {
        let expression = expression(&query, &[1], detail);
        assert!(expression.starts_with("\"§1\" AND \""));
        assert_eq!(expression.matches('"').count() % 2, 0);
    }
});
