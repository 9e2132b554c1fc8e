//! One authentication, whatever the mechanism.

use super::{Answer, Failure, Mechanism, Query, anonymous, external, plain, scram};
use crate::jid::Jid;
use crate::stream::c2s::Channel;
use std::fmt;
use std::sync::Arc;

/// The longest message of a client, in bytes. The limits of the stream before login are usually
/// narrower.
const MAX_MESSAGE_BYTES: usize = 8192;

/// What an exchange has to know of its stream.
#[derive(Clone)]
pub struct ExchangeContext {
    /// The domain that the client wants to log in to.
    pub host: Jid,
    /// The channel, with its binding data and the client's certificate.
    pub channel: Channel,
    /// Whether a `-PLUS` mechanism was offered on this stream: then a client that says it saw none
    /// has been lied to (RFC 5802 §6).
    pub plus_offered: bool,
    /// Secret of the server, the same on all nodes and after a restart, from which the keys of
    /// accounts that do not exist are made up. Longer than 16 bytes.
    pub dummy_secret: Arc<[u8]>,
    /// Iterations that such accounts seem to have: those that new accounts get.
    pub dummy_iterations: u32,
}

impl fmt::Debug for ExchangeContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeContext({})", self.host)
    }
}

/// What the driver of an exchange has to do next.
#[derive(Debug)]
pub enum Step {
    /// Send `<challenge/>` with these bytes, then give the client's answer to
    /// [`Exchange::response`].
    Challenge(Vec<u8>),
    /// Find this out, then call [`Exchange::answer`].
    Ask(Query),
    /// The client is this account (bare JID).
    Success {
        /// Who it is.
        account: Jid,
        /// What `<success/>` carries, if anything.
        data: Option<Vec<u8>>,
    },
    /// Send `<failure/>`; the exchange is over, the client may begin another one.
    Failure(Failure),
}

/// One authentication in progress.
pub struct Exchange {
    state: State,
}

enum State {
    /// The client chose a mechanism and sent no initial response with it.
    AwaitFirst(Mechanism, Box<ExchangeContext>),
    /// SCRAM waits for the keys of the account.
    AwaitKeys(Box<scram::Opening>),
    /// SCRAM waits for the client's proof.
    AwaitProof(Box<scram::Challenged>),
    /// PLAIN or EXTERNAL waits for the driver's word.
    AwaitVerdict(Jid),
    /// Nothing more can come.
    Over,
}

/// The account that a message claims and what has to be asked about it.
pub(super) type Claim = Result<(Jid, Query), Failure>;

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::AwaitFirst(..) => "Exchange(AwaitFirst)",
            State::AwaitKeys(_) => "Exchange(AwaitKeys)",
            State::AwaitProof(_) => "Exchange(AwaitProof)",
            State::AwaitVerdict(_) => "Exchange(AwaitVerdict)",
            State::Over => "Exchange(Over)",
        })
    }
}

