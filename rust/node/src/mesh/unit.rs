//! What nodes say to each other, one value each: a kind and what belongs to it.
//!
//! Kinds and their parts are only ever added at the end, so that neighbouring versions understand
//! each other; numbers of kinds are never used again.

use crate::sessions::ResumeId;
use antiphon_routing::SessionId;
use antiphon_routing::effect::Origin;
use antiphon_xmpp::packed::{Unpacker, Unreadable, put_bytes, put_number};
use antiphon_xmpp::stanza::{StanzaCondition, StanzaError};
use antiphon_xmpp::stream::StreamCondition;
use antiphon_xmpp::{Jid, Stanza};
use bytes::Bytes;
pub(super) use moving::resume_id;
use moving::session_id;

// To the home of a shard, in order with everything else to it: the shard follows the kind.
const STANZA: u8 = 1;
const ROUTE: u8 = 2;
const BIND: u8 = 3;
const END: u8 = 4;
const RECEIVED: u8 = 5;
const LEG: u8 = 6;
const RESUME: u8 = 7;
const MOVE: u8 = 8;
const HOMEWARD_MAX: u8 = 31;
// To a node.
const DELIVER: u8 = 32;
const CLOSE: u8 = 33;
const BOUND: u8 = 34;
const KEEP: u8 = 35;
const FLUSH: u8 = 36;
const READY: u8 = 37;
const ANSWER: u8 = 38;
const COMPONENT: u8 = 39;
const TO_COMPONENT: u8 = 40;
const ACCOUNT: u8 = 41;
const SHADOW: u8 = 60;
const SHADOW_END: u8 = 61;
const FETCH: u8 = 42;
const ASKED: u8 = 43;
const FETCHED: u8 = 44;
const COMING: u8 = 45;
const MOVED: u8 = 46;
const STATE: u8 = 47;
const TAKE: u8 = 48;
// To a node, on the class of hand-overs.
const REPORT: u8 = 64;
const HANDED: u8 = 65;
const RELEASED: u8 = 66;

/// What the next home is told of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub id: SessionId,
    pub jid: Jid,
    pub keepsake: Vec<u8>,
    /// The last message that it got, by its uid; 0: none that is known.
    pub last: u64,
}

/// A stanza that an entity sent on, and no home has taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leg {
    /// What waits for it; number 0 where nothing does.
    pub origin: Origin,
    pub stanza: Stanza,
}

