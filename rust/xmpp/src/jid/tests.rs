use super::*;
use proptest::prelude::*;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};

/// The table that Python tests share: `part`, `input`, then `expected` or `error`.
const VECTORS: &str = include_str!("../../../../tests/data/jid_vectors.json");

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn prepare(part: &str, input: &str) -> Result<String, &'static str> {
    let part_of = |jid: Result<Jid, JidError>, cut: fn(&Jid) -> Option<&str>| match jid {
        Ok(jid) => Ok(cut(&jid).unwrap_or_default().to_owned()),
        Err(JidError::Local) => Err("local"),
        Err(JidError::Domain) => Err("domain"),
        Err(JidError::Resource) => Err("resource"),
    };
    match part {
        "jid" => part_of(Jid::parse(input), |jid| Some(jid.as_str())),
        "local" => part_of(Jid::from_parts(Some(input), "d", None), Jid::local),
        "domain" => part_of(Jid::from_parts(None, input, None), |jid| Some(jid.domain())),
        "resource" => part_of(Jid::from_parts(None, "d", Some(input)), Jid::resource),
        "password" => prepare_opaque(input).map_err(|error| match error {
            PrecisError::Empty => "empty",
            PrecisError::TooLong => "too-long",
            PrecisError::Disallowed => "disallowed",
        }),
        other => panic!("no such part: {other}"),
    }
}

