//! What becomes of each code point: its folded form and what kind of token it belongs to.
//!
//! The rules are computed from Unicode's data in pages of 256 code points, each when first met, so
//! that looking up costs two loads and nothing is computed for scripts that nobody writes.

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_normalizer::properties::{
    CanonicalCombiningClassMap, CanonicalCombiningClassMapBorrowed, CanonicalComposition,
};
use icu_properties::props::{
    DefaultIgnorableCodePoint, ExtendedPictographic, GeneralCategory, GeneralCategoryGroup,
    LineBreak, Script,
};
use icu_properties::{CodePointMapData, CodePointSetData};
use std::sync::OnceLock;

const CASE: CaseMapperBorrowed<'static> = CaseMapper::new();
const NFKD: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizerBorrowed::new_nfkd();
const COMBINING: CanonicalCombiningClassMapBorrowed<'static> = CanonicalCombiningClassMap::new();

const PAGES: usize = 0x11_0000 / 256;
static TABLE: [OnceLock<Page>; PAGES] = [const { OnceLock::new() }; PAGES];

/// The kind of token that a folded character belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Between tokens.
    Space,
    /// Part of a word.
    Word,
    /// A token alone, in scripts that do not separate words.
    Dense,
    /// A token alone: emoji and other pictures.
    Symbol,
    /// Half of a flag.
    Flag,
}

/// What the folder does with a code point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Leaves it out.
    Drop,
    /// Puts this in its place.
    Put(char),
    /// Puts this, which may melt with what follows: a kana, the beginning of a hangul syllable.
    First(char),
    /// Melts it with what is before: a voicing mark, the rest of a hangul syllable.
    Second(char),
    /// A mark that stays, to be sorted among its neighbours by its combining class.
    Mark(char, u8),
    /// Puts several characters: bytes `.0..` of [`expansion`], `.1` of them.
    Expand(u16, u8),
}

struct Page {
    entries: Box<[(Action, Class)]>,
    /// What the entries that expand become, one after another.
    expansions: Box<str>,
}

fn page(c: char) -> &'static Page {
    let number = c as usize >> 8;
    TABLE[number].get_or_init(|| Page::new(number as u32))
}

/// What to do with `c`.
pub(crate) fn action(c: char) -> Action {
    page(c).entries[c as usize & 0xff].0
}

/// What `c` becomes whose action is [`Action::Expand`] with these numbers: each character to be
/// handled as if it were in the text.
pub(crate) fn expansion(c: char, at: u16, len: u8) -> &'static str {
    let (at, len) = (usize::from(at), usize::from(len));
    page(c).expansions.get(at..at + len).unwrap_or_default()
}

/// The kind of token that `c` belongs to; `c` is a character of a folded text.
pub(crate) fn class(c: char) -> Class {
    page(c).entries[c as usize & 0xff].1
}

/// The one character that the two are in composed form, as `が` of `か` and a voicing mark.
pub(crate) fn compose(first: char, second: char) -> Option<char> {
    const COMPOSITION: icu_normalizer::properties::CanonicalCompositionBorrowed<'static> =
        CanonicalComposition::new();
    COMPOSITION.compose(first, second)
}

/// Whether `c` is one of the two marks of kana that mean nothing alone.
pub(crate) const fn is_voicing(c: char) -> bool {
    matches!(c, '\u{3099}' | '\u{309a}')
}

impl Page {
    fn new(number: u32) -> Self {
        let mut expansions = String::new();
        let entries = (number << 8..(number + 1) << 8)
            .map(|code| match char::from_u32(code) {
                Some(c) => entry(c, &mut expansions),
                None => (Action::Drop, Class::Space),
            })
            .collect();
        Self {
            entries,
            expansions: expansions.into_boxed_str(),
        }
    }
}

fn entry(c: char, expansions: &mut String) -> (Action, Class) {
    if is_composed(c) {
        return (action_of(c), class_of(c));
    }
    let folded = expand(c);
    let mut chars = folded.chars();
    match (chars.next(), chars.next()) {
        (None, _) => (Action::Drop, Class::Space),
        (Some(one), None) => (action_of(one), class_of(one)),
        (Some(_), Some(_)) => {
            // 256 code points of at most 18 characters each: a test goes through all.
            let at = u16::try_from(expansions.len()).unwrap_or(u16::MAX);
            let len = u8::try_from(folded.len()).unwrap_or(u8::MAX);
            expansions.push_str(&folded);
            (Action::Expand(at, len), Class::Space)
        }
    }
}