/// One of them. Sessions are named by their number in the process that holds their socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unit<'a> {
    /// To its home: a session sent this. `seq` as in [`Origin`].
    Stanza {
        session: u64,
        seq: u64,
        stanza: Stanza,
    },
    /// To the home of whom it is for. Done when it is stored where it has to be.
    Route { stanza: Stanza },
    /// To its home: a session binds this address.
    Bind {
        session: u64,
        jid: Jid,
        /// The account lives as long as the session.
        is_temporary: bool,
        /// The node of its socket knows by itself what is known of a new session.
        knows_new: bool,
    },
    /// To its home: a session is over; with what it never confirmed.
    End {
        session: u64,
        jid: Jid,
        is_confirmed: bool,
        stanzas: Vec<(u64, Stanza)>,
    },
    /// To its home: a client has these offline messages for good.
    Received { owner: Jid, ids: Vec<u64> },
    /// To the home of its sender: what that entity had sent on for a stanza of this session when it
    /// lived with whoever says so. It was handed over; this waits for it, and stands in for it
    /// should that home die.
    Leg {
        session: u64,
        seq: u64,
        stanza: Stanza,
    },
    /// To the home of an account: its client resumes the session of this id with the sender, where
    /// it will have that number.
    Resume {
        session: u64,
        account: Jid,
        id: ResumeId,
    },
    /// To the home of a session: it goes to another node, with another name.
    Move {
        session: u64,
        jid: Jid,
        to: SessionId,
    },
    /// To a node that may have a session: it is to go there.
    Fetch {
        account: Jid,
        id: ResumeId,
        to: SessionId,
        /// Only if nobody else has asked for it.
        is_pushed: bool,
    },
    /// To who asked for a session: these nodes were told to send it.
    Asked { session: u64, nodes: Vec<u32> },
    /// To who asked for a session: it does not come from here; what it had handled, if that is
    /// known.
    Fetched { session: u64, h: Option<u32> },
    /// To where a session goes: it has this address, and what it gets now follows.
    Coming { session: u64, jid: Jid },
    /// To where a session was: whether it has moved. All that it got before has been sent.
    Moved { session: u64, is_moved: bool },
    /// To where a session goes: part of what its former node has of it.
    State {
        session: u64,
        is_last: bool,
        part: &'a [u8],
    },
    /// To a node that shall fetch a session from the sender, which goes down.
    Take { account: Jid, id: ResumeId },
    /// To its socket: what the session gets, each stanza behind its offline id (0: none).
    Deliver { session: u64, packed: &'a [u8] },
    /// To its socket: the session is over.
    Close {
        session: u64,
        condition: StreamCondition,
        text: Option<&'a str>,
    },
    /// To its socket: whether it is bound.
    Bound {
        session: u64,
        refused: Option<StanzaError>,
    },
    /// To its socket: what the next home is to be told of the session.
    Keep { session: u64, keepsake: &'a [u8] },
    /// Done when all that was sent before has been taken.
    Flush,
    /// What was refused with "not yet" may be sent again.
    Ready { shards: Vec<u16> },
    /// To the node whose server has asked: an IQ result or error.
    Answer { stanza: Stanza },
    /// A component is connected here, or no longer.
    Component { domain: Jid, is_up: bool },
    /// To the node of a component.
    ToComponent { stanza: Stanza },
    /// An account was made, changed or deleted.
    Account { jid: Jid },
    /// To the shadow of a shard: a session of the sender, which is its home, too.
    Shadow {
        session: u64,
        jid: Jid,
        keepsake: &'a [u8],
    },
    /// To the shadow of a shard: it is over.
    ShadowEnd { session: u64, jid: Jid },
    /// To the home of these shards, each since that epoch: the sessions of them here. The last
    /// part says that these were all.
    Report {
        shards: Vec<(u16, u64)>,
        sessions: Vec<Known>,
        is_last: bool,
    },
    /// To the next home of a shard: part of what its former home knows.
    Handed {
        shard: u16,
        since: u64,
        sessions: Vec<Known>,
        legs: Vec<Leg>,
        /// What another home had handed to this one and is done: it may be brought again.
        ended: Vec<Origin>,
    },
    /// To the next home of a shard: it is released.
    Released {
        shard: u16,
        since: u64,
        /// No write of the former home can land any more.
        is_clean: bool,
        /// The last time at which a home of this shard died, 0: never; see
        /// [`super::taken::Taken`].
        dirty: u64,
        /// The former home's hybrid clock.
        clock: u64,
        /// When a home of this shard died last, ms since 1970, 0: not lately; see there.
        died_ms: u64,
    },
}

fn put_jid(jid: &Jid, out: &mut Vec<u8>) {
    put_bytes(jid.as_str().as_bytes(), out);
}

fn put_numbers(numbers: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    put_number(numbers.len() as u64, out);
    for number in numbers {
        put_number(number, out);
    }
}

fn numbers(from: &mut Unpacker<'_>) -> Result<Vec<u64>, Unreadable> {
    let count: usize = from.small()?;
    (0..count).map(|_| from.number()).collect()
}

fn put_known(sessions: &[Known], out: &mut Vec<u8>) {
    put_number(sessions.len() as u64, out);
    for known in sessions {
        put_number(u64::from(known.id.node), out);
        put_number(known.id.number, out);
        put_jid(&known.jid, out);
        put_bytes(&known.keepsake, out);
        put_number(known.last, out);
    }
}

fn known(from: &mut Unpacker<'_>) -> Result<Vec<Known>, Unreadable> {
    let count: usize = from.small()?;
    let one = |from: &mut Unpacker<'_>| {
        let id = SessionId {
            node: from.small()?,
            number: from.number()?,
        };
        let (jid, keepsake) = (from.jid()?, from.bytes()?.to_vec());
        let last = from.number()?;
        Ok(Known {
            id,
            jid,
            keepsake,
            last,
        })
    };
    (0..count).map(|_| one(from)).collect()
}

