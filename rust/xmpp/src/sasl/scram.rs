//! SCRAM (RFC 5802, RFC 7677) with channel binding, and the keys it stores.

use super::channel_binding::binding;
use super::exchange::{ExchangeContext, account_of, check_authzid};
use super::{Credentials, Failure, ScramHash, ScramKeys};
use crate::jid::{Jid, PrecisError, prepare_opaque};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use subtle::ConstantTimeEq;

/// Salt of a new key, in bytes.
const SALT_BYTES: usize = 16;

/// Our part of the nonce before base64, in bytes; RFC 5802 §5.1 leaves the length open, 18 is the
/// customary least.
const NONCE_BYTES: usize = 24;

impl ScramHash {
    /// All of them, strongest first.
    pub const ALL: [Self; 3] = [Self::Sha512, Self::Sha256, Self::Sha1];

    /// The name of the hash as it stands in mechanism names: `SHA-256`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
        }
    }

    /// The hash with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// The length of its output, in bytes.
    #[must_use]
    pub fn output_bytes(self) -> usize {
        self.digest().output_len()
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self, key: &[u8], message: &[u8]) -> hmac::Tag {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), message)
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

impl ScramKeys {
    /// Derives the keys of a password (RFC 5802 §3). Takes milliseconds: off the I/O threads.
    ///
    /// `password` is prepared by [`prepare_opaque`]; 0 `iterations` count as 1.
    #[must_use]
    pub fn derive(hash: ScramHash, password: &str, salt: &[u8], iterations: u32) -> Self {
        let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let mut salted = [0; digest::MAX_OUTPUT_LEN];
        let salted = &mut salted[..hash.output_bytes()];
        pbkdf2::derive(hash.pbkdf2(), rounds, salt, password.as_bytes(), salted);
        let client_key = hash.hmac(salted, b"Client Key");
        Self {
            hash,
            iterations: rounds.get(),
            salt: salt.into(),
            stored_key: digest::digest(hash.digest(), client_key.as_ref())
                .as_ref()
                .into(),
            server_key: hash.hmac(salted, b"Server Key").as_ref().into(),
        }
    }

    /// Whether this is the password, compared in constant time. Takes milliseconds: off the I/O
    /// threads. `password` is prepared by [`prepare_opaque`].
    #[must_use]
    pub fn verify_password(&self, password: &str) -> bool {
        let derived = Self::derive(self.hash, password, &self.salt, self.iterations);
        derived.stored_key.ct_eq(&self.stored_key).into()
    }

    /// The keys that an account which does not exist seems to have: the same each time, and not to
    /// be told from real ones without the secret (RFC 5802 §9).
    fn made_up(hash: ScramHash, account: &Jid, ctx: &ExchangeContext) -> Self {
        let part = |label: &str| {
            let name = format!("{label}\0{}\0{account}", hash.name());
            ScramHash::Sha512.hmac(&ctx.dummy_secret, name.as_bytes())
        };
        let key: Box<[u8]> = part("key").as_ref()[..hash.output_bytes()].into();
        Self {
            hash,
            iterations: ctx.dummy_iterations.max(1),
            salt: part("salt").as_ref()[..SALT_BYTES].into(),
            stored_key: key.clone(),
            server_key: key,
        }
    }
}

