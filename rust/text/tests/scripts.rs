//! What finds what, in many scripts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use antiphon_text::{Folded, Kind, MAX_TEXT_BYTES, MAX_TOKEN_BYTES, MAX_TOKENS, Query, fold};

fn tokens(text: &str) -> String {
    let folded = Folded::new(text);
    let tokens: Vec<&str> = folded.tokens().map(|token| token.text).collect();
    tokens.join("|")
}

fn finds(query: &str, text: &str) -> bool {
    Query::parse(query).unwrap().matches(text)
}

#[test]
fn case_and_accents_make_no_difference() {
    for (text, query) in [
        ("Straße", "STRASSE"),
        ("GROẞE", "große"),
        ("Über", "uber"),
        ("IŞIK", "ışık"),
        ("İstanbul", "istanbul"),
        ("ISTANBUL", "ıstanbul"),
        ("ΟΔΥΣΣΕΎΣ", "οδυσσευς"),
        ("λόγος", "ΛΟΓΟΣ"),
        ("ᾳδης", "αδης"),
        ("Tiếng Việt", "tieng viet"),
        ("Đà Nẵng", "da nang"),
        ("Tie\u{302}\u{301}ng", "tiếng"),
        ("Łódź", "lodz"),
        ("Ærøskøbing", "aeroskobing"),
        ("Œuvre", "oeuvre"),
        ("Þór", "thor"),
        ("ёлка", "ЕЛКА"),
        ("Київ", "киів"),
        ("مُحَمَّد", "محمد"),
        ("أحمد", "احمد"),
        ("مدرسة", "مدرسه"),
        ("كـــتاب", "كتاب"),
        ("می\u{200c}خواهم", "ميخواهم"),
        ("שָׁלוֹם", "שלום"),
        ("क़लम", "कलम"),
        ("ﬁnance", "finance"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
        ("ﾊﾟｿｺﾝ", "パソコン"),
        ("か\u{3099}くせい", "がくせい"),
        ("\u{1112}\u{1161}\u{11ab}글", "한글"),
        ("soft\u{ad}hyphen", "softhyphen"),
        ("x² ½", "x2 1 2"),
        ("Ⅷ", "viii"),
        ("٢٠٢٦", "2026"),
    ] {
        assert!(finds(query, text), "{query} in {text}: {:?}", fold(text));
        assert!(finds(text, query), "{text} in {query}: {:?}", fold(text));
    }
}

#[test]
fn other_letters_are_other_words() {
    for (text, query) in [
        ("はし", "ばし"),
        ("हिन्दी", "हिन्द"),
        ("कि", "की"),
        ("man", "men"),
        ("หา", "ห่า"),
    ] {
        assert!(!finds(query, text), "{query} in {text}");
    }
}

#[test]
fn any_part_is_found_in_scripts_without_spaces() {
    for text in [
        "我今天买了新手机",
        "東京都に住んでいます",
        "ガキデカ",
        "대한민국만세",
        "ฉันรักภาษาไทย",
        "ຂ້ອຍຮັກລາວ",
        "ខ្ញុំស្រឡាញ់ភាសា",
        "မြန်မာစာ",
    ] {
        let folded = fold(text);
        let at: Vec<usize> = folded.char_indices().map(|(at, _)| at).collect();
        for (n, &start) in at.iter().enumerate() {
            for &end in at[n + 1..].iter().chain([&folded.len()]) {
                assert!(
                    finds(&folded[start..end], text),
                    "{} in {text}",
                    &folded[start..end]
                );
            }
        }
        assert!(
            Folded::new(text)
                .tokens()
                .all(|token| token.kind == Kind::Dense)
        );
    }
    assert!(!finds("机手", "我今天买了新手机"));
}

#[test]
fn words_are_cut_at_what_joins_them() {
    for (text, expected) in [
        ("don't l’homme м'я мʼя", "don|t|l|homme|м|я|м|я"),
        ("3.14 1,000 10:30", "3|14|1|000|10|30"),
        ("romeo@montague.example", "romeo|montague|example"),
        ("https://example.org/a_b?c=d", "https|example|org|a|b|c|d"),
        ("RX580 2nd x86-64", "rx580|2nd|x86|64"),
        ("iPhone手机2台", "iphone|手|机|2|台"),
        ("Antiphon™ © 5€", "antiphon|5"),
        ("नमस्ते दुनिया", "नमस्ते|दुनिया"),
        ("བོད་སྐད་", "བོད|སྐད"),
        ("", ""),
        (" \u{feff}\u{301}\u{200d} ", ""),
    ] {
        assert_eq!(tokens(text), expected);
    }
}

#[test]
fn emoji_are_tokens() {
    for (text, expected) in [
        ("nice👍🏽!", "nice|👍"),
        ("👩\u{200d}💻 ❤\u{fe0f} ❤", "👩|💻|❤|❤"),
        ("🇩🇪🇫🇷", "🇩🇪|🇫🇷"),
        ("1\u{fe0f}\u{20e3} ☎", "1|☎"),
        ("😂😂", "😂|😂"),
    ] {
        assert_eq!(tokens(text), expected);
    }
    assert!(finds("👍", "so nice👍🏽"));
    assert!(finds("👩‍💻", "she is 👩🏽‍💻"));
    assert!(!finds("🇪🇫", "🇩🇪🇫🇷"));
}

#[test]
fn a_part_of_an_address_finds_it() {
    let text = "see https://www.example.org/docs/Install.html#top, or mail to ops@example.org";
    for query in [
        "example.org",
        "install.html",
        "docs",
        "ops@example.org",
        "exam*",
        "inst*",
    ] {
        assert!(finds(query, text), "{query}");
    }
    assert!(!finds("example.com", text));
}

#[test]
fn marks_in_any_order_are_the_same_word() {
    // Lao vowel and tone (combining classes 118 and 122), and a virama in a cluster.
    assert_eq!(fold("\u{e81}\u{ec8}\u{eb8}"), fold("\u{e81}\u{eb8}\u{ec8}"));
    assert_eq!(fold("q\u{307}\u{323}"), fold("q\u{323}\u{307}"));
}

#[test]
fn what_is_too_long_counts_by_its_beginning() {
    let word = "é".repeat(500);
    let folded = Folded::new(&word);
    assert_eq!(folded.tokens().next().unwrap().text.len(), MAX_TOKEN_BYTES);
    assert!(finds(&word, &format!("{word} x")));
    assert!(finds(&format!("{word}*"), &word));
    let text = format!("{}last", "ж ".repeat(MAX_TOKENS));
    assert_eq!(Folded::new(&text).tokens().count(), MAX_TOKENS);
    assert!(!finds("last", &text));
    let text = format!("{} last", "\u{fdfa}".repeat(MAX_TEXT_BYTES));
    assert!(fold(&text).len() <= 11 * MAX_TEXT_BYTES);
    let text = format!("a{}", "漢".repeat(MAX_TEXT_BYTES));
    assert!(fold(&text).len() <= MAX_TEXT_BYTES);
}