fn put_origin(origin: Origin, out: &mut Vec<u8>) {
    put_number(u64::from(origin.session.node), out);
    put_number(origin.session.number, out);
    put_number(origin.seq, out);
}

fn origin(from: &mut Unpacker<'_>) -> Result<Origin, Unreadable> {
    let session = SessionId {
        node: from.small()?,
        number: from.number()?,
    };
    let seq = from.number()?;
    Ok(Origin { session, seq })
}

fn origins(from: &mut Unpacker<'_>) -> Result<Vec<Origin>, Unreadable> {
    let count: usize = from.small()?;
    (0..count).map(|_| origin(from)).collect()
}

fn put_legs(legs: &[Leg], out: &mut Vec<u8>) {
    put_number(legs.len() as u64, out);
    for leg in legs {
        put_origin(leg.origin, out);
        leg.stanza.pack(out);
    }
}

fn legs(from: &mut Unpacker<'_>) -> Result<Vec<Leg>, Unreadable> {
    let count: usize = from.small()?;
    let one = |from: &mut Unpacker<'_>| {
        let origin = origin(from)?;
        let stanza = from.stanza()?;
        Ok(Leg { origin, stanza })
    };
    (0..count).map(|_| one(from)).collect()
}

/// Whether a unit may wait some milliseconds for others on a busy link: who logs in or has left
/// does not notice.
pub(super) fn is_patient(bytes: &[u8]) -> bool {
    matches!(bytes, [BIND | BOUND | END | KEEP | SHADOW | SHADOW_END, ..])
}

/// Whether its sender waits until it is taken.
pub(super) fn is_flush(bytes: &[u8]) -> bool {
    matches!(bytes, [FLUSH, ..])
}

/// Whether it is for a client of the node that gets it.
pub(super) fn is_delivery(bytes: &[u8]) -> bool {
    matches!(bytes, [DELIVER, ..])
}

/// Where the generation of a unit for a home stands.
const GENERATION: std::ops::Range<usize> = 3..7;

/// Bytes before the parts of a unit for a home: kind, shard, generation.
const HEAD: usize = GENERATION.end;

/// The shard whose home a unit is for, and its generation (see
/// [`antiphon_cluster::router::Send::generation`]); `None`: it is for the node itself.
pub(crate) fn head_of(bytes: &[u8]) -> Option<(u16, u32)> {
    match bytes {
        [kind, l, h, a, b, c, d, ..] if *kind <= HOMEWARD_MAX => Some((
            u16::from_le_bytes([*l, *h]),
            u32::from_le_bytes([*a, *b, *c, *d]),
        )),
        _ => None,
    }
}

/// The same unit, of another generation.
pub(crate) fn of_generation(bytes: &Bytes, generation: u32) -> Bytes {
    match head_of(bytes) {
        Some((_, other)) if other != generation => {
            let mut copy = bytes.to_vec();
            copy[GENERATION].copy_from_slice(&generation.to_le_bytes());
            copy.into()
        }
        _ => bytes.clone(),
    }
}

