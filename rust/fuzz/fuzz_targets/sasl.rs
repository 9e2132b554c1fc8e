//! SASL from the offer to its end: whatever a client sends, nothing panics, nobody gets in without
//! what the mechanism asks for, and who has it gets in.
//!
//! The input is a byte that chooses among the mechanisms offered, one for what the channel and the
//! store are like, then messages, each ended by 0xFF. In a message stand for what a client with the
//! password would compute: 0xFE for the proof, 0xFD for the nonce, 0xFC for the channel binding.
//! No UTF-8 has any of these.
#![no_main]

use antiphon_xmpp::Jid;
use antiphon_xmpp::jid::prepare_opaque;
use antiphon_xmpp::sasl::{
    Answer, Credentials, Exchange, ExchangeContext, Failure, Mechanism, Query, ScramHash, Step,
    check_password, offered,
};
use antiphon_xmpp::stream::c2s::Channel;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use libfuzzer_sys::fuzz_target;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use std::sync::LazyLock;

const PASSWORD: &str = "r0m30 \u{e9}";
const ROUNDS: u32 = 2;
const EXPORTER: [u8; 32] = [1; 32];
const END_POINT: [u8; 32] = [2; 32];
/// What a final message is for whoever plays by the rules.
const HONEST_FINAL: &[u8] = b"c=\xfc,r=\xfd,p=\xfe";

static STORED: LazyLock<Credentials> = LazyLock::new(|| {
    let mut random = |bytes: &mut [u8]| bytes.fill(5);
    Credentials::derive(PASSWORD, ROUNDS, &ScramHash::ALL, &mut random).expect("a good password")
});

/// Juliet may log in, Romeo is disabled, Nurse has keys for one hash alone, nobody else exists.
fn stored(account: &Jid) -> Option<Credentials> {
    let mut credentials = STORED.clone();
    match account.as_str() {
        "juliet@example.com" => {}
        "romeo@example.com" => credentials.is_enabled = false,
        "nurse@example.com" => credentials.keys.retain(|keys| keys.hash == ScramHash::Sha1),
        _ => return None,
    }
    Some(credentials)
}

fn context(flags: u8) -> ExchangeContext {
    let secure = flags & 1 != 0;
    let all = [
        "juliet@example.com",
        "romeo@example.com",
        "juliet@elsewhere.example",
        "\u{0}",
    ];
    let taken = usize::from(flags >> 1 & 3) + usize::from(flags & 8 != 0);
    let channel = Channel {
        secure,
        exporter: (secure && flags & 16 != 0).then(|| EXPORTER.into()),
        server_end_point: (secure && flags & 32 != 0).then(|| END_POINT.into()),
        client_jids: all[..taken].iter().map(|&jid| jid.to_owned()).collect(),
        ..Channel::default()
    };
    ExchangeContext {
        host: Jid::parse("example.com").expect("valid"),
        plus_offered: channel.exporter.is_some() || channel.server_end_point.is_some(),
        channel,
        dummy_secret: [3; 32].as_slice().into(),
        dummy_iterations: ROUNDS,
    }
}

/// A client of SCRAM, made from RFC 5802 §3 without our code.
struct Scram<'a> {
    hash: ScramHash,
    first: &'a [u8],
    server_first: Vec<u8>,
}