/// The action for a character that folds to itself.
fn action_of(c: char) -> Action {
    if class_of(c) == Class::Space {
        return Action::Put(' ');
    }
    match c {
        '\u{1100}'..='\u{1112}' => Action::First(c),
        '\u{ac00}'..='\u{d7a3}' if (c as u32 - 0xac00).is_multiple_of(28) => Action::First(c),
        '\u{ac00}'..='\u{d7a3}' => Action::Put(c),
        _ if is_composed(c) => Action::First(c),
        '\u{1161}'..='\u{1175}' | '\u{11a8}'..='\u{11c2}' => Action::Second(c),
        _ if is_voicing(c) => Action::Second(c),
        _ => match COMBINING.get_u8(c) {
            0 => Action::Put(c),
            class => Action::Mark(c, class),
        },
    }
}

/// Kana and hangul syllables: NFKD would take them apart, but a voiced kana is another letter.
const fn is_composed(c: char) -> bool {
    matches!(
        c,
        '\u{3041}'..='\u{3096}'
            | '\u{309d}'..='\u{309e}'
            | '\u{30a1}'..='\u{30fa}'
            | '\u{30fc}'..='\u{30fe}'
            | '\u{ac00}'..='\u{d7a3}'
    )
}

/// Decomposes (NFKD), removes marks and folds case (full) until nothing changes.
///
/// Twice is enough for every character of Unicode; a test goes through them all.
fn expand(c: char) -> String {
    if is_trademark(c) {
        return " ".into();
    }
    let mut text = String::from(c);
    for _ in 0..4 {
        let bare: String = NFKD
            .normalize(&text)
            .chars()
            .filter(|&c| !is_dropped(c))
            .collect();
        let mut next = String::with_capacity(bare.len());
        for c in CASE.fold_string(&bare).chars() {
            replace(c, &mut next);
        }
        if next == text {
            break;
        }
        text = next;
    }
    if text.chars().all(|c| class_of(c) == Class::Space) && !text.is_empty() {
        return " ".into();
    }
    text
}

/// `™` and `℠` would become letters of the word before.
const fn is_trademark(c: char) -> bool {
    matches!(c, '\u{2120}' | '\u{2122}')
}

/// What leaves no trace: accents and points, joiners and other invisible characters, skin tones.
fn is_dropped(c: char) -> bool {
    // Not every mark is an accent: vowel signs and viramas of Indic and Thai-like scripts (combining
    // classes 0, 9, 84 to 132) stay, as does the voicing of kana (8).
    let is_accent = matches!(COMBINING.get_u8(c), 1 | 6 | 7 | 10..=36 | 200..=240);
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let is_mark = GeneralCategoryGroup::Mark.contains(category);
    let is_invisible = category == GeneralCategory::Format
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c);
    let is_tatweel = c == '\u{640}';
    let is_skin_tone = matches!(c, '\u{1f3fb}'..='\u{1f3ff}');
    (is_mark && (is_accent || category == GeneralCategory::EnclosingMark))
        // The zero-width space separates words (UAX #29 leaves it out of Format).
        || (is_invisible && c != '\u{200b}')
        || is_tatweel
        || is_skin_tone
}

/// Letters that differ by a stroke, a dot or a habit of the keyboard and have no decomposition;
/// digits of all scripts.
fn replace(c: char, out: &mut String) {
    match c {
        // Turkish: `I` folds to `i` without knowing the language, so must its small form.
        'ı' => out.push('i'),
        'ȷ' => out.push('j'),
        'ø' => out.push('o'),
        'ł' => out.push('l'),
        'đ' | 'ð' => out.push('d'),
        'ħ' => out.push('h'),
        'ŧ' => out.push('t'),
        'þ' => out.push_str("th"),
        'æ' => out.push_str("ae"),
        'œ' => out.push_str("oe"),
        // Arabic: alef wasla, Persian and final yeh, Persian kaf, teh marbuta.
        '\u{671}' => out.push('\u{627}'),
        '\u{649}' | '\u{6cc}' => out.push('\u{64a}'),
        '\u{6a9}' => out.push('\u{643}'),
        '\u{629}' => out.push('\u{647}'),
        _ => out.push(digit(c).unwrap_or(c)),
    }
}

