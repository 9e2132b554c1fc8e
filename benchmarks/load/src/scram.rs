//! The client's half of SCRAM (RFC 5802, RFC 7677) and PLAIN (RFC 4616).

use crate::Failure;
use crate::options::Mechanism;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use std::collections::HashMap;
use std::num::NonZeroU32;

/// More rounds than this are refused: a server must not keep the generator busy for seconds.
const MAX_ITERATIONS: u32 = 1_000_000;

/// Keys derived from the password of all accounts; none is derived twice.
#[derive(Default)]
pub struct KeyCache {
    known: HashMap<(Vec<u8>, u32), Keys>,
}

#[derive(Clone)]
struct Keys {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// An exchange that waits for the server's first or final message.
pub struct Exchange {
    mechanism: Mechanism,
    first_bare: String,
    nonce: String,
    /// What the server has to prove in the end.
    server_signature: Vec<u8>,
}

fn hmac_with(mechanism: Mechanism, key: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match mechanism {
        Mechanism::ScramSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        _ => hmac::HMAC_SHA256,
    };
    hmac::sign(&hmac::Key::new(algorithm, key), message)
        .as_ref()
        .to_vec()
}

fn hash_with(mechanism: Mechanism, message: &[u8]) -> Vec<u8> {
    let algorithm = match mechanism {
        Mechanism::ScramSha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        _ => &digest::SHA256,
    };
    digest::digest(algorithm, message).as_ref().to_vec()
}

impl KeyCache {
    fn keys(
        &mut self,
        mechanism: Mechanism,
        password: &str,
        (salt, iterations): (Vec<u8>, u32),
    ) -> Result<Keys, Failure> {
        let count = NonZeroU32::new(iterations)
            .filter(|n| n.get() <= MAX_ITERATIONS)
            .ok_or_else(|| Failure::Login(format!("SCRAM with {iterations} rounds")))?;
        let known = self.known.entry((salt, iterations));
        let keys = known.or_insert_with_key(|(salt, _)| {
            let (algorithm, size) = match mechanism {
                Mechanism::ScramSha1 => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
                _ => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
            };
            let mut salted = vec![0; size];
            pbkdf2::derive(algorithm, count, salt, password.as_bytes(), &mut salted);
            Keys {
                client: hmac_with(mechanism, &salted, b"Client Key"),
                server: hmac_with(mechanism, &salted, b"Server Key"),
            }
        });
        Ok(keys.clone())
    }
}

/// The content of `<auth/>` for PLAIN.
pub fn plain(user: &str, password: &str) -> String {
    STANDARD.encode(format!("\0{user}\0{password}"))
}

impl Exchange {
    /// A new exchange and the content of its `<auth/>`.
    ///
    /// # Errors
    /// [`Failure::Login`] if the system has no randomness.
    pub fn begin(mechanism: Mechanism, user: &str) -> Result<(Self, String), Failure> {
        let mut random = [0; 18];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Failure::Login("no randomness".to_owned()))?;
        Ok(Self::with_nonce(mechanism, user, STANDARD.encode(random)))
    }

    fn with_nonce(mechanism: Mechanism, user: &str, nonce: String) -> (Self, String) {
        let first_bare = format!("n={user},r={nonce}");
        let content = STANDARD.encode(format!("n,,{first_bare}"));
        let exchange = Self {
            mechanism,
            first_bare,
            nonce,
            server_signature: Vec::new(),
        };
        (exchange, content)
    }

    /// The content of `<response/>` to the server's challenge (base64).
    ///
    /// # Errors
    /// [`Failure::Login`] if the challenge is none.
    pub fn respond(
        &mut self,
        challenge: &[u8],
        password: &str,
        cache: &mut KeyCache,
    ) -> Result<String, Failure> {
        let bad = || Failure::Login("a challenge that is not SCRAM's".to_owned());
        let first =
            String::from_utf8(STANDARD.decode(challenge).map_err(|_| bad())?).map_err(|_| bad())?;
        let value = |name: &str| first.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = value("r=")
            .filter(|r| r.starts_with(&self.nonce))
            .ok_or_else(bad)?;
        let salt = value("s=")
            .and_then(|s| STANDARD.decode(s).ok())
            .ok_or_else(bad)?;
        let iterations = value("i=").and_then(|i| i.parse().ok()).ok_or_else(bad)?;
        let keys = cache.keys(self.mechanism, password, (salt, iterations))?;
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{first},{without_proof}", self.first_bare);
        let stored = hash_with(self.mechanism, &keys.client);
        let signature = hmac_with(self.mechanism, &stored, signed.as_bytes());
        let proof: Vec<u8> = keys
            .client
            .iter()
            .zip(&signature)
            .map(|(k, s)| k ^ s)
            .collect();
        self.server_signature = hmac_with(self.mechanism, &keys.server, signed.as_bytes());
        Ok(STANDARD.encode(format!("{without_proof},p={}", STANDARD.encode(proof))))
    }

    /// Whether the content of `<success/>` (base64) proves that the server knows the account.
    pub fn is_proof(&self, content: &[u8]) -> bool {
        let expected = format!("v={}", STANDARD.encode(&self.server_signature));
        STANDARD
            .decode(content)
            .is_ok_and(|text| text == expected.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_of_rfc_7677_section_3_comes_out() {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let (mut exchange, first) = Exchange::with_nonce(Mechanism::ScramSha256, "user", nonce);
        assert_eq!(
            STANDARD.decode(first).unwrap(),
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
        );
        let challenge = STANDARD.encode(
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        );
        let mut cache = KeyCache::default();
        let response = exchange
            .respond(challenge.as_bytes(), "pencil", &mut cache)
            .unwrap();
        assert_eq!(
            String::from_utf8(STANDARD.decode(response).unwrap()).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = STANDARD.encode("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(exchange.is_proof(last.as_bytes()));
        assert!(!exchange.is_proof(b"dj0="));
    }

    #[test]
    fn a_challenge_with_a_foreign_nonce_or_too_many_rounds_is_refused() {
        let mut cache = KeyCache::default();
        for challenge in [
            "r=other,s=AA==,i=4096",
            "r=n1,s=AA==,i=4000000000",
            "",
            "r=n1,s=AA==",
        ] {
            let (mut exchange, _) =
                Exchange::with_nonce(Mechanism::ScramSha256, "user", "n".to_owned());
            let content = STANDARD.encode(challenge);
            let answer = exchange.respond(content.as_bytes(), "pencil", &mut cache);
            assert!(answer.is_err(), "{challenge}");
        }
    }
}
