//! Sessions whose entity moves to another node: what the entity knows of a session is kept by the
//! node that holds its socket, and told to the next home.

use super::offline::Reading;
use super::presence::Available;
use super::{Policy, Session, Turn, User};
use crate::archive::{ArchiveId, ArchivedMessage, Flags, Recent};
use crate::effect::Effects;
use crate::session::SessionId;
use antiphon_xmpp::packed::{Unpacker, Unreadable, put_bytes, put_number};
use antiphon_xmpp::{Jid, Stanza, StanzaKind};

const INTERESTED: u8 = 1;
const WANTS_BLOCKS: u8 = 1 << 1;
const AVAILABLE: u8 = 1 << 2;
const STAMPED: u8 = 1 << 3;
/// Its offline messages are being read.
const READING: u8 = 1 << 4;
/// More follows, of which earlier versions know nothing: from where on it received, which offline
/// messages it has.
const FURTHER: u8 = 1 << 5;
/// Its former home lives: what waits behind its offline messages follows, and all else it was given.
const WHOLE: u8 = 1 << 6;

/// What [`User::keepsake`] says of a session that has only been bound: all that a node need know
/// that holds its socket, and it knows that by itself.
pub const NEW_KEEPSAKE: [u8; 3] = [0; 3];

/// Where a session began to receive, if an earlier version does not say it.
const UNKNOWN: ArchiveId = ArchiveId::MAX;

/// For how many directed presences there may be; more were refused when they were sent.
const DIRECTED_MAX: usize = 1_000_000;

/// Since when, where the last number of all says never.
fn put_since(since_ms: u64, out: &mut Vec<u8>) {
    put_number(since_ms.wrapping_add(1), out);
}

fn since(from: &mut Unpacker<'_>) -> Result<u64, Unreadable> {
    Ok(from.number()?.wrapping_sub(1))
}

impl Session {
    /// All that is in the archive so far reaches it, whatever becomes of this home.
    fn has_all(&mut self, newest: ArchiveId) {
        // What waits goes another way.
        let reading = self.reading.as_ref();
        let is_holding = reading.is_some_and(|r| !r.held().is_empty());
        if let Some(presence) = self.presence.as_mut().filter(|_| !is_holding) {
            presence.receiving_behind = newest;
        }
    }

    /// With `is_whole` it is told to its next home by this one, which lives.
    fn keepsake(&self, is_whole: bool) -> Vec<u8> {
        let presence = self.presence.as_deref();
        let reading = self.reading.as_deref();
        let handed = reading.map_or((0, 0), |r| r.handed);
        let is_reading = reading.is_some_and(Reading::is_on);
        let has_further = presence.is_some() || handed.1 > 0;
        let flags = [
            (self.is_interested, INTERESTED),
            (self.wants_blocks, WANTS_BLOCKS),
            (presence.is_some(), AVAILABLE),
            (presence.is_some_and(|p| p.is_stamped), STAMPED),
            (is_reading, READING),
            (has_further, FURTHER),
            (is_whole && has_further, WHOLE),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set);
        let mut out = vec![flags.fold(0, |all, (_, flag)| all | flag)];
        put_since(self.carbons_since_ms, &mut out);
        put_number(self.directed.len() as u64, &mut out);
        for jid in &self.directed {
            put_bytes(jid.as_str().as_bytes(), &mut out);
        }
        if let Some(presence) = presence {
            out.push(presence.priority.cast_unsigned());
            put_number(presence.at_ms, &mut out);
            put_since(presence.receiving_since_ms, &mut out);
            presence.stanza(&self.jid).pack(&mut out);
        }
        if has_further {
            let behind = presence.map_or(0, |p| p.receiving_behind.0);
            for number in [behind, handed.0, handed.1] {
                put_number(number, &mut out);
            }
        }
        if is_whole && has_further {
            let held = reading.map_or(&[][..], Reading::held);
            put_number(held.len() as u64, &mut out);
            for (at_ms, stanza) in held {
                put_number(*at_ms, &mut out);
                stanza.pack(&mut out);
            }
        }
        out
    }
}

