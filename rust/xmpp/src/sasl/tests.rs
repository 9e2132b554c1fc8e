use super::scram::Opening;
use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

/// Whole exchanges, computed with Python's hashlib by `tests/data/scram_vectors.py`.
const VECTORS: &str = include_str!("../../../../tests/data/scram_vectors.json");

const EXPORTER: [u8; 32] = [7; 32];
const END_POINT: [u8; 32] = [9; 32];

/// The nonce part that [`random`] leads to: 24 bytes 0x2a in base64.
const NONCE: &str = "KioqKioqKioqKioqKioqKioqKioqKioq";

fn random(bytes: &mut [u8]) {
    bytes.fill(0x2a);
}

fn jid(text: &str) -> Jid {
    Jid::parse(text).expect("an address")
}

fn channel() -> Channel {
    Channel {
        secure: true,
        exporter: Some(EXPORTER.into()),
        server_end_point: Some(END_POINT.into()),
        client_jids: vec!["juliet@example.com".to_owned()],
        sni: None,
    }
}

fn context() -> ExchangeContext {
    ExchangeContext {
        host: jid("example.com"),
        channel: channel(),
        plus_offered: false,
        dummy_secret: b"a secret of more than 16 bytes".as_slice().into(),
        dummy_iterations: 4096,
    }
}

fn credentials(password: &str) -> Credentials {
    Credentials::derive(password, 2, &ScramHash::ALL, &mut random).expect("a password")
}

fn scram(name: &str) -> Mechanism {
    Mechanism::parse(name).expect("a mechanism")
}

fn start(mechanism: &str, first: &str, ctx: &ExchangeContext) -> (Exchange, Step) {
    Exchange::start(scram(mechanism), Some(first.as_bytes()), ctx, &mut random)
}

