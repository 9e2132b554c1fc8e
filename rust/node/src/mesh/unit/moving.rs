//! The kinds about sessions that go from one node to another.

use super::{
    ASKED, COMING, FETCH, FETCHED, MOVE, MOVED, RESUME, STATE, TAKE, Unit, numbers, put_jid,
    put_numbers,
};
use crate::sessions::ResumeId;
use antiphon_routing::SessionId;
use antiphon_xmpp::packed::{Unpacker, Unreadable, put_bytes, put_number};

fn put_session(id: SessionId, out: &mut Vec<u8>) {
    put_number(u64::from(id.node), out);
    put_number(id.number, out);
}

pub(super) fn session_id(from: &mut Unpacker<'_>) -> Result<SessionId, Unreadable> {
    Ok(SessionId {
        node: from.small()?,
        number: from.number()?,
    })
}

pub(in super::super) fn resume_id(from: &mut Unpacker<'_>) -> Result<ResumeId, Unreadable> {
    ResumeId::try_from(from.bytes()?).map_err(|_| Unreadable)
}

fn nodes(from: &mut Unpacker<'_>) -> Result<Vec<u32>, Unreadable> {
    let node = |n: u64| u32::try_from(n).map_err(|_| Unreadable);
    numbers(from)?.into_iter().map(node).collect()
}

impl Unit<'_> {
    pub(super) fn pack_moving(&self, (low, high): (u8, u8), out: &mut Vec<u8>) {
        match self {
            Self::Resume {
                session,
                account,
                id,
            } => {
                out.extend([RESUME, low, high, 0, 0, 0, 0]);
                put_number(*session, out);
                put_jid(account, out);
                put_bytes(id, out);
            }
            Self::Move { session, jid, to } => {
                out.extend([MOVE, low, high, 0, 0, 0, 0]);
                put_number(*session, out);
                put_jid(jid, out);
                put_session(*to, out);
            }
            Self::Fetch {
                account,
                id,
                to,
                is_pushed,
            } => {
                out.extend([FETCH, u8::from(*is_pushed)]);
                put_jid(account, out);
                put_bytes(id, out);
                put_session(*to, out);
            }
            Self::Asked { session, nodes } => {
                out.push(ASKED);
                put_number(*session, out);
                put_numbers(nodes.iter().map(|n| u64::from(*n)), out);
            }
            Self::Fetched { session, h } => {
                out.push(FETCHED);
                put_number(*session, out);
                // 0: unknown.
                put_number(h.map_or(0, |h| u64::from(h) + 1), out);
            }
            Self::Coming { session, jid } => {
                out.push(COMING);
                put_number(*session, out);
                put_jid(jid, out);
            }
            Self::Moved { session, is_moved } => {
                out.extend([MOVED, u8::from(*is_moved)]);
                put_number(*session, out);
            }
            Self::State {
                session,
                is_last,
                part,
            } => {
                out.extend([STATE, u8::from(*is_last)]);
                put_number(*session, out);
                out.extend_from_slice(part);
            }
            Self::Take { account, id } => {
                out.push(TAKE);
                put_jid(account, out);
                put_bytes(id, out);
            }
            _ => {}
        }
    }
}

impl<'a> Unit<'a> {
    pub(super) fn unpack_moving(kind: u8, from: &mut Unpacker<'a>) -> Result<Self, Unreadable> {
        Ok(match kind {
            FETCH => {
                let is_pushed = from.byte()? != 0;
                Self::Fetch {
                    account: from.jid()?,
                    id: resume_id(from)?,
                    to: session_id(from)?,
                    is_pushed,
                }
            }
            ASKED => Self::Asked {
                session: from.number()?,
                nodes: nodes(from)?,
            },
            FETCHED => {
                let (session, h) = (from.number()?, from.number()?);
                let h = h.checked_sub(1).map(u32::try_from).transpose();
                Self::Fetched {
                    session,
                    h: h.map_err(|_| Unreadable)?,
                }
            }
            COMING => Self::Coming {
                session: from.number()?,
                jid: from.jid()?,
            },
            MOVED => {
                let is_moved = from.byte()? != 0;
                Self::Moved {
                    session: from.number()?,
                    is_moved,
                }
            }
            STATE => {
                let is_last = from.byte()? != 0;
                Self::State {
                    session: from.number()?,
                    is_last,
                    part: from.rest(),
                }
            }
            TAKE => Self::Take {
                account: from.jid()?,
                id: resume_id(from)?,
            },
            _ => return Err(Unreadable),
        })
    }
}
