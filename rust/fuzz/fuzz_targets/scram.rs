//! SASL: whatever a client sends, nothing panics and nobody gets in without the store's word.
//!
//! The input is a byte that chooses the mechanism and the account, then messages, each ended by
//! 0xFF, which no UTF-8 has.
#![no_main]

use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{
    Answer, Credentials, Exchange, ExchangeContext, Failure, Mechanism, Query, ScramHash,
    ScramKeys, Step,
};
use antiphon_xmpp::stream::c2s::Channel;
use libfuzzer_sys::fuzz_target;

fn context() -> ExchangeContext {
    ExchangeContext {
        host: Jid::parse("example.com").expect("valid"),
        channel: Channel {
            secure: true,
            exporter: Some([1; 32].into()),
            server_end_point: Some([2; 32].into()),
            client_jids: vec!["juliet@example.com".to_owned()],
            ..Channel::default()
        },
        plus_offered: true,
        dummy_secret: [3; 32].as_slice().into(),
        dummy_iterations: 4096,
    }
}

/// Keys that no password has.
fn credentials() -> Credentials {
    let keys = ScramHash::ALL.map(|hash| ScramKeys {
        hash,
        iterations: 4096,
        salt: [4; 16].into(),
        stored_key: vec![5; hash.output_bytes()].into(),
        server_key: vec![6; hash.output_bytes()].into(),
    });
    Credentials {
        keys: keys.into(),
        is_enabled: true,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let mechanism = Mechanism::ALL[usize::from(choice & 0x0f) % Mechanism::ALL.len()];
    let stored = (choice & 0x10 != 0).then(credentials);
    let mut messages = rest.split(|byte| *byte == 0xff);
    let initial = if choice & 0x20 == 0 {
        messages.next()
    } else {
        None
    };
    let mut random = |bytes: &mut [u8]| bytes.fill(7);
    let ctx = context();
    let (mut exchange, mut step) = Exchange::start(mechanism, initial, &ctx, &mut random);
    loop {
        step = match step {
            Step::Success { .. } => {
                assert_eq!(mechanism, Mechanism::Anonymous, "logged in without a proof");
                return;
            }
            Step::Failure(_) => return,
            Step::Ask(Query::Keys(_)) => exchange.answer(Answer::Keys(stored.clone())),
            Step::Ask(_) => exchange.answer(Answer::Verdict(Err(Failure::NotAuthorized))),
            Step::Challenge(_) => match messages.next() {
                Some(message) => exchange.response(message, &mut random),
                None => return,
            },
        };
    }
});
