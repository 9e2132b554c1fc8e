//! SASL (RFC 6120 §6, RFC 5802, RFC 7677, RFC 9266), server side, without I/O.
//!
//! [`offered`] says which mechanisms a stream announces, [`Exchange`] runs one of them. The payload
//! that XMPP carries in base64 goes in and comes out as raw bytes.
//!
//! What is costly on purpose, PBKDF2, happens only in [`ScramKeys::derive`],
//! [`ScramKeys::verify_password`], [`Credentials::derive`] and [`check_password`]. Each takes
//! milliseconds: off the I/O threads. An exchange itself costs a few HMACs.

mod anonymous;
mod channel_binding;
mod exchange;
mod external;
mod plain;
mod scram;

pub use channel_binding::binding_types;
pub use exchange::{Exchange, ExchangeContext, Step};
pub use scram::check_password;

use crate::jid::Jid;
use crate::stream::c2s::Channel;

/// The hash of a SCRAM mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScramHash {
    /// SCRAM-SHA-1
    Sha1,
    /// SCRAM-SHA-256
    Sha256,
    /// SCRAM-SHA-512
    Sha512,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// SCRAM, with channel binding if `plus`.
    Scram {
        /// The hash.
        hash: ScramHash,
        /// Whether the channel is bound.
        plus: bool,
    },
    /// PLAIN (RFC 4616)
    Plain,
    /// EXTERNAL (RFC 4422 appendix A, XEP-0178)
    External,
    /// ANONYMOUS (RFC 4505, XEP-0175)
    Anonymous,
}

/// The stored form of a password for one hash (RFC 5802 §3); never the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// Which hash.
    pub hash: ScramHash,
    /// PBKDF2 rounds.
    pub iterations: u32,
    /// Salt.
    pub salt: Box<[u8]>,
    /// `H(ClientKey)`
    pub stored_key: Box<[u8]>,
    /// `HMAC(SaltedPassword, "Server Key")`
    pub server_key: Box<[u8]>,
}

/// What the store keeps to authenticate an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// At most one set a hash.
    pub keys: Vec<ScramKeys>,
    /// A disabled account fails with `account-disabled`.
    pub is_enabled: bool,
}

impl Mechanism {
    /// All that is known, strongest first.
    pub const ALL: [Self; 9] = [
        scram_mechanism(ScramHash::Sha512, true),
        scram_mechanism(ScramHash::Sha256, true),
        scram_mechanism(ScramHash::Sha1, true),
        scram_mechanism(ScramHash::Sha512, false),
        scram_mechanism(ScramHash::Sha256, false),
        scram_mechanism(ScramHash::Sha1, false),
        Self::External,
        Self::Plain,
        Self::Anonymous,
    ];

    /// The registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        use ScramHash::{Sha1, Sha256, Sha512};
        match self {
            Self::Scram { hash, plus } => match (hash, plus) {
                (Sha1, false) => "SCRAM-SHA-1",
                (Sha1, true) => "SCRAM-SHA-1-PLUS",
                (Sha256, false) => "SCRAM-SHA-256",
                (Sha256, true) => "SCRAM-SHA-256-PLUS",
                (Sha512, false) => "SCRAM-SHA-512",
                (Sha512, true) => "SCRAM-SHA-512-PLUS",
            },
            Self::Plain => "PLAIN",
            Self::External => "EXTERNAL",
            Self::Anonymous => "ANONYMOUS",
        }
    }

    /// The mechanism of this name, which is in upper case (RFC 4422 §3.1).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Whether it binds the channel.
    #[must_use]
    pub fn is_plus(self) -> bool {
        matches!(self, Self::Scram { plus: true, .. })
    }
}

const fn scram_mechanism(hash: ScramHash, plus: bool) -> Mechanism {
    Mechanism::Scram { hash, plus }
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Which of the configured mechanisms this channel is offered, in the configured order.
///
/// Nothing at all without TLS, unless `allow_plaintext`; `-PLUS` only where the channel can be
/// bound; EXTERNAL only behind a verified client certificate (RFC 6120 §6.3.4). A client may
/// choose none but these: anything else is `invalid-mechanism`.
#[must_use]
pub fn offered(
    configured: &[Mechanism],
    channel: &Channel,
    allow_plaintext: bool,
) -> Vec<Mechanism> {
    if !channel.secure && !allow_plaintext {
        return Vec::new();
    }
    configured
        .iter()
        .copied()
        .filter(|mechanism| match mechanism {
            Mechanism::Scram { plus: true, .. } => binding_types(channel).next().is_some(),
            Mechanism::External => channel.secure && !channel.client_jids.is_empty(),
            Mechanism::Scram { plus: false, .. } | Mechanism::Plain | Mechanism::Anonymous => true,
        })
        .collect()
}

/// What an exchange asks of the driver. Its `Debug` form hides the password.
pub enum Query {
    /// The keys of an account (bare JID, prepared) for SCRAM.
    Keys(Jid),
    /// Check a password against the stored keys, off the I/O threads.
    Password {
        /// Bare JID, prepared.
        account: Jid,
        /// As the client sent it, prepared by OpaqueString.
        password: String,
    },
    /// Does this account exist and may it log in (EXTERNAL).
    Account(Jid),
}

/// The driver's answer to a [`Query`].
#[derive(Debug)]
pub enum Answer {
    /// `None`: no such account; the exchange goes on with made-up keys and fails at the end.
    Keys(Option<Credentials>),
    /// Password right and account enabled, or why not.
    Verdict(Result<(), Failure>),
    /// The store did not answer: `temporary-auth-failure`.
    Unavailable,
}

macro_rules! failures {
    ($($variant:ident = $name:literal;)*) => {
        /// Conditions of `<failure/>` (RFC 6120 §6.5).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failure { $(#[doc = concat!("`", $name, "`")] $variant,)* }
        impl Failure {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The element's name.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
        }
    };
}

failures! {
    Aborted = "aborted";
    AccountDisabled = "account-disabled";
    CredentialsExpired = "credentials-expired";
    EncryptionRequired = "encryption-required";
    IncorrectEncoding = "incorrect-encoding";
    InvalidAuthzid = "invalid-authzid";
    InvalidMechanism = "invalid-mechanism";
    MalformedRequest = "malformed-request";
    MechanismTooWeak = "mechanism-too-weak";
    NotAuthorized = "not-authorized";
    TemporaryAuthFailure = "temporary-auth-failure";
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keys(account) => write!(f, "Keys({account})"),
            Self::Password { account, .. } => write!(f, "Password({account})"),
            Self::Account(account) => write!(f, "Account({account})"),
        }
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScramKeys({:?}, {} rounds)", self.hash, self.iterations)
    }
}

#[cfg(test)]
mod tests;