fn failure(step: Step) -> Failure {
    match step {
        Step::Failure(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

/// The client's last message for a challenge, with the right proof for this password.
fn client_final(
    hash: ScramHash,
    password: &str,
    first_bare: &str,
    challenge: &[u8],
    middle: &str,
) -> Vec<u8> {
    use ring::{digest, hmac, pbkdf2};
    let (pbkdf2, mac, sha) = match hash {
        ScramHash::Sha1 => (
            pbkdf2::PBKDF2_HMAC_SHA1,
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
        ),
        ScramHash::Sha256 => (
            pbkdf2::PBKDF2_HMAC_SHA256,
            hmac::HMAC_SHA256,
            &digest::SHA256,
        ),
        ScramHash::Sha512 => (
            pbkdf2::PBKDF2_HMAC_SHA512,
            hmac::HMAC_SHA512,
            &digest::SHA512,
        ),
    };
    let challenge = std::str::from_utf8(challenge).expect("text");
    let mut attributes = challenge.split(',');
    let nonce = attributes.next().expect("r=");
    let salt = BASE64
        .decode(&attributes.next().expect("s=")[2..])
        .expect("base64");
    let rounds = attributes.next().expect("i=")[2..].parse().expect("number");
    let mut salted = vec![0; sha.output_len()];
    pbkdf2::derive(pbkdf2, rounds, &salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(sha, client_key.as_ref());
    let without_proof = format!("{middle},{nonce}");
    let auth_message = format!("{first_bare},{challenge},{without_proof}");
    let signature = sign(stored_key.as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key
        .as_ref()
        .iter()
        .zip(signature.as_ref())
        .map(|(a, b)| a ^ b)
        .collect();
    format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes()
}

/// `c=` for a GS2 header and binding data.
fn bound(gs2: &str, binding: &[u8]) -> String {
    format!("c={}", BASE64.encode([gs2.as_bytes(), binding].concat()))
}

/// Runs SCRAM of a client that means well up to its end.
fn log_in(mechanism: &str, gs2: &str, stored: Option<Credentials>, ctx: &ExchangeContext) -> Step {
    let Mechanism::Scram { hash, .. } = scram(mechanism) else {
        panic!("not SCRAM")
    };
    let (mut exchange, step) = start(mechanism, &format!("{gs2}n=juliet,r=abc"), ctx);
    assert!(
        matches!(&step, Step::Ask(Query::Keys(account)) if *account == "juliet@example.com"),
        "{step:?}"
    );
    let Step::Challenge(challenge) = exchange.answer(Answer::Keys(stored)) else {
        panic!("no challenge")
    };
    let binding: &[u8] = match gs2.split(',').next() {
        Some("p=tls-exporter") => &EXPORTER,
        Some("p=tls-server-end-point") => &END_POINT,
        _ => &[],
    };
    let bare = "n=juliet,r=abc";
    let last = client_final(hash, "r0m30", bare, &challenge, &bound(gs2, binding));
    exchange.response(&last, &mut random)
}

#[test]
fn names_of_mechanisms_go_both_ways() {
    for mechanism in Mechanism::ALL {
        assert_eq!(Mechanism::parse(mechanism.name()), Some(mechanism));
        assert_eq!(mechanism.is_plus(), mechanism.name().ends_with("-PLUS"));
    }
    for unknown in ["", "plain", "SCRAM-MD5", "SCRAM-SHA-1-PLUS-PLUS", "PLAIN "] {
        assert_eq!(Mechanism::parse(unknown), None);
    }
    for hash in ScramHash::ALL {
        assert_eq!(ScramHash::parse(hash.name()), Some(hash));
        let mechanism = Mechanism::Scram { hash, plus: false };
        assert_eq!(mechanism.to_string(), format!("SCRAM-{}", hash.name()));
    }
}

#[test]
fn what_is_offered_depends_on_the_channel() {
    let names = |channel: &Channel, allow_plaintext| -> Vec<&str> {
        let offer = offered(&Mechanism::ALL, channel, allow_plaintext);
        offer.into_iter().map(Mechanism::name).collect()
    };
    let unbound = [
        "SCRAM-SHA-512",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "PLAIN",
        "ANONYMOUS",
    ];
    assert_eq!(names(&channel(), false).len(), Mechanism::ALL.len());

    let mut insecure = channel();
    insecure.secure = false;
    assert!(names(&insecure, false).is_empty());
    assert_eq!(names(&insecure, true), unbound);

    let mut bare = Channel {
        secure: true,
        ..Channel::default()
    };
    assert_eq!(names(&bare, false), unbound);
    bare.exporter = Some([].into());
    assert_eq!(names(&bare, false), unbound);
    bare.server_end_point = Some(END_POINT.into());
    assert!(names(&bare, false).contains(&"SCRAM-SHA-1-PLUS"));
    assert!(!names(&bare, false).contains(&"EXTERNAL"));

    let configured = [Mechanism::Plain, scram("SCRAM-SHA-1")];
    assert_eq!(offered(&configured, &channel(), false), configured);
}

#[test]
fn binding_types_are_those_that_the_channel_has() {
    let types = |channel: &Channel| binding_types(channel).collect::<Vec<_>>();
    assert_eq!(types(&channel()), ["tls-exporter", "tls-server-end-point"]);
    let mut some = channel();
    some.exporter = None;
    assert_eq!(types(&some), ["tls-server-end-point"]);
    some.secure = false;
    assert!(types(&some).is_empty());
}

#[test]
fn every_vector_is_reproduced() {
    let table: serde_json::Value = serde_json::from_str(VECTORS).expect("valid JSON");
    for row in table.as_array().expect("a list") {
        let text = |key: &str| row[key].as_str().expect("a text");
        let octets = |key: &str| BASE64.decode(text(key)).expect("base64");
        let hash = ScramHash::parse(text("hash")).expect("a hash");
        let iterations = row["iterations"].as_u64().expect("a number") as u32;
        let password = crate::jid::prepare_opaque(text("password")).expect("a password");

        let keys = ScramKeys::derive(hash, &password, &octets("salt"), iterations);
        assert_eq!(*keys.stored_key, octets("stored_key"), "{row}");
        assert_eq!(*keys.server_key, octets("server_key"), "{row}");
        assert!(keys.verify_password(&password));
        assert!(!keys.verify_password("pencil "));

        let mut ctx = context();
        ctx.channel.exporter = Some(octets("binding").into());
        ctx.channel.server_end_point = ctx.channel.exporter.clone();
        let plus = row["plus"].as_bool().expect("a boolean");
        let first = text("client_first").as_bytes();
        let opening = Opening::read(hash, plus, first, &ctx, &mut random).expect("valid");
        let stored = Credentials {
            keys: vec![keys],
            is_enabled: true,
        };
        let account = opening.account().clone();
        let opening = opening.with_server_nonce(text("server_nonce"));
        let (server, challenge) = opening.challenge(Some(stored));
        assert_eq!(challenge, text("server_first").as_bytes(), "{row}");
        assert_eq!(
            server.verify(text("client_final").as_bytes()),
            Ok((account, text("server_final").as_bytes().to_vec())),
            "{row}"
        );
    }
}

#[test]
fn every_scram_logs_in_with_every_binding() {
    let ctx = context();
    for mechanism in Mechanism::ALL {
        let headers: &[&str] = match mechanism {
            Mechanism::Scram { plus: true, .. } => &[
                "p=tls-exporter,,",
                "p=tls-server-end-point,a=juliet@example.com,",
            ],
            Mechanism::Scram { plus: false, .. } => &["n,,", "y,,", "n,a=JULIET@Example.com,"],
            _ => &[],
        };
        for gs2 in headers {
            let step = log_in(mechanism.name(), gs2, Some(credentials("r0m30")), &ctx);
            let Step::Success { account, data } = step else {
                panic!("{mechanism} {gs2}: {step:?}")
            };
            assert_eq!(account, "juliet@example.com");
            assert!(data.is_some_and(|data| data.starts_with(b"v=")));
        }
    }
}

#[test]
fn without_an_initial_response_an_empty_challenge_comes_first() {
    let ctx = context();
    for (mechanism, first) in [
        ("SCRAM-SHA-256", "n,,n=juliet,r=abc"),
        ("PLAIN", "\0juliet\0r0m30"),
        ("EXTERNAL", ""),
    ] {
        let (mut exchange, step) = Exchange::start(scram(mechanism), None, &ctx, &mut random);
        assert!(matches!(step, Step::Challenge(empty) if empty.is_empty()));
        let step = exchange.response(first.as_bytes(), &mut random);
        assert!(matches!(step, Step::Ask(_)), "{mechanism}: {step:?}");
    }
}

#[test]
fn the_challenge_carries_our_nonce_salt_and_rounds() {
    let (mut exchange, _) = start("SCRAM-SHA-256", "n,,n=juliet,r=abc", &context());
    let Step::Challenge(challenge) = exchange.answer(Answer::Keys(Some(credentials("r0m30"))))
    else {
        panic!("no challenge")
    };
    let salt = BASE64.encode([0x2a; 16]);
    assert_eq!(
        String::from_utf8(challenge).expect("text"),
        format!("r=abc{NONCE},s={salt},i=2")
    );
}

#[test]
fn extensions_stay_in_the_signed_text() {
    let ctx = context();
    let (mut exchange, step) = start("SCRAM-SHA-1", "n,,n=juliet,r=abc,x=1,y=a=b", &ctx);
    assert!(matches!(step, Step::Ask(_)));
    let Step::Challenge(challenge) = exchange.answer(Answer::Keys(Some(credentials("r0m30"))))
    else {
        panic!("no challenge")
    };
    let bare = "n=juliet,r=abc,x=1,y=a=b";
    let last = client_final(ScramHash::Sha1, "r0m30", bare, &challenge, "c=biws");
    assert!(matches!(
        exchange.response(&last, &mut random),
        Step::Success { .. }
    ));
}

#[test]
fn first_messages_that_fail() {
    use Failure::{InvalidAuthzid, MalformedRequest, NotAuthorized};
    let long = format!("n,,n=juliet,r={}", "a".repeat(8192));
    let table: &[(&str, &str, Failure)] = &[
        ("SCRAM-SHA-256", "", MalformedRequest),
        ("SCRAM-SHA-256", "n", MalformedRequest),
        ("SCRAM-SHA-256", "n,", MalformedRequest),
        ("SCRAM-SHA-256", "n,,", MalformedRequest),
        ("SCRAM-SHA-256", "x,,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "N,,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,juliet,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,a=,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,a=a=4,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,a=juliet,n=juliet,r=abc", InvalidAuthzid),
        (
            "SCRAM-SHA-256",
            "n,a=romeo@example.com,n=juliet,r=abc",
            InvalidAuthzid,
        ),
        (
            "SCRAM-SHA-256",
            "n,a=juliet@example.com/x,n=juliet,r=abc",
            InvalidAuthzid,
        ),
        (
            "SCRAM-SHA-256",
            "n,a=juliet@example.net,n=juliet,r=abc",
            InvalidAuthzid,
        ),
        ("SCRAM-SHA-256", "n,a=@,n=juliet,r=abc", InvalidAuthzid),
        ("SCRAM-SHA-256", "n,,juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=a=,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=a=2,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=a=2D,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=a=ü,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=a b,r=abc", NotAuthorized),
        ("SCRAM-SHA-256", "n,,n=a@example.com,r=abc", NotAuthorized),
        ("SCRAM-SHA-256", "n,,n=henry\u{2163},r=abc", NotAuthorized),
        ("SCRAM-SHA-256", "n,,n=a\0,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=a b", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=\u{e4}", MalformedRequest),
        ("SCRAM-SHA-256", "n,,r=abc,n=juliet", MalformedRequest),
        ("SCRAM-SHA-256", "n,,m=x,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=abc,m=x", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=abc,", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=abc,x=", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=abc,1=x", MalformedRequest),
        ("SCRAM-SHA-256", "n,,n=juliet,r=abc,r=def", MalformedRequest),
        (
            "SCRAM-SHA-256",
            "p=tls-exporter,,n=juliet,r=abc",
            MalformedRequest,
        ),
        ("SCRAM-SHA-256", &long, MalformedRequest),
        ("SCRAM-SHA-256-PLUS", "n,,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256-PLUS", "y,,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256-PLUS", "p,,n=juliet,r=abc", MalformedRequest),
        ("SCRAM-SHA-256-PLUS", "p=,,n=juliet,r=abc", MalformedRequest),
        (
            "SCRAM-SHA-256-PLUS",
            "p=a_b,,n=juliet,r=abc",
            MalformedRequest,
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-unique,,n=juliet,r=abc",
            NotAuthorized,
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=TLS-EXPORTER,,n=juliet,r=abc",
            NotAuthorized,
        ),
        ("PLAIN", "", MalformedRequest),
        ("PLAIN", "juliet", MalformedRequest),
        ("PLAIN", "\0juliet", MalformedRequest),
        ("PLAIN", "\0\0r0m30", MalformedRequest),
        ("PLAIN", "\0juliet\0", MalformedRequest),
        ("PLAIN", "\0juliet\0r0m30\0", MalformedRequest),
        ("PLAIN", "\0a b\0r0m30", NotAuthorized),
        ("PLAIN", "\0juliet\0a\tb", NotAuthorized),
        ("PLAIN", "romeo@example.com\0juliet\0r0m30", InvalidAuthzid),
        ("PLAIN", "juliet\0juliet\0r0m30", InvalidAuthzid),
        (
            "PLAIN",
            "juliet@example.com/x\0juliet\0r0m30",
            InvalidAuthzid,
        ),
        ("EXTERNAL", "\0", MalformedRequest),
        ("EXTERNAL", "romeo@example.com", InvalidAuthzid),
        ("EXTERNAL", "juliet@example.com/x", InvalidAuthzid),
        ("EXTERNAL", "example.com", InvalidAuthzid),
        ("EXTERNAL", "@", InvalidAuthzid),
    ];
    let ctx = context();
    for (mechanism, first, expected) in table {
        let (mut exchange, step) = start(mechanism, first, &ctx);
        assert_eq!(failure(step), *expected, "{mechanism} {first:?}");
        // Over is over.
        let after = exchange.response(first.as_bytes(), &mut random);
        assert_eq!(failure(after), MalformedRequest);
    }
    for mechanism in ["SCRAM-SHA-1", "PLAIN", "EXTERNAL"] {
        let bytes: &[u8] = b"\0juliet\0\xff";
        let (_, step) = Exchange::start(scram(mechanism), Some(bytes), &ctx, &mut random);
        assert_eq!(failure(step), MalformedRequest, "{mechanism}");
    }
}

#[test]
fn last_messages_that_fail() {
    use Failure::{MalformedRequest, NotAuthorized};
    let nonce = format!("abc{NONCE}");
    let proof = BASE64.encode([0; 32]);
    let table = [
        (String::new(), MalformedRequest),
        ("c=biws".into(), MalformedRequest),
        (format!("c=biws,r={nonce}"), MalformedRequest),
        (format!("r={nonce},c=biws,p={proof}"), MalformedRequest),
        (format!("c=biws,p={proof}"), MalformedRequest),
        (format!("c=,r={nonce},p={proof}"), MalformedRequest),
        (format!("c=biw,r={nonce},p={proof}"), MalformedRequest),
        (format!("c=biws,r={nonce},p=?"), MalformedRequest),
        (format!("c=biws,r={nonce},p={proof},x=1"), MalformedRequest),
        (format!("c=biws,r={nonce},m=x,p={proof}"), MalformedRequest),
        (
            format!("c=biws,r={nonce},p=AA==,p={proof}"),
            MalformedRequest,
        ),
        (format!("c=biws,r={nonce}\0,p={proof}"), MalformedRequest),
        (format!("c=biws,r={nonce},p="), NotAuthorized),
        (format!("c=biws,r={nonce},p=AAAA"), NotAuthorized),
        (format!("c=biws,r={nonce},p={proof}"), NotAuthorized),
        (format!("c=biws,r=abc,p={proof}"), NotAuthorized),
        (format!("c=biws,r={nonce}x,p={proof}"), NotAuthorized),
        (format!("c=eSws,r={nonce},p={proof}"), NotAuthorized),
        (format!("c=biwsAA==,r={nonce},p={proof}"), NotAuthorized),
    ];
    for (last, expected) in table {
        let (mut exchange, _) = start("SCRAM-SHA-256", "n,,n=juliet,r=abc", &context());
        exchange.answer(Answer::Keys(Some(credentials("r0m30"))));
        let step = exchange.response(last.as_bytes(), &mut random);
        assert_eq!(failure(step), expected, "{last:?}");
        // The same proof cannot be tried again with the same nonce.
        let step = exchange.response(last.as_bytes(), &mut random);
        assert_eq!(failure(step), MalformedRequest);
    }
}

#[test]
fn a_binding_of_another_channel_is_refused() {
    let ctx = context();
    let gs2 = "p=tls-exporter,,";
    let bare = "n=juliet,r=abc";
    for (middle, is_right) in [
        (bound(gs2, &EXPORTER), true),
        (bound(gs2, &END_POINT), false),
        (bound(gs2, &[]), false),
        (bound("p=tls-server-end-point,,", &END_POINT), false),
        (bound("n,,", &[]), false),
    ] {
        let (mut exchange, _) = start("SCRAM-SHA-512-PLUS", &format!("{gs2}{bare}"), &ctx);
        let Step::Challenge(challenge) = exchange.answer(Answer::Keys(Some(credentials("r0m30"))))
        else {
            panic!("no challenge")
        };
        let last = client_final(ScramHash::Sha512, "r0m30", bare, &challenge, &middle);
        match exchange.response(&last, &mut random) {
            Step::Success { .. } => assert!(is_right, "{middle}"),
            step => {
                assert!(!is_right, "{middle}: {step:?}");
                assert_eq!(failure(step), Failure::NotAuthorized);
            }
        }
    }
}

#[test]
fn a_client_that_was_robbed_of_the_plus_offer_is_refused() {
    let mut ctx = context();
    ctx.plus_offered = true;
    let (_, step) = start("SCRAM-SHA-256", "y,,n=juliet,r=abc", &ctx);
    assert_eq!(failure(step), Failure::NotAuthorized);
    // One that cannot bind at all is welcome.
    let stored = Some(credentials("r0m30"));
    assert!(matches!(
        log_in("SCRAM-SHA-256", "n,,", stored, &ctx),
        Step::Success { .. }
    ));
}

#[test]
fn a_wrong_password_fails_and_a_disabled_account_only_tells_its_owner() {
    let ctx = context();
    let outcome = |stored| failure(log_in("SCRAM-SHA-256", "n,,", stored, &ctx));
    assert_eq!(outcome(Some(credentials("other"))), Failure::NotAuthorized);
    let mut disabled = credentials("r0m30");
    disabled.is_enabled = false;
    assert_eq!(outcome(Some(disabled)), Failure::AccountDisabled);
    let mut disabled = credentials("other");
    disabled.is_enabled = false;
    assert_eq!(outcome(Some(disabled)), Failure::NotAuthorized);
}

#[test]
fn an_account_that_does_not_exist_looks_like_one_that_does() {
    let challenge = |name: &str, mechanism: &str, stored: Option<Credentials>, ctx: &_| {
        let (mut exchange, step) = start(mechanism, &format!("n,,n={name},r=abc"), ctx);
        assert!(matches!(step, Step::Ask(Query::Keys(_))));
        let Step::Challenge(challenge) = exchange.answer(Answer::Keys(stored)) else {
            panic!("no challenge")
        };
        String::from_utf8(challenge).expect("text")
    };
    let ctx = context();
    let made_up = challenge("nobody", "SCRAM-SHA-256", None, &ctx);
    assert_eq!(made_up, challenge("Nobody", "SCRAM-SHA-256", None, &ctx));
    assert!(made_up.ends_with(",i=4096"));
    let real = Credentials::derive("x", 4096, &ScramHash::ALL, &mut random).expect("valid");
    let real = challenge("juliet", "SCRAM-SHA-256", Some(real), &ctx);
    assert_eq!(made_up.len(), real.len());

    // Other names, hashes and secrets have other salts.
    assert_ne!(made_up, challenge("someone", "SCRAM-SHA-256", None, &ctx));
    assert_ne!(made_up, challenge("nobody", "SCRAM-SHA-512", None, &ctx));
    let mut other = context();
    other.dummy_secret = b"another secret of many bytes".as_slice().into();
    assert_ne!(made_up, challenge("nobody", "SCRAM-SHA-256", None, &other));

    // An account without keys of this hash is treated like none.
    let mut partial = credentials("r0m30");
    partial.keys.retain(|keys| keys.hash == ScramHash::Sha1);
    assert_eq!(
        made_up,
        challenge("nobody", "SCRAM-SHA-256", Some(partial), &ctx)
    );
    assert_eq!(
        failure(log_in("SCRAM-SHA-256", "n,,", None, &ctx)),
        Failure::NotAuthorized
    );
}

#[test]
fn an_account_without_keys_fails_only_at_the_end() {
    let ctx = context();
    for stored in [
        None,
        Some(Credentials {
            keys: Vec::new(),
            is_enabled: true,
        }),
    ] {
        let (mut exchange, _) = start("SCRAM-SHA-1", "n,,n=juliet,r=abc", &ctx);
        assert!(matches!(
            exchange.answer(Answer::Keys(stored)),
            Step::Challenge(_)
        ));
        let last = format!("c=biws,r=abc{NONCE},p={}", BASE64.encode([0; 20]));
        assert_eq!(
            failure(exchange.response(last.as_bytes(), &mut random)),
            Failure::NotAuthorized
        );
    }
}

#[test]
fn keys_of_a_wrong_length_let_nobody_in() {
    for (stored_key, server_key) in [(0, 0), (16, 32), (64, 64)] {
        let mut stored = credentials("r0m30");
        for keys in &mut stored.keys {
            keys.stored_key = vec![0; stored_key].into();
            keys.server_key = vec![0; server_key].into();
        }
        let step = log_in("SCRAM-SHA-256", "n,,", Some(stored), &context());
        assert_eq!(failure(step), Failure::NotAuthorized);
    }
}

#[test]
fn plain_asks_for_the_prepared_password() {
    let ctx = context();
    for first in [
        "\0Juliet\0a\u{a0}b",
        "juliet@example.com\0juliet\0a b",
        "Juliet@Example.COM\0JULIET\0a b",
    ] {
        let (mut exchange, step) = start("PLAIN", first, &ctx);
        let Step::Ask(Query::Password { account, password }) = step else {
            panic!("{first:?}: {step:?}")
        };
        assert_eq!(
            (account.as_str(), &*password),
            ("juliet@example.com", "a b")
        );
        assert!(matches!(
            exchange.answer(Answer::Verdict(Ok(()))),
            Step::Success { account, data: None } if account == "juliet@example.com"
        ));
    }
    for verdict in [Failure::NotAuthorized, Failure::AccountDisabled] {
        let (mut exchange, _) = start("PLAIN", "\0juliet\0r0m30", &ctx);
        let step = exchange.answer(Answer::Verdict(Err(verdict)));
        assert_eq!(failure(step), verdict);
    }
}

#[test]
fn external_picks_the_account_of_the_certificate() {
    let pick = |certificate: &[&str], authzid: &str| {
        let mut ctx = context();
        ctx.channel.client_jids = certificate.iter().map(|&jid| jid.to_owned()).collect();
        match start("EXTERNAL", authzid, &ctx).1 {
            Step::Ask(Query::Account(account)) => Ok(account.to_string()),
            step => Err(failure(step)),
        }
    };
    let juliet = Ok("juliet@example.com".to_owned());
    let both = ["juliet@example.com", "romeo@example.com"];
    assert_eq!(pick(&both[..1], ""), juliet);
    assert_eq!(pick(&both[..1], "="), juliet);
    assert_eq!(pick(&both[..1], "Juliet@example.com"), juliet);
    assert_eq!(pick(&both, "juliet@example.com"), juliet);
    assert_eq!(pick(&both, ""), Err(Failure::InvalidAuthzid));
    assert_eq!(
        pick(&both, "nurse@example.com"),
        Err(Failure::InvalidAuthzid)
    );
    // The same account twice, and what cannot be meant: another host, a domain, nonsense.
    let noise = [
        "Juliet@example.com",
        "juliet@example.com",
        "juliet@example.net",
        "example.com",
        "juliet@example.com/x",
        "a b@example.com",
    ];
    assert_eq!(pick(&noise, ""), juliet);
    assert_eq!(
        pick(&noise, "juliet@example.net"),
        Err(Failure::InvalidAuthzid)
    );
    assert_eq!(pick(&noise, "example.com"), Err(Failure::InvalidAuthzid));
    assert_eq!(pick(&noise[2..], ""), Err(Failure::NotAuthorized));
}

#[test]
fn external_waits_for_the_verdict_on_the_account() {
    let (mut exchange, _) = start("EXTERNAL", "", &context());
    assert!(matches!(
        exchange.answer(Answer::Verdict(Ok(()))),
        Step::Success { account, data: None } if account == "juliet@example.com"
    ));
}

#[test]
fn anonymous_gives_a_fresh_account_with_a_uuid() {
    for initial in [None, Some(b"".as_slice()), Some(b"sirhc@example.org")] {
        let (_, step) = Exchange::start(Mechanism::Anonymous, initial, &context(), &mut random);
        let Step::Success {
            account,
            data: None,
        } = step
        else {
            panic!("{step:?}")
        };
        assert_eq!(account, "2a2a2a2a-2a2a-4a2a-aa2a-2a2a2a2a2a2a@example.com");
    }
}

#[test]
fn answers_and_responses_out_of_turn_end_the_exchange() {
    let ctx = context();
    let (mut exchange, _) = start("SCRAM-SHA-1", "n,,n=juliet,r=abc", &ctx);
    let step = exchange.response(b"c=biws", &mut random);
    assert_eq!(failure(step), Failure::MalformedRequest);
    let step = exchange.answer(Answer::Keys(Some(credentials("r0m30"))));
    assert_eq!(failure(step), Failure::TemporaryAuthFailure);

    for answer in [Answer::Unavailable, Answer::Verdict(Ok(()))] {
        let (mut exchange, _) = start("SCRAM-SHA-1", "n,,n=juliet,r=abc", &ctx);
        let step = exchange.answer(answer);
        assert_eq!(failure(step), Failure::TemporaryAuthFailure);
    }
    for answer in [Answer::Unavailable, Answer::Keys(None)] {
        let (mut exchange, _) = start("PLAIN", "\0juliet\0r0m30", &ctx);
        let step = exchange.answer(answer);
        assert_eq!(failure(step), Failure::TemporaryAuthFailure);
    }
    let (mut exchange, _) = Exchange::start(Mechanism::Plain, None, &ctx, &mut random);
    let step = exchange.answer(Answer::Verdict(Ok(())));
    assert_eq!(failure(step), Failure::TemporaryAuthFailure);
}

#[test]
fn credentials_have_a_salt_of_their_own_for_each_hash() {
    let mut counter = 0_u8;
    let mut random = |bytes: &mut [u8]| {
        counter += 1;
        bytes.fill(counter);
    };
    let made = Credentials::derive("a\u{a0}b", 2, &ScramHash::ALL, &mut random).expect("valid");
    assert!(made.is_enabled);
    let salts: Vec<u8> = made.keys.iter().map(|keys| keys.salt[0]).collect();
    assert_eq!(salts, [1, 2, 3]);
    for hash in ScramHash::ALL {
        let keys = made.keys_for(hash).expect("made");
        assert_eq!(keys.stored_key.len(), hash.output_bytes());
        assert!(keys.verify_password("a b"));
    }
    let refused = Credentials::derive("", 2, &ScramHash::ALL, &mut random);
    assert_eq!(refused, Err(crate::jid::PrecisError::Empty));
}

#[test]
fn a_password_is_checked_against_what_is_stored() {
    let stored = credentials("r0m30");
    assert_eq!(check_password(Some(&stored), "r0m30", 2), Ok(()));
    let wrong = Err(Failure::NotAuthorized);
    assert_eq!(check_password(Some(&stored), "r0m31", 2), wrong);
    assert_eq!(check_password(None, "r0m30", 2), wrong);
    let mut disabled = stored.clone();
    disabled.is_enabled = false;
    assert_eq!(
        check_password(Some(&disabled), "r0m30", 2),
        Err(Failure::AccountDisabled)
    );
    assert_eq!(check_password(Some(&disabled), "r0m31", 2), wrong);
    let mut other = stored;
    other.keys.retain(|keys| keys.hash == ScramHash::Sha1);
    assert_eq!(check_password(Some(&other), "r0m30", 2), Ok(()));
    other.keys.clear();
    assert_eq!(check_password(Some(&other), "r0m30", 2), wrong);
}

#[test]
fn debug_forms_hide_secrets() {
    let (exchange, step) = start("PLAIN", "\0juliet\0r0m30", &context());
    let text = format!("{exchange:?} {step:?} {:?}", context());
    assert!(text.contains("juliet") && !text.contains("r0m30") && !text.contains("secret"));
    let text = format!("{:?}", credentials("r0m30").keys[0]);
    assert_eq!(text, "ScramKeys(Sha512, 2 rounds)");
}

#[test]
fn every_failure_has_the_name_of_its_element() {
    let names: Vec<&str> = Failure::ALL.iter().map(|failure| failure.name()).collect();
    assert_eq!(names.len(), 11);
    assert!(names.contains(&"malformed-request") && names.contains(&"invalid-authzid"));
}

/// Messages that come close to valid ones.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "n",
        "y",
        "p=tls-exporter",
        ",",
        ",,",
        "n=",
        "a=",
        "r=",
        "c=",
        "p=",
        "m=",
        "=2C",
        "=",
        "juliet",
        "biws",
        "abc",
        NONCE,
        "\0",
        "@example.com",
        "x=1",
        "AAAA",
    ]);
    prop_oneof![
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_bytes_panic_and_none_log_in(
        mechanism in prop::sample::select(Mechanism::ALL.to_vec()),
        first in prop::option::of(messages()),
        rest in prop::collection::vec(messages(), 0..4),
    ) {
        prop_assume!(mechanism != Mechanism::Anonymous);
        let ctx = context();
        let (mut exchange, mut step) =
            Exchange::start(mechanism, first.as_deref(), &ctx, &mut random);
        let mut rest = rest.into_iter();
        loop {
            step = match step {
                Step::Success { .. } => return Err(TestCaseError::fail("logged in")),
                Step::Failure(_) => break,
                Step::Ask(Query::Keys(_)) => exchange.answer(Answer::Keys(None)),
                Step::Ask(_) => exchange.answer(Answer::Verdict(Err(Failure::NotAuthorized))),
                Step::Challenge(_) => match rest.next() {
                    Some(message) => exchange.response(&message, &mut random),
                    None => break,
                },
            };
        }
    }

    #[test]
    fn names_survive_their_coding(name in "[!-~äß ,=]{1,12}") {
        let coded = name.replace('=', "=3D").replace(',', "=2C");
        let (_, step) = start("SCRAM-SHA-1", &format!("n,,n={coded},r=abc"), &context());
        match Jid::from_parts(Some(&name), "example.com", None) {
            Ok(account) => {
                prop_assert!(matches!(step, Step::Ask(Query::Keys(asked)) if asked == account));
            }
            Err(_) => prop_assert_eq!(failure(step), Failure::NotAuthorized),
        }
    }
}