impl Unit<'_> {
    /// The bytes of one for the home of a shard.
    pub fn pack_for(&self, shard: u16) -> Bytes {
        self.pack_with(shard)
    }

    /// The bytes of one for a node.
    pub fn pack(&self) -> Bytes {
        self.pack_with(0)
    }

    /// Room for its bytes; of the rare ones, to begin with.
    fn size(&self) -> usize {
        /// Kind, shard, generation, session and number of the stanza.
        const HEADS: usize = HEAD + 20;
        match self {
            Self::Stanza { stanza, .. } | Self::Route { stanza } | Self::Leg { stanza, .. } => {
                HEADS + stanza.packed_size()
            }
            Self::Deliver { packed, .. } => HEADS + packed.len(),
            _ => 128,
        }
    }

    fn pack_with(&self, shard: u16) -> Bytes {
        let mut out = Vec::with_capacity(self.size());
        let [low, high] = shard.to_le_bytes();
        match self {
            Self::Stanza {
                session,
                seq,
                stanza,
            } => {
                out.extend([STANZA, low, high, 0, 0, 0, 0]);
                put_number(*session, &mut out);
                put_number(*seq, &mut out);
                stanza.pack(&mut out);
            }
            Self::Route { stanza } => {
                out.extend([ROUTE, low, high, 0, 0, 0, 0]);
                stanza.pack(&mut out);
            }
            Self::Bind {
                session,
                jid,
                is_temporary,
                knows_new,
            } => {
                out.extend([BIND, low, high, 0, 0, 0, 0, u8::from(*is_temporary)]);
                put_number(*session, &mut out);
                put_jid(jid, &mut out);
                out.push(u8::from(*knows_new));
            }
            Self::End {
                session,
                jid,
                is_confirmed,
                stanzas,
            } => {
                out.extend([END, low, high, 0, 0, 0, 0, u8::from(*is_confirmed)]);
                put_number(*session, &mut out);
                put_jid(jid, &mut out);
                put_number(stanzas.len() as u64, &mut out);
                for (at_ms, stanza) in stanzas {
                    put_number(*at_ms, &mut out);
                    stanza.pack(&mut out);
                }
            }
            Self::Received { owner, ids } => {
                out.extend([RECEIVED, low, high, 0, 0, 0, 0]);
                put_jid(owner, &mut out);
                put_numbers(ids.iter().copied(), &mut out);
            }
            Self::Leg {
                session,
                seq,
                stanza,
            } => {
                out.extend([LEG, low, high, 0, 0, 0, 0]);
                put_number(*session, &mut out);
                put_number(*seq, &mut out);
                stanza.pack(&mut out);
            }
            Self::Resume { .. } | Self::Move { .. } => self.pack_moving((low, high), &mut out),
            Self::Deliver { session, packed } => {
                out.push(DELIVER);
                put_number(*session, &mut out);
                out.extend_from_slice(packed);
            }
            Self::Keep { session, keepsake } => {
                out.push(KEEP);
                put_number(*session, &mut out);
                put_bytes(keepsake, &mut out);
            }
            Self::Answer { stanza } => {
                out.push(ANSWER);
                stanza.pack(&mut out);
            }
            Self::ToComponent { stanza } => {
                out.push(TO_COMPONENT);
                stanza.pack(&mut out);
            }
            Self::Close { .. } | Self::Bound { .. } => self.pack_error(&mut out),
            _ => self.pack_rare(&mut out),
        }
        out.into()
    }

    fn pack_rare(&self, out: &mut Vec<u8>) {
        match self {
            Self::Flush => out.push(FLUSH),
            Self::Ready { shards } => {
                out.push(READY);
                put_numbers(shards.iter().map(|s| u64::from(*s)), out);
            }
            Self::Component { domain, is_up } => {
                out.extend([COMPONENT, u8::from(*is_up)]);
                put_jid(domain, out);
            }
            Self::Shadow {
                session,
                jid,
                keepsake,
            } => {
                out.push(SHADOW);
                put_number(*session, out);
                put_jid(jid, out);
                put_bytes(keepsake, out);
            }
            Self::ShadowEnd { session, jid } => {
                out.push(SHADOW_END);
                put_number(*session, out);
                put_jid(jid, out);
            }
            Self::Account { jid } => {
                out.push(ACCOUNT);
                put_jid(jid, out);
            }
            Self::Fetch { .. }
            | Self::Asked { .. }
            | Self::Fetched { .. }
            | Self::Coming { .. }
            | Self::Moved { .. }
            | Self::State { .. }
            | Self::Take { .. } => self.pack_moving((0, 0), out),
            Self::Report {
                shards,
                sessions,
                is_last,
            } => {
                out.extend([REPORT, u8::from(*is_last)]);
                put_numbers(shards.iter().map(|(shard, _)| u64::from(*shard)), out);
                put_numbers(shards.iter().map(|(_, since)| *since), out);
                put_known(sessions, out);
            }
            Self::Handed {
                shard,
                since,
                sessions,
                legs,
                ended,
            } => {
                out.push(HANDED);
                put_number(u64::from(*shard), out);
                put_number(*since, out);
                put_known(sessions, out);
                put_legs(legs, out);
                put_number(ended.len() as u64, out);
                for origin in ended {
                    put_origin(*origin, out);
                }
            }
            Self::Released {
                shard,
                since,
                is_clean,
                dirty,
                clock,
                died_ms,
            } => {
                out.extend([RELEASED, u8::from(*is_clean)]);
                put_number(u64::from(*shard), out);
                for number in [since, dirty, clock, died_ms] {
                    put_number(*number, out);
                }
            }
            _ => {}
        }
    }

    fn pack_error(&self, out: &mut Vec<u8>) {
        let (kind, session, name, text) = match self {
            Self::Close {
                session,
                condition,
                text,
            } => (CLOSE, session, condition.name(), *text),
            Self::Bound { session, refused } => {
                let name = refused.as_ref().map_or("", |e| e.condition.name());
                let text = refused.as_ref().and_then(|e| e.text.as_deref());
                (BOUND, session, name, text)
            }
            _ => return,
        };
        out.push(kind);
        put_number(*session, out);
        put_bytes(name.as_bytes(), out);
        put_bytes(text.unwrap_or_default().as_bytes(), out);
    }
}