#[test]
fn every_vector_gives_what_the_table_says() {
    let table: serde_json::Value = serde_json::from_str(VECTORS).expect("valid JSON");
    let rows = table.as_array().expect("a list");
    assert!(rows.len() > 150);
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let text = |key: &str| row[key].as_str();
            let (part, input) = (text("part")?, text("input")?);
            let expected = match (text("expected"), text("error")) {
                (Some(expected), None) => Ok(expected.to_owned()),
                (None, Some(error)) => Err(error),
                _ => panic!("a row has either expected or error: {row}"),
            };
            let got = prepare(part, input);
            let is_same = match (&got, &expected) {
                (Ok(got), Ok(expected)) => got == expected,
                (Err(got), Err(expected)) => got == expected,
                _ => false,
            };
            (!is_same).then(|| format!("{row}\n  got {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_expected_text_is_its_own_preparation() {
    let table: serde_json::Value = serde_json::from_str(VECTORS).expect("valid JSON");
    for row in table.as_array().expect("a list") {
        if let (Some(part), Some(expected)) = (row["part"].as_str(), row["expected"].as_str()) {
            assert_eq!(prepare(part, expected).as_deref(), Ok(expected), "{row}");
        }
    }
}

#[test]
fn an_address_is_small() {
    assert!(size_of::<Jid>() <= 24);
    assert_eq!(size_of::<Option<Jid>>(), size_of::<Jid>());
}

#[test]
fn parts_are_found() {
    let full = jid("juliet@example.com/balcony");
    assert_eq!(
        (full.local(), full.domain(), full.resource()),
        (Some("juliet"), "example.com", Some("balcony"))
    );
    assert!(!full.is_bare() && !full.is_domain());
    assert_eq!(full.bare_str(), "juliet@example.com");
    assert_eq!(full.bare(), jid("juliet@example.com"));
    assert!(full.bare().is_bare());
    assert_eq!(full.domain_jid(), jid("example.com"));
    assert!(full.domain_jid().is_domain());

    let host = jid("example.com/x");
    assert_eq!((host.local(), host.resource()), (None, Some("x")));
    assert!(!host.is_domain());
    assert!(host.bare().is_domain());
    assert_eq!(host.domain_jid(), host.bare());
}

#[test]
fn the_longest_address_keeps_its_parts() {
    let (local, resource) = ("l".repeat(1023), "r".repeat(1023));
    let domain = [&*"d".repeat(63); 16].join(".");
    let text = format!("{local}@{domain}/{resource}");
    let jid = jid(&text);
    assert_eq!(jid.as_str().len(), 3 * 1023 + 2);
    assert_eq!(jid.local(), Some(&*local));
    assert_eq!(jid.domain(), domain);
    assert_eq!(jid.resource(), Some(&*resource));
}

#[test]
fn another_resource_is_prepared_and_replaces_the_old_one() {
    let full = jid("juliet@example.com/balcony");
    let other = full.with_resource("a\u{a0}b").expect("valid");
    assert_eq!(other.as_str(), "juliet@example.com/a b");
    assert_eq!(other.resource(), Some("a b"));
    assert_eq!(full.with_resource(""), Err(JidError::Resource));
    assert_eq!(full.with_resource("\u{0}"), Err(JidError::Resource));
    assert_eq!(
        full.with_resource(&"r".repeat(1024)),
        Err(JidError::Resource)
    );
}

#[test]
fn parts_given_apart_are_not_cut_again() {
    assert_eq!(
        Jid::from_parts(Some("a@b"), "c", None),
        Err(JidError::Local)
    );
    assert_eq!(Jid::from_parts(None, "a@b", None), Err(JidError::Domain));
    assert_eq!(Jid::from_parts(None, "a/b", None), Err(JidError::Domain));
    let jid = Jid::from_parts(Some("A"), "B.", Some("c/d@e")).expect("valid");
    assert_eq!(jid.as_str(), "a@b/c/d@e");
}

#[test]
fn equality_order_and_hash_are_those_of_the_text() {
    fn hash(value: &(impl Hash + ?Sized)) -> u64 {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        hasher.finish()
    }
    let (a, b) = (jid("Juliet@Example.com"), jid("juliet@example.com."));
    assert_eq!(a, b);
    assert_eq!(hash(&a), hash(&b));
    assert_eq!(hash(&a), hash("juliet@example.com"));
    assert_eq!(a, "juliet@example.com");
    let sessions = HashMap::from([(a, 1)]);
    let full = jid("juliet@example.com/balcony");
    assert_eq!(sessions.get(full.bare_str()), Some(&1));
    let sorted: BTreeSet<Jid> = [jid("b"), jid("a@b"), jid("a")].into();
    let sorted: Vec<&str> = sorted.iter().map(Jid::as_str).collect();
    assert_eq!(sorted, ["a", "a@b", "b"]);
}

#[test]
fn a_hostile_text_is_refused_without_work() {
    // Contextual rules look at the whole label for each such character.
    let long = "\u{30fb}".repeat(100_000);
    assert_eq!(Jid::parse(&format!("{long}@d")), Err(JidError::Local));
    assert_eq!(Jid::parse(&long), Err(JidError::Domain));
    assert_eq!(Jid::parse(&format!("d/{long}")), Err(JidError::Resource));
    assert_eq!(prepare_opaque(&long), Err(PrecisError::TooLong));
    assert_eq!(prepare_username(&long), Err(PrecisError::TooLong));
}

#[test]
fn a_user_name_is_prepared_like_a_localpart() {
    assert_eq!(prepare_username("Juliet").as_deref(), Ok("juliet"));
    assert_eq!(prepare_username(""), Err(PrecisError::Empty));
    assert_eq!(prepare_username("a@b"), Err(PrecisError::Disallowed));
    assert_eq!(
        prepare_username(&"a".repeat(1024)),
        Err(PrecisError::TooLong)
    );
}

/// Texts in which what preparation cares for is common.
fn texts() -> impl Strategy<Value = String> {
    let interesting = prop::sample::select(vec![
        "@",
        "/",
        ".",
        "a",
        "Z",
        "-",
        "xn--",
        "[",
        "]",
        ":",
        "\u{df}",
        "\u{3a3}",
        "\u{308}",
        "\u{130}",
        "\u{ff21}",
        "\u{3002}",
        "\u{5d0}",
        "\u{200d}",
        "\u{94d}",
        "\u{b7}",
        "l",
        "\u{1f916}",
        " ",
        "\u{a0}",
        "\u{2126}",
        "\u{1c5}",
    ])
    .prop_map(str::to_owned);
    let piece = prop_oneof![3 => interesting, 1 => any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn parsing_the_text_of_an_address_gives_the_address(text in texts()) {
        if let Ok(jid) = Jid::parse(&text) {
            let again = Jid::parse(jid.as_str()).expect("prepared once");
            prop_assert_eq!(&again, &jid);
            prop_assert_eq!(again.local(), jid.local());
            prop_assert_eq!(again.resource(), jid.resource());
            let parts = Jid::from_parts(jid.local(), jid.domain(), jid.resource());
            prop_assert_eq!(parts, Ok(jid));
        }
    }

    #[test]
    fn preparation_is_stable(text in texts()) {
        if let Ok(prepared) = prepare_opaque(&text) {
            let again = prepare_opaque(&prepared);
            prop_assert_eq!(again, Ok(prepared));
        }
        if let Ok(prepared) = prepare_username(&text) {
            let again = prepare_username(&prepared);
            prop_assert_eq!(again, Ok(prepared));
        }
    }

    #[test]
    fn the_fast_path_agrees_with_the_profiles(text in "[ -~]{1,12}|[a-cA-C0-2.-]{1,10}") {
        let name = enforce_username(&text).ok().filter(|name| name.bytes().all(is_local_byte));
        prop_assert_eq!(prepare_username(&text).ok(), name);
        prop_assert_eq!(prepare_opaque(&text).ok(), enforce_opaque(&text).ok());
        let domain = domain_part(&text).ok().filter(|_| !text.starts_with('['));
        let slow = international_domain(&text).filter(|name| !name.is_empty());
        prop_assert_eq!(domain.map(Cow::into_owned), slow);
    }
}