impl Exchange {
    /// Begins with the mechanism that the client chose among those that [`super::offered`] lists.
    ///
    /// `initial` is the initial response: `None` where `<auth/>` was empty, an empty slice where
    /// it was `=` (RFC 6120 §6.4.2). `random` fills a slice from a cryptographic generator.
    pub fn start(
        mechanism: Mechanism,
        initial: Option<&[u8]>,
        ctx: &ExchangeContext,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> (Self, Step) {
        let (state, step) = match (mechanism, initial) {
            // The one mechanism whose first message is optional in practice: XEP-0175 logs in with
            // an empty `<auth/>`.
            (Mechanism::Anonymous, None) => first(mechanism, b"", ctx, random),
            (_, None) => (
                State::AwaitFirst(mechanism, Box::new(ctx.clone())),
                Step::Challenge(Vec::new()),
            ),
            (_, Some(message)) => first(mechanism, message, ctx, random),
        };
        (Self { state }, step)
    }

    /// Goes on with the content of `<response/>`. Out of turn it is `malformed-request`.
    pub fn response(&mut self, message: &[u8], random: &mut dyn FnMut(&mut [u8])) -> Step {
        let (state, step) = match self.take() {
            State::AwaitFirst(mechanism, ctx) => first(mechanism, message, &ctx, random),
            State::AwaitProof(server) => match bounded(message).and_then(|m| server.verify(m)) {
                Ok((account, signature)) => success(account, Some(signature)),
                Err(failure) => over(failure),
            },
            State::AwaitKeys(_) | State::AwaitVerdict(_) | State::Over => {
                over(Failure::MalformedRequest)
            }
        };
        self.state = state;
        step
    }

    /// Goes on with the answer to [`Step::Ask`]. One that does not fit the question is taken for
    /// [`Answer::Unavailable`].
    pub fn answer(&mut self, answer: Answer) -> Step {
        let (state, step) = match (self.take(), answer) {
            (State::AwaitKeys(opening), Answer::Keys(credentials)) => {
                let (server, challenge) = opening.challenge(credentials);
                (
                    State::AwaitProof(Box::new(server)),
                    Step::Challenge(challenge),
                )
            }
            (State::AwaitVerdict(account), Answer::Verdict(Ok(()))) => success(account, None),
            (State::AwaitVerdict(_), Answer::Verdict(Err(failure))) => over(failure),
            _ => over(Failure::TemporaryAuthFailure),
        };
        self.state = state;
        step
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Over)
    }
}

fn over(failure: Failure) -> (State, Step) {
    (State::Over, Step::Failure(failure))
}

fn success(account: Jid, data: Option<Vec<u8>>) -> (State, Step) {
    (State::Over, Step::Success { account, data })
}

fn bounded(message: &[u8]) -> Result<&[u8], Failure> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(Failure::MalformedRequest);
    }
    Ok(message)
}

/// The first message of the client.
fn first(
    mechanism: Mechanism,
    message: &[u8],
    ctx: &ExchangeContext,
    random: &mut dyn FnMut(&mut [u8]),
) -> (State, Step) {
    let message = match bounded(message) {
        Ok(message) => message,
        Err(failure) => return over(failure),
    };
    match mechanism {
        Mechanism::Scram { hash, plus } => {
            match scram::Opening::read(hash, plus, message, ctx, random) {
                Ok(opening) => {
                    let query = Query::Keys(opening.account().clone());
                    (State::AwaitKeys(Box::new(opening)), Step::Ask(query))
                }
                Err(failure) => over(failure),
            }
        }
        Mechanism::Plain => asking(plain::read(message, &ctx.host)),
        Mechanism::External => asking(external::read(message, &ctx.host, &ctx.channel.client_jids)),
        Mechanism::Anonymous => match anonymous::account(&ctx.host, random) {
            Ok(account) => success(account, None),
            Err(failure) => over(failure),
        },
    }
}

fn asking(read: Claim) -> (State, Step) {
    match read {
        Ok((account, query)) => (State::AwaitVerdict(account), Step::Ask(query)),
        Err(failure) => over(failure),
    }
}

/// The account of a user name at this host (RFC 6120 §6.3.7). A name that cannot be prepared
/// belongs to nobody, which RFC 5802 §5.1 lets end the exchange at once.
pub(super) fn account_of(name: &str, host: &Jid) -> Result<Jid, Failure> {
    Jid::from_parts(Some(name), host.domain(), None).map_err(|_| Failure::NotAuthorized)
}

/// An authorization identity must be the bare JID of the account itself (RFC 6120 §6.3.8): nobody
/// here may act for another.
pub(super) fn check_authzid(authzid: &str, account: &Jid) -> Result<(), Failure> {
    match Jid::parse(authzid) {
        Ok(identity) if identity == *account => Ok(()),
        _ => Err(Failure::InvalidAuthzid),
    }
}