/// The node of a session's socket knows which offline message it was given last (0: none), and adds
/// it to what a home that died had told it.
pub fn note_handed(keepsake: &mut Vec<u8>, last: u64) {
    put_number(last, keepsake);
}

impl User {
    /// All that is known of a session beyond its name and address, to be handed to
    /// [`User::rebind`] of the same entity elsewhere. `None`: there is no such session.
    #[must_use]
    pub fn keepsake(&self, session: SessionId) -> Option<Vec<u8>> {
        Some(self.sessions[self.index(session)?].keepsake(false))
    }

    /// The entity goes on elsewhere while its node lives: of each session its address, what the node
    /// of its socket keeps, and what its next home is told, which has the messages too that wait
    /// behind the offline messages.
    pub fn hand_over(&mut self) -> Vec<(SessionId, Jid, Vec<u8>, Vec<u8>)> {
        let newest = self.newest();
        let sessions = self.sessions.iter_mut().map(|session| {
            session.has_all(newest);
            let (kept, told) = (session.keepsake(false), session.keepsake(true));
            (session.id, session.jid.clone(), kept, told)
        });
        sessions.collect()
    }

    /// Takes up a session that was bound while the entity lived elsewhere. Nobody is told: for its
    /// contacts nothing has changed. One that is here already stays as it is; of two with one
    /// address the newer one stays, and its elder is in `replaced`.
    ///
    /// # Errors
    /// [`Unreadable`]: the keepsake says nothing; the session is not taken up.
    pub fn rebind(
        &mut self,
        id: SessionId,
        jid: &Jid,
        keepsake: &[u8],
    ) -> Result<Rebound, Unreadable> {
        if self.index(id).is_some() {
            return Ok(Rebound::Done);
        }
        if !self.is_there {
            return Ok(Rebound::NoAccount);
        }
        let session = read(id, jid, keepsake)?;
        // Numbers of nodes and of sessions grow: the newer session won, wherever it is.
        let older = self.session_by_jid(jid).map(|at| self.sessions[at].id);
        match older {
            Some(other) if other > id => return Ok(Rebound::Replaced(id)),
            Some(other) => self.sessions.retain(|s| s.id != other),
            None => {}
        }
        self.sessions.reserve_exact(1);
        self.sessions.push(session);
        Ok(older.map_or(Rebound::Done, Rebound::Replaced))
    }

    /// A session goes on under another name: a client resumes it on another node (XEP-0198
    /// #resumption). Nobody is told: for its contacts nothing has changed. `false`: neither name is
    /// known.
    pub fn move_session(
        &mut self,
        old: SessionId,
        new: SessionId,
        p: &Policy,
        fx: &mut Effects,
    ) -> bool {
        let Some(at) = self.index(old) else {
            return self.index(new).is_some();
        };
        if self.index(new).is_some() {
            // Both were told of by their nodes.
            self.sessions.remove(at);
            return true;
        }
        self.sessions[at].id = new;
        self.tell_again(new);
        if self.is_reading(at) {
            // The page that is on its way finds nobody.
            let mut t = Turn {
                now_ms: 0,
                origin: None,
                policy: p,
                fx,
            };
            self.read_offline(at, &mut t);
        }
        true
    }

    /// A session whose socket was at its home goes on elsewhere, with all that it was given.
    pub fn has_all(&mut self, session: SessionId) {
        let newest = self.newest();
        if let Some(at) = self.index(session) {
            self.sessions[at].has_all(newest);
        }
    }

    /// Whether this session is bound here.
    #[must_use]
    pub fn has_session(&self, id: SessionId) -> bool {
        self.index(id).is_some()
    }