impl Scram<'_> {
    fn hmac(&self, key: &[u8], message: &[u8]) -> Vec<u8> {
        let algorithm = match self.hash {
            ScramHash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            ScramHash::Sha256 => hmac::HMAC_SHA256,
            ScramHash::Sha512 => hmac::HMAC_SHA512,
        };
        let key = hmac::Key::new(algorithm, key);
        hmac::sign(&key, message).as_ref().to_vec()
    }

    /// GS2 header and `client-first-message-bare`.
    fn split(&self) -> (&[u8], &[u8]) {
        let mut commas = (0..self.first.len()).filter(|&at| self.first[at] == b',');
        let end = commas.nth(1).map_or(self.first.len(), |at| at + 1);
        self.first.split_at(end)
    }

    fn attribute(&self, index: usize) -> &[u8] {
        let mut attributes = self.server_first.split(|byte| *byte == b',');
        attributes
            .nth(index)
            .and_then(|a| a.get(2..))
            .unwrap_or_default()
    }

    fn binding(&self) -> String {
        let (header, _) = self.split();
        let bound: &[u8] = if header.starts_with(b"p=tls-exporter,") {
            &EXPORTER
        } else if header.starts_with(b"p=") {
            &END_POINT
        } else {
            &[]
        };
        BASE64.encode([header, bound].concat())
    }

    /// The proof, and the server's signature.
    fn proof(&self, without_proof: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (kdf, digest) = match self.hash {
            ScramHash::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY),
            ScramHash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
            ScramHash::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
        };
        let salt = BASE64.decode(self.attribute(1)).expect("our base64");
        let mut salted = vec![0; digest.output_len()];
        let rounds = NonZeroU32::new(ROUNDS).expect("not 0");
        pbkdf2::derive(kdf, rounds, &salt, PASSWORD.as_bytes(), &mut salted);
        let client_key = self.hmac(&salted, b"Client Key");
        let stored_key = digest::digest(digest, &client_key);
        let (_, bare) = self.split();
        let message = [bare, b",", &self.server_first, b",", without_proof].concat();
        let signature = self.hmac(stored_key.as_ref(), &message);
        let proof = client_key
            .iter()
            .zip(&signature)
            .map(|(k, s)| k ^ s)
            .collect();
        let server_key = self.hmac(&salted, b"Server Key");
        (proof, self.hmac(&server_key, &message))
    }

    fn fill_in(&self, template: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        for &byte in template {
            match byte {
                0xfc => message.extend(self.binding().bytes()),
                0xfd => message.extend_from_slice(self.attribute(0)),
                0xfe => {
                    let signed = message.strip_suffix(b",p=").unwrap_or(&message).to_vec();
                    message.extend(BASE64.encode(self.proof(&signed).0).bytes());
                }
                _ => message.push(byte),
            }
        }
        message
    }

    /// That whoever got in by this final message had the password, and bound this very channel.
    fn check(&self, last: &[u8], server_final: &[u8]) {
        let at = last
            .windows(3)
            .rposition(|w| w == b",p=")
            .expect("has a proof");
        let (signed, proof) = (&last[..at], &last[at + 3..]);
        let (expected, signature) = self.proof(signed);
        assert_eq!(BASE64.decode(proof), Ok(expected), "no proof, and let in");
        assert_eq!(
            server_final,
            format!("v={}", BASE64.encode(signature)).as_bytes()
        );
        let mut attributes = signed.split(|byte| *byte == b',');
        let binding = attributes
            .next()
            .and_then(|c| c.strip_prefix(b"c="))
            .expect("bound");
        assert_eq!(BASE64.decode(binding), BASE64.decode(self.binding()));
        let nonce = attributes
            .next()
            .and_then(|r| r.strip_prefix(b"r="))
            .expect("fresh");
        assert_eq!(nonce, self.attribute(0));
    }
}

struct Login<'a> {
    mechanism: Mechanism,
    ctx: ExchangeContext,
    is_store_down: bool,
    account: Option<Jid>,
    scram: Option<Scram<'a>>,
    last: Vec<u8>,
    is_honest: bool,
}

impl<'a> Login<'a> {
    fn run(&mut self, initial: Option<&'a [u8]>, mut messages: impl Iterator<Item = &'a [u8]>) {
        let mut random = |bytes: &mut [u8]| bytes.fill(7);
        self.said(initial);
        let first = initial.map(|_| self.last.clone());
        let (mut exchange, mut step) =
            Exchange::start(self.mechanism, first.as_deref(), &self.ctx, &mut random);
        loop {
            step = match step {
                Step::Ask(query) => exchange.answer(self.answer(query)),
                Step::Challenge(challenge) => {
                    self.challenged(challenge);
                    let Some(message) = messages.next() else {
                        return;
                    };
                    self.said(Some(message));
                    exchange.response(&self.last, &mut random)
                }
                Step::Success { account, data } => {
                    self.let_in(&account, data.as_deref());
                    break;
                }
                Step::Failure(failure) => {
                    self.refused(failure);
                    break;
                }
            };
        }
        // Over is over, whatever else the client says.
        let after = exchange.response(&self.last, &mut random);
        assert!(matches!(after, Step::Failure(Failure::MalformedRequest)));
        let after = exchange.answer(Answer::Verdict(Ok(())));
        assert!(matches!(
            after,
            Step::Failure(Failure::TemporaryAuthFailure)
        ));
    }