/// The ASCII digit of the same value. Decimal digits stand in runs of ten, zero first.
fn digit(c: char) -> Option<char> {
    let categories = CodePointMapData::<GeneralCategory>::new();
    let is_digit = |code| categories.get32(code) == GeneralCategory::DecimalNumber;
    let code = c as u32;
    if !is_digit(code) {
        return None;
    }
    let before = (0..code).rev().take_while(|&code| is_digit(code)).count() as u32;
    char::from_digit(before % 10, 10)
}

fn class_of(c: char) -> Class {
    if c.is_ascii() {
        let is_word = c.is_ascii_alphanumeric();
        return if is_word { Class::Word } else { Class::Space };
    }
    if matches!(c, '\u{1f1e6}'..='\u{1f1ff}') {
        return Class::Flag;
    }
    // Letters used as an apostrophe or a prime: Ukrainian writes the same word with either.
    if matches!(
        c,
        '\u{2b9}'..='\u{2bf}' | '\u{2c8}' | '\u{2ca}' | '\u{2cb}' | '\u{2ee}'
    ) {
        return Class::Space;
    }
    // Below are signs that are pictures by name only, as © and ‼.
    if c > '\u{2100}' && CodePointSetData::new::<ExtendedPictographic>().contains(c) {
        return Class::Symbol;
    }
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let is_word = GeneralCategoryGroup::Letter.contains(category)
        || GeneralCategoryGroup::Mark.contains(category)
        || GeneralCategoryGroup::Number.contains(category);
    match (is_word, is_dense(c)) {
        (false, _) => Class::Space,
        (true, false) => Class::Word,
        (true, true) => Class::Dense,
    }
}

/// Whether words are written without spaces in the script of `c`, or hang together with others as
/// in Korean.
fn is_dense(c: char) -> bool {
    let script = CodePointMapData::<Script>::new().get(c);
    let is_dense_script = matches!(
        script,
        Script::Han
            | Script::Hiragana
            | Script::Katakana
            | Script::Hangul
            | Script::Bopomofo
            | Script::Tangut
            | Script::Nushu
            | Script::KhitanSmallScript
            | Script::Javanese
            | Script::Balinese
    );
    // Signs of Japanese that belong to more than one script.
    let is_shared = matches!(
        c,
        '\u{3005}'..='\u{3007}'
            | '\u{3031}'..='\u{3035}'
            | '\u{303b}'..='\u{303c}'
            | '\u{3099}'..='\u{309a}'
            | '\u{30fc}'
    );
    // UAX #14 SA: scripts whose lines break by dictionary (Thai, Lao, Khmer, Myanmar, Tai).
    let breaks = CodePointMapData::<LineBreak>::new().get(c);
    is_dense_script || is_shared || breaks == LineBreak::ComplexContext
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TOKENIZER_VERSION, fold};
    use xxhash_rust::xxh3::Xxh3;

    /// All planes in which anything is assigned, those for private use left out.
    fn all() -> impl Iterator<Item = char> {
        (0..0x4_0000)
            .chain(0xe_0000..0xe_1000)
            .filter_map(char::from_u32)
    }

    #[test]
    fn every_code_point_folds_to_what_folds_to_itself() {
        for c in all() {
            let once = fold(&c.to_string());
            assert_eq!(fold(&once), once, "U+{:04X}", c as u32);
            for part in once.chars() {
                assert!(
                    part == ' ' || class(part) != Class::Space,
                    "U+{:04X}",
                    c as u32
                );
                assert!(!part.is_ascii_uppercase());
            }
        }
    }

    #[test]
    fn the_rules_of_all_code_points_are_those_of_this_version() {
        let mut hash = Xxh3::new();
        for c in all() {
            hash.update(fold(&c.to_string()).as_bytes());
            hash.update(&[class(c) as u8]);
        }
        // If this fails, a library has new data or a rule was changed: raise TOKENIZER_VERSION.
        assert_eq!(
            (TOKENIZER_VERSION, hash.digest()),
            (1, 7_984_735_623_169_750_572)
        );
    }

    #[test]
    fn digits_of_every_script_have_their_value() {
        for (text, digits) in [
            ("٣٠٤", "304"),
            ("०९", "09"),
            ("๕", "5"),
            ("𝟗𝟘", "90"),
            ("３", "3"),
        ] {
            assert_eq!(fold(text), digits);
        }
    }
}