impl Credentials {
    /// Makes the credentials of a new password, with a fresh salt for each hash. Takes
    /// milliseconds a hash: off the I/O threads.
    ///
    /// # Errors
    /// [`PrecisError`] if the password is empty or has what no password may have.
    pub fn derive(
        password: &str,
        iterations: u32,
        hashes: &[ScramHash],
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Self, PrecisError> {
        let password = prepare_opaque(password)?;
        let keys = hashes
            .iter()
            .map(|hash| {
                let mut salt = [0; SALT_BYTES];
                random(&mut salt);
                ScramKeys::derive(*hash, &password, &salt, iterations)
            })
            .collect();
        Ok(Self {
            keys,
            is_enabled: true,
        })
    }

    /// The keys for one hash.
    #[must_use]
    pub fn keys_for(&self, hash: ScramHash) -> Option<&ScramKeys> {
        self.keys.iter().find(|keys| keys.hash == hash)
    }
}

/// Answers [`super::Query::Password`]: checks a prepared password against what is stored, `None`
/// for an account that does not exist. Takes milliseconds, and as many where there is no account:
/// off the I/O threads.
///
/// # Errors
/// [`Failure::NotAuthorized`]; [`Failure::AccountDisabled`] only if the password was right.
pub fn check_password(
    stored: Option<&Credentials>,
    password: &str,
    dummy_iterations: u32,
) -> Result<(), Failure> {
    let keys = stored.and_then(|credentials| {
        let usual = credentials.keys_for(ScramHash::Sha256);
        usual.or_else(|| credentials.keys.first())
    });
    let (Some(stored), Some(keys)) = (stored, keys) else {
        // The same work for nothing, so that the time tells nothing.
        let salt = [0; SALT_BYTES];
        let keys = ScramKeys::derive(ScramHash::Sha256, password, &salt, dummy_iterations);
        std::hint::black_box(keys);
        return Err(Failure::NotAuthorized);
    };
    if !keys.verify_password(password) {
        Err(Failure::NotAuthorized)
    } else if !stored.is_enabled {
        Err(Failure::AccountDisabled)
    } else {
        Ok(())
    }
}

/// An exchange after `client-first-message`, which waits for the keys of the account.
pub(super) struct Opening {
    hash: ScramHash,
    account: Jid,
    /// What `c=` must decode to: the GS2 header, then the data of the channel binding.
    binding: Vec<u8>,
    /// `client-first-message-bare`, as it came.
    first_bare: String,
    /// The client's part and ours.
    nonce: String,
    /// What the account gets if it does not exist; made in any case, so that it takes no more time.
    made_up: ScramKeys,
}

impl Opening {
    /// Reads `client-first-message` (RFC 5802 §7) and draws our part of the nonce.
    pub(super) fn read(
        hash: ScramHash,
        plus: bool,
        message: &[u8],
        ctx: &ExchangeContext,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Self, Failure> {
        let message = text(message)?;
        let (flag, rest) = message.split_once(',').ok_or(Failure::MalformedRequest)?;
        let (authzid, first_bare) = rest.split_once(',').ok_or(Failure::MalformedRequest)?;
        let bound = bound_data(flag, plus, ctx)?;

        let (name, client_nonce) = read_bare(first_bare)?;
        let account = account_of(&name, &ctx.host)?;
        if !authzid.is_empty() {
            let authzid = authzid
                .strip_prefix("a=")
                .ok_or(Failure::MalformedRequest)?;
            check_authzid(&sasl_name(authzid)?, &account)?;
        }

        let mut fresh = [0; NONCE_BYTES];
        random(&mut fresh);
        let mut nonce = client_nonce.to_owned();
        BASE64.encode_string(fresh, &mut nonce);
        let gs2_header = &message[..message.len() - first_bare.len()];
        Ok(Self {
            hash,
            made_up: ScramKeys::made_up(hash, &account, ctx),
            account,
            binding: [gs2_header.as_bytes(), bound].concat(),
            first_bare: first_bare.to_owned(),
            nonce,
        })
    }

    /// The same exchange with a server nonce that a published example has.
    #[cfg(test)]
    pub(super) fn with_server_nonce(mut self, nonce: &str) -> Self {
        self.nonce.truncate(self.nonce.len() - NONCE_BYTES / 3 * 4);
        self.nonce.push_str(nonce);
        self
    }

    /// Whose keys are needed.
    pub(super) fn account(&self) -> &Jid {
        &self.account
    }

    /// `server-first-message`. An account that does not exist or has no keys for this hash goes on
    /// with made-up ones, so that both look alike until the end.
    pub(super) fn challenge(self, credentials: Option<Credentials>) -> (Challenged, Vec<u8>) {
        let (stored, is_enabled) = match credentials {
            Some(Credentials { keys, is_enabled }) => {
                let hash = self.hash;
                (keys.into_iter().find(|keys| keys.hash == hash), is_enabled)
            }
            None => (None, false),
        };
        let standing = match (&stored, is_enabled) {
            (None, _) => Standing::Unknown,
            (Some(_), false) => Standing::Disabled,
            (Some(_), true) => Standing::Enabled,
        };
        let keys = stored.unwrap_or(self.made_up);
        let server_first = format!(
            "r={},s={},i={}",
            self.nonce,
            BASE64.encode(&keys.salt),
            keys.iterations
        );
        let challenge = server_first.clone().into_bytes();
        let server = Challenged {
            account: self.account,
            binding: self.binding,
            first_bare: self.first_bare,
            nonce: self.nonce,
            server_first,
            keys,
            standing,
        };
        (server, challenge)
    }
}

/// What becomes of an account that gives the right proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// There is none, or none with keys for this hash: no proof is right.
    Unknown,
    /// It must not log in.
    Disabled,
    /// It is let in.
    Enabled,
}

/// An exchange after `server-first-message`, which waits for the client's proof.
pub(super) struct Challenged {
    account: Jid,
    binding: Vec<u8>,
    first_bare: String,
    nonce: String,
    server_first: String,
    keys: ScramKeys,
    standing: Standing,
}

impl Challenged {
    /// Checks `client-final-message` and yields the account and `server-final-message`.
    ///
    /// An account that is disabled learns so only with the right proof, everybody else learns
    /// nothing but `not-authorized`.
    pub(super) fn verify(&self, message: &[u8]) -> Result<(Jid, Vec<u8>), Failure> {
        let last = Final::read(message)?;
        // A binding that differs means that somebody sits in between, or took `-PLUS` out of the
        // offer (RFC 5802 §6).
        let is_bound = bool::from(last.binding.ct_eq(&self.binding));
        if !is_bound || last.nonce != self.nonce {
            return Err(Failure::NotAuthorized);
        }

        let keys = &self.keys;
        let auth_message = format!(
            "{},{},{}",
            self.first_bare, self.server_first, last.without_proof
        );
        let signature = keys.hash.hmac(&keys.stored_key, auth_message.as_bytes());
        let signature = signature.as_ref();
        if last.proof.len() != signature.len() {
            return Err(Failure::NotAuthorized);
        }
        let client_key: Vec<u8> = last
            .proof
            .iter()
            .zip(signature)
            .map(|(proof, signature)| proof ^ signature)
            .collect();
        let stored_key = digest::digest(keys.hash.digest(), &client_key);
        let is_right = bool::from(stored_key.as_ref().ct_eq(&keys.stored_key));
        match self.standing {
            Standing::Enabled if is_right => {}
            Standing::Disabled if is_right => return Err(Failure::AccountDisabled),
            _ => return Err(Failure::NotAuthorized),
        }

        let server_signature = keys.hash.hmac(&keys.server_key, auth_message.as_bytes());
        let server_final = format!("v={}", BASE64.encode(server_signature));
        Ok((self.account.clone(), server_final.into_bytes()))
    }
}

/// `client-final-message` (RFC 5802 §7), decoded.
struct Final<'a> {
    binding: Vec<u8>,
    nonce: &'a str,
    proof: Vec<u8>,
    /// `client-final-message-without-proof`, as it came.
    without_proof: &'a str,
}