    fn said(&mut self, message: Option<&'a [u8]>) {
        let Some(template) = message else {
            return;
        };
        match (&mut self.scram, self.mechanism) {
            (Some(scram), _) => {
                self.is_honest = template == HONEST_FINAL;
                self.last = scram.fill_in(template);
            }
            (none, Mechanism::Scram { hash, .. }) => {
                *none = Some(Scram {
                    hash,
                    first: template,
                    server_first: Vec::new(),
                });
                self.last = template.to_vec();
            }
            _ => self.last = template.to_vec(),
        }
    }

    fn challenged(&mut self, challenge: Vec<u8>) {
        match &mut self.scram {
            Some(scram) => scram.server_first = challenge,
            None => assert!(challenge.is_empty(), "a challenge to nothing"),
        }
    }

    fn answer(&mut self, query: Query) -> Answer {
        let account = match &query {
            Query::Keys(account) | Query::Account(account) => account,
            Query::Password { account, .. } => account,
        };
        assert!(account.is_bare() && account.domain() == "example.com");
        self.account = Some(account.clone());
        if self.is_store_down {
            return Answer::Unavailable;
        }
        match query {
            Query::Keys(account) => Answer::Keys(stored(&account)),
            Query::Account(account) => Answer::Verdict(match stored(&account) {
                Some(Credentials {
                    is_enabled: true, ..
                }) => Ok(()),
                Some(_) => Err(Failure::AccountDisabled),
                None => Err(Failure::NotAuthorized),
            }),
            Query::Password { account, password } => {
                assert_eq!(prepare_opaque(&password).as_ref(), Ok(&password));
                let stored = stored(&account);
                Answer::Verdict(check_password(stored.as_ref(), &password, ROUNDS))
            }
        }
    }

    fn let_in(&self, account: &Jid, data: Option<&[u8]>) {
        assert!(account.is_bare());
        if self.mechanism == Mechanism::Anonymous {
            assert_eq!(account.local().map(str::len), Some(36));
            return;
        }
        assert!(!self.is_store_down, "let in without the store's word");
        assert_eq!(Some(account), self.account.as_ref());
        assert!(stored(account).is_some_and(|stored| stored.is_enabled));
        match (&self.scram, self.mechanism) {
            (Some(scram), _) => scram.check(&self.last, data.expect("has a signature")),
            (None, Mechanism::Plain) => {
                let text = std::str::from_utf8(&self.last).expect("text");
                let password = text.rsplit('\0').next().map(prepare_opaque);
                assert_eq!(password, Some(Ok(PASSWORD.to_owned())));
            }
            (None, _) => {
                assert!(self.ctx.channel.secure);
                let named = &self.ctx.channel.client_jids;
                assert!(named.iter().any(|jid| jid == account.as_str()));
            }
        }
    }

    fn refused(&self, failure: Failure) {
        let known = self.account.as_ref().and_then(stored);
        let (Some(scram), true, Some(known)) = (&self.scram, self.is_honest, known) else {
            return;
        };
        if self.is_store_down || known.keys_for(scram.hash).is_none() {
            return;
        }
        // The first message was taken, and the last is right.
        assert!(!known.is_enabled, "had the password, got {failure:?}");
        assert_eq!(failure, Failure::AccountDisabled);
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, flags, rest @ ..] = input else {
        return;
    };
    let ctx = context(*flags);
    let mechanisms = offered(&Mechanism::ALL, &ctx.channel, flags & 64 != 0);
    assert!(ctx.channel.secure || flags & 64 != 0 || mechanisms.is_empty());
    assert!(ctx.plus_offered || !mechanisms.iter().any(|mechanism| mechanism.is_plus()));
    let Some(&mechanism) = mechanisms.get(usize::from(choice & 15)) else {
        return;
    };
    let mut messages = rest.split(|byte| *byte == 0xff);
    let initial = if choice & 32 == 0 {
        messages.next()
    } else {
        None
    };
    let mut login = Login {
        mechanism,
        ctx,
        is_store_down: flags & 128 != 0,
        account: None,
        scram: None,
        last: Vec::new(),
        is_honest: false,
    };
    login.run(initial, messages);
});