    /// Behind which message of the archive a session lacks what came, whose former home has died,
    /// as its keepsake tells and `last`, the uid of the last message that its node was given for it
    /// (0: none). `None`: it lacks nothing, or nobody knows.
    #[must_use]
    pub fn missed_behind(&self, session: SessionId, last: u64) -> Option<ArchiveId> {
        let session = &self.sessions[self.index(session)?];
        let presence = session.presence.as_ref();
        let behind = presence.filter(|p| p.priority >= 0)?.receiving_behind;
        let reading = session.reading.as_ref();
        if !self.switches.is_archive_on || reading.is_some_and(|r| !r.held().is_empty()) {
            // Of one that was handed over, all that it lacks is here.
            return None;
        }
        let behind = match (last, behind) {
            (0, behind) => behind,
            (_, UNKNOWN) => self.place_of(last)?,
            (_, behind) => self.place_of(last)?.max(behind),
        };
        (behind < self.newest()).then_some(behind)
    }

    /// The place of a received message among those that a former home had stored last.
    fn place_of(&self, uid: u64) -> Option<ArchiveId> {
        let past = &self.archive.as_ref()?.past;
        // What was given late has its place for a uid.
        let is_it = |r: &&Recent| !r.is_out && (r.uid.0 == uid || r.id.0 == uid);
        past.iter().find(is_it).map(|r| r.id)
    }

    /// Goes on with the reading of offline messages where a session's former home had come to.
    pub fn read_on(&mut self, session: SessionId, p: &Policy, fx: &mut Effects) {
        let at = self.index(session);
        if let Some(at) = at.filter(|at| self.is_reading(*at)) {
            let mut t = Turn {
                now_ms: 0,
                origin: None,
                policy: p,
                fx,
            };
            self.read_offline(at, &mut t);
        }
    }

    /// Gives a session what a former home had stored for it and died before it gave it: messages
    /// of its archive, oldest first. They come behind the offline messages, whose own are left out.
    pub fn catch_up(
        &mut self,
        session: SessionId,
        messages: Vec<ArchivedMessage>,
        p: &Policy,
        fx: &mut Effects,
    ) {
        let is_receiving = |presence: &Available| presence.priority >= 0;
        let Some(at) = self.index(session) else {
            return;
        };
        if !self.sessions[at]
            .presence
            .as_deref()
            .is_some_and(is_receiving)
        {
            return;
        }
        let jid = self.sessions[at].jid.clone();
        let mut t = Turn {
            now_ms: 0,
            origin: None,
            policy: p,
            fx,
        };
        for message in messages {
            if message.flags.has(Flags::OUT) || message.flags.has(Flags::WAITED) {
                continue;
            }
            let stanza = Stanza::from_bytes(&message.stanza).ok();
            let is_for_another =
                |s: &Stanza| s.to.as_ref().is_some_and(|to| !to.is_bare() && *to != jid);
            let stanza = stanza.filter(|s| !is_for_another(s));
            let stanza = stanza.filter(|s| !s.from.as_ref().is_some_and(|f| self.is_blocked(f)));
            let Some(stanza) = stanza else {
                continue;
            };
            let at_ms = message.id.ms();
            let stanza = self.stamped(stanza, at_ms);
            let mut stanza = self.identified(stanza, message.id, &t);
            stanza.uid = message.id.0;
            self.hand(at, stanza, at_ms, &mut t);
        }
    }

    /// The address of a session.
    #[must_use]
    pub fn jid_of(&self, session: SessionId) -> Option<&Jid> {
        self.index(session).map(|at| &self.sessions[at].jid)
    }

    /// All sessions, with their addresses.
    #[must_use]
    pub fn sessions(&self) -> Vec<(SessionId, Jid)> {
        let sessions = self.sessions.iter();
        sessions.map(|s| (s.id, s.jid.clone())).collect()
    }