impl<'a> Final<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Failure> {
        let message = text(message)?;
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or(Failure::MalformedRequest)?;
        let mut attributes = without_proof.split(',');
        let binding = value(attributes.next(), "c=")?;
        let nonce = value(attributes.next(), "r=")?;
        check_extensions(attributes)?;
        Ok(Self {
            binding: base64(binding)?,
            nonce,
            proof: base64(proof)?,
            without_proof,
        })
    }
}

/// The binding data that a GS2 flag asks for, empty where it asks for none (RFC 5802 §6).
fn bound_data<'a>(flag: &str, plus: bool, ctx: &'a ExchangeContext) -> Result<&'a [u8], Failure> {
    match flag {
        // "I can bind, but you do not": yet we offered it, so somebody took it out of the offer.
        "y" if ctx.plus_offered => Err(Failure::NotAuthorized),
        "n" | "y" if !plus => Ok(&[]),
        // A binding without `-PLUS`, or `-PLUS` without a binding.
        _ => match flag.strip_prefix("p=") {
            Some(name) if plus && is_binding_name(name) => {
                // unsupported-channel-binding-type (RFC 5802 §7)
                binding(&ctx.channel, name).ok_or(Failure::NotAuthorized)
            }
            _ => Err(Failure::MalformedRequest),
        },
    }
}

/// `cb-name` (RFC 5802 §7).
fn is_binding_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !name.is_empty() && name.bytes().all(is_allowed)
}

/// Reads `client-first-message-bare`: the user name, decoded, and the client's nonce.
fn read_bare(bare: &str) -> Result<(String, &str), Failure> {
    // `m=` may stand before the name only; a server that does not know the extension must fail
    // (RFC 5802 §5.1), and no extension is known.
    let mut attributes = bare.split(',');
    let name = sasl_name(value(attributes.next(), "n=")?)?;
    let nonce = value(attributes.next(), "r=")?;
    if !nonce.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        return Err(Failure::MalformedRequest);
    }
    check_extensions(attributes)?;
    Ok((name, nonce))
}

/// The value of the attribute that has to come next; none is empty.
fn value<'a>(attribute: Option<&'a str>, name: &str) -> Result<&'a str, Failure> {
    attribute
        .and_then(|attribute| attribute.strip_prefix(name))
        .filter(|value| !value.is_empty())
        .ok_or(Failure::MalformedRequest)
}

/// Lets unknown optional extensions pass, which count only as part of the signed text; refuses
/// what has not the form of one, and the names that RFC 5802 §5.1 has given away.
fn check_extensions<'a>(mut attributes: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let is_extension = |attribute: &str| {
        let bytes = attribute.as_bytes();
        matches!(bytes, [name, b'=', _, ..] if name.is_ascii_alphabetic()
            && !matches!(name, b'a' | b'n' | b'm' | b'r' | b'c' | b's' | b'i' | b'p' | b'v' | b'e'))
    };
    if attributes.all(is_extension) {
        Ok(())
    } else {
        Err(Failure::MalformedRequest)
    }
}

/// Decodes `saslname`: `=2C` is a comma, `=3D` an equals sign, nothing else may follow `=`.
fn sasl_name(encoded: &str) -> Result<String, Failure> {
    let mut parts = encoded.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (c, rest) = match part.get(..2) {
            Some("2C" | "2c") => (',', &part[2..]),
            Some("3D" | "3d") => ('=', &part[2..]),
            _ => return Err(Failure::MalformedRequest),
        };
        name.push(c);
        name.push_str(rest);
    }
    if name.is_empty() {
        return Err(Failure::MalformedRequest);
    }
    Ok(name)
}

/// The messages are UTF-8 without NUL (RFC 5802 §7).
fn text(message: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(message)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or(Failure::MalformedRequest)
}

fn base64(encoded: &str) -> Result<Vec<u8>, Failure> {
    BASE64
        .decode(encoded)
        .map_err(|_| Failure::MalformedRequest)
}