impl<'a> Unit<'a> {
    /// Reads what [`Unit::pack`] or [`Unit::pack_for`] wrote.
    ///
    /// # Errors
    /// [`Unreadable`]: another kind, or not all of it.
    pub fn unpack(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let mut from = Unpacker::new(bytes);
        let kind = from.byte()?;
        if kind <= HOMEWARD_MAX {
            for _ in 1..HEAD {
                from.byte()?;
            }
            return Self::unpack_homeward(kind, &mut from);
        }
        Ok(match kind {
            DELIVER => Self::Deliver {
                session: from.number()?,
                packed: from.rest(),
            },
            CLOSE => {
                let (session, name, text) = error(&mut from)?;
                let known = StreamCondition::ALL.iter().find(|c| c.name() == name);
                Self::Close {
                    session,
                    condition: known
                        .copied()
                        .unwrap_or(StreamCondition::InternalServerError),
                    text,
                }
            }
            BOUND => {
                let (session, name, text) = error(&mut from)?;
                let condition = StanzaCondition::from_name(name)
                    .unwrap_or(StanzaCondition::InternalServerError);
                let refused = (!name.is_empty()).then(|| {
                    let error = StanzaError::from(condition);
                    match text {
                        Some(text) => error.with_text(text),
                        None => error,
                    }
                });
                Self::Bound { session, refused }
            }
            KEEP => Self::Keep {
                session: from.number()?,
                keepsake: from.bytes()?,
            },
            ANSWER => Self::Answer {
                stanza: from.stanza()?,
            },
            TO_COMPONENT => Self::ToComponent {
                stanza: from.stanza()?,
            },
            _ => return Self::unpack_rare(kind, &mut from),
        })
    }