    /// The sessions that the entity knows something new of since this was last asked; not those
    /// that are [`NEW_KEEPSAKE`] still, of which many a session never becomes more. They count as
    /// told.
    pub fn take_changed(&mut self) -> impl Iterator<Item = SessionId> + '_ {
        let has_changed = std::mem::take(&mut self.has_changed);
        let sessions = self.sessions.iter_mut().filter(move |_| has_changed);
        sessions.filter_map(|s| {
            let is_news = std::mem::take(&mut s.is_changed) && (s.is_told || !s.is_new());
            s.is_told |= is_news;
            is_news.then_some(s.id)
        })
    }

    /// Whether another node may have been told of a session.
    #[must_use]
    pub fn was_told(&self, session: SessionId) -> bool {
        self.index(session)
            .is_none_or(|at| self.sessions[at].is_told)
    }

    /// Has [`User::take_changed`] name a session, whatever is known of it: the node that holds its
    /// socket knows nothing yet.
    pub fn tell_again(&mut self, session: SessionId) {
        if let Some(at) = self.index(session) {
            self.sessions[at].is_told = true;
            self.note_change(at);
        }
    }

    /// Notes that a session's keepsake is another one now.
    pub(super) fn note_change(&mut self, at: usize) {
        self.has_changed = true;
        self.sessions[at].is_changed = true;
    }
}

/// What became of a session that its entity was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebound {
    /// It is known.
    Done,
    /// This one has lost its address to a newer session and is to be ended with `conflict`.
    Replaced(SessionId),
    /// The account is gone.
    NoAccount,
}

fn read(id: SessionId, jid: &Jid, keepsake: &[u8]) -> Result<Session, Unreadable> {
    let mut from = Unpacker::new(keepsake);
    let flags = from.byte()?;
    let carbons_since_ms = since(&mut from)?;
    let count: usize = from.small()?;
    let mut directed = Vec::new();
    for _ in 0..count.min(DIRECTED_MAX) {
        directed.push(from.jid()?);
    }
    let presence = if flags & AVAILABLE == 0 {
        None
    } else {
        let priority = from.byte()?.cast_signed();
        let at_ms = from.number()?;
        let receiving_since_ms = since(&mut from)?;
        let stanza = from.stanza()?;
        if stanza.kind != StanzaKind::Presence {
            return Err(Unreadable);
        }
        Some(Box::new(Available {
            id: stanza.id,
            lang: stanza.lang,
            extra: stanza.extra,
            payload: stanza.payload,
            priority,
            at_ms,
            receiving_since_ms,
            receiving_behind: UNKNOWN,
            is_stamped: flags & STAMPED != 0,
        }))
    };
    let mut session = Session {
        id,
        jid: jid.clone(),
        presence,
        directed,
        carbons_since_ms,
        reading: None,
        is_interested: flags & INTERESTED != 0,
        wants_blocks: flags & WANTS_BLOCKS != 0,
        is_changed: false,
        is_told: true,
    };
    read_further(&mut from, flags, &mut session)?;
    Ok(session)
}

/// What earlier versions do not say: from where on it received, and its offline messages.
fn read_further(
    from: &mut Unpacker<'_>,
    flags: u8,
    session: &mut Session,
) -> Result<(), Unreadable> {
    let mut handed = (0, 0);
    if flags & FURTHER != 0 {
        let behind = ArchiveId(from.number()?);
        if let Some(presence) = &mut session.presence {
            presence.receiving_behind = behind;
        }
        handed = (from.number()?, from.number()?);
    }
    let mut is_reading = flags & READING != 0;
    let mut held = Vec::new();
    if flags & WHOLE != 0 {
        for _ in 0..from.number()? {
            held.push((from.number()?, from.stanza()?));
        }
    } else if !from.is_empty() {
        // What its former home had on the way is gone with it, and is read again.
        let last = from.number()?;
        is_reading |= last < handed.1;
        handed = match last {
            last if last <= handed.0 => (0, 0),
            last => (handed.0, last),
        };
    }
    is_reading &= session.is_receiving();
    session.reading = Reading::of_former_home(is_reading, handed, held);
    Ok(())
}