    fn unpack_homeward(kind: u8, from: &mut Unpacker<'a>) -> Result<Self, Unreadable> {
        Ok(match kind {
            STANZA => Self::Stanza {
                session: from.number()?,
                seq: from.number()?,
                stanza: from.stanza()?,
            },
            ROUTE => Self::Route {
                stanza: from.stanza()?,
            },
            BIND => {
                let is_temporary = from.byte()? != 0;
                Self::Bind {
                    session: from.number()?,
                    jid: from.jid()?,
                    is_temporary,
                    // Earlier versions do not say it.
                    knows_new: !from.is_empty() && from.byte()? != 0,
                }
            }
            END => {
                let is_confirmed = from.byte()? != 0;
                let (session, jid) = (from.number()?, from.jid()?);
                let count: usize = from.small()?;
                let mut stanzas = Vec::new();
                for _ in 0..count {
                    stanzas.push((from.number()?, from.stanza()?));
                }
                Self::End {
                    session,
                    jid,
                    is_confirmed,
                    stanzas,
                }
            }
            RECEIVED => Self::Received {
                owner: from.jid()?,
                ids: numbers(from)?,
            },
            RESUME => Self::Resume {
                session: from.number()?,
                account: from.jid()?,
                id: resume_id(from)?,
            },
            MOVE => Self::Move {
                session: from.number()?,
                jid: from.jid()?,
                to: session_id(from)?,
            },
            LEG => Self::Leg {
                session: from.number()?,
                seq: from.number()?,
                stanza: from.stanza()?,
            },
            _ => return Err(Unreadable),
        })
    }

    fn unpack_rare(kind: u8, from: &mut Unpacker<'a>) -> Result<Self, Unreadable> {
        Ok(match kind {
            FLUSH => Self::Flush,
            READY => Self::Ready {
                shards: shards(from)?,
            },
            COMPONENT => {
                let is_up = from.byte()? != 0;
                let domain = from.jid()?;
                Self::Component { domain, is_up }
            }
            ACCOUNT => Self::Account { jid: from.jid()? },
            SHADOW => Self::Shadow {
                session: from.number()?,
                jid: from.jid()?,
                keepsake: from.bytes()?,
            },
            SHADOW_END => Self::ShadowEnd {
                session: from.number()?,
                jid: from.jid()?,
            },
            FETCH..=TAKE => return Self::unpack_moving(kind, from),
            REPORT => {
                let is_last = from.byte()? != 0;
                let (shards, since) = (shards(from)?, numbers(from)?);
                if shards.len() != since.len() {
                    return Err(Unreadable);
                }
                Self::Report {
                    shards: shards.into_iter().zip(since).collect(),
                    sessions: known(from)?,
                    is_last,
                }
            }
            HANDED => Self::Handed {
                shard: from.small()?,
                since: from.number()?,
                sessions: known(from)?,
                legs: legs(from)?,
                // Earlier versions do not say it.
                ended: match from.is_empty() {
                    true => Vec::new(),
                    false => origins(from)?,
                },
            },
            RELEASED => {
                let is_clean = from.byte()? != 0;
                Self::Released {
                    shard: from.small()?,
                    since: from.number()?,
                    is_clean,
                    dirty: from.number()?,
                    clock: from.number()?,
                    // Earlier versions do not say it.
                    died_ms: match from.is_empty() {
                        true => 0,
                        false => from.number()?,
                    },
                }
            }
            _ => return Err(Unreadable),
        })
    }
}

fn shards(from: &mut Unpacker<'_>) -> Result<Vec<u16>, Unreadable> {
    let shard = |n: u64| u16::try_from(n).map_err(|_| Unreadable);
    numbers(from)?.into_iter().map(shard).collect()
}

fn error<'a>(from: &mut Unpacker<'a>) -> Result<(u64, &'a str, Option<&'a str>), Unreadable> {
    let session = from.number()?;
    let name = from.text()?;
    let text = from.text()?;
    Ok((session, name, Some(text).filter(|t| !t.is_empty())))
}

mod moving;

#[cfg(test)]
mod tests;
