//! What of a message is archived (XEP-0313 #archives), under which id, and what else follows from
//! it: the inbox, tombstones, messages that are sent again.

use super::keeping::is_worth_keeping;
use super::{CallAnswer, Turn, User};
use crate::archive::{
    ARCHIVE_PREFS_MAX, ArchiveDefault, ArchiveId, ArchivePrefs, ArchiveRecord, ArchiveState,
    BOX_ARCHIVE, DOUBTFUL, Edit, Flags, InboxChange, InboxEffect, RESENT, Recent, Reference,
    id_hash,
};
use crate::effect::Local;
use crate::session::SessionId;
use crate::store::Write;
use antiphon_xmpp::stanza::ChildRef;
use antiphon_xmpp::xml::writer::write_attr;
use antiphon_xmpp::{Jid, Stanza, StanzaCondition, StanzaError, ns};
use std::collections::VecDeque;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Messages of which the entity remembers that it archived them, lest they be sent again.
const REMEMBERED: usize = 128;
/// Of those received, at most, where more than [`REMEMBERED`] came within [`DOUBT_MS`].
const REMEMBERED_MAX: usize = 4096;
/// The same of those sent: what a session can have unsaved (64 KiB), in short messages.
const SENT_MAX: usize = 512;
/// How long a message without an origin-id is known by its `id` and content. Clients that count
/// their ids from 1 on every stream would lose a greeting of the next day otherwise.
const KNOWN_BY_CONTENT_MS: u64 = 30 * 60 * 1000;

/// The same behind a home that died: for as long as it takes until what it had not called done is
/// brought again.
const DOUBT_MS: u64 = 60 * 1000;

/// The archive's part of an entity; there once there is anything to know.
#[derive(Debug, Default)]
pub(super) struct Archive {
    newest: ArchiveId,
    prefs: Option<ArchivePrefs>,
    /// Sent by sessions of this process, oldest first.
    sent: VecDeque<SentBefore>,
    /// How many of those are of other sessions than the last one.
    others: usize,
    /// In a cluster, the last ones received, oldest first: see [`DOUBTFUL`].
    received: VecDeque<Received>,
    /// What the store said after an unclean end.
    pub(super) past: Vec<Recent>,
    /// See [`ArchiveState::filed`].
    filed: Vec<u64>,
    /// See [`super::Call::ArchiveOldDialect`].
    speaks_old: bool,
}

/// A message that came in.
#[derive(Debug, Clone, Copy)]
struct Received {
    dup: u64,
    id: ArchiveId,
    uid: ArchiveId,
}

/// A message whose acknowledgement may not have reached its sender.
#[derive(Debug)]
struct SentBefore {
    dup: u64,
    uid: ArchiveId,
    session: SessionId,
}

impl Archive {
    pub fn new(state: ArchiveState) -> Option<Box<Self>> {
        if state == ArchiveState::default() {
            return None;
        }
        Some(Box::new(Self {
            newest: state.newest,
            prefs: state.prefs,
            sent: VecDeque::new(),
            others: 0,
            received: VecDeque::new(),
            past: state.recent,
            filed: state.filed,
            speaks_old: false,
        }))
    }

    fn remember(&mut self, sent: SentBefore) {
        if sent.dup == 0 {
            return;
        }
        if self.sent.back().is_some_and(|s| s.session != sent.session) {
            self.count_others(sent.session);
        }
        while self.sent.len() >= REMEMBERED
            && let Some(first) = self.sent.front()
            && (self.sent.len() >= SENT_MAX || is_older(first.uid, sent.uid))
        {
            self.others -= usize::from(first.session != sent.session);
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
    }

    fn count_others(&mut self, session: SessionId) {
        let others = self.sent.iter().filter(|s| s.session != session);
        self.others = others.count();
    }

    /// Whether there is no message of another stream than this.
    fn is_all_of(&self, session: SessionId) -> bool {
        self.others == 0 && self.sent.back().is_none_or(|s| s.session == session)
    }

    /// The uid under which a message was archived before, on another stream than this.
    fn find(&self, dup: u64, session: SessionId, now_ms: u64) -> Option<ArchiveId> {
        if dup == 0 {
            return None;
        }
        let here = (!self.is_all_of(session)).then_some(&self.sent);
        let mut here = here
            .into_iter()
            .flat_map(|sent| sent.iter().rev())
            .filter(|s| s.session != session)
            .map(|s| (s.dup, s.uid));
        let mut past = self
            .past
            .iter()
            .filter(|r| r.is_out)
            .map(|r| (r.dup, r.uid));
        let found = |(known, uid): (u64, ArchiveId)| {
            (known == dup && is_fresh(dup, uid, now_ms)).then_some(uid)
        };
        here.find_map(found).or_else(|| past.find_map(found))
    }
}

/// By what a message that is sent again is known: its origin-id (XEP-0359), else its `id` and
/// content; 0: by nothing. The lowest bit tells the two apart.
fn dup_of(stanza: &Stanza) -> u64 {
    let bare = |jid: &Option<Jid>| jid.as_ref().map_or(0, |j| xxh3_64(j.bare_str().as_bytes()));
    let pair = bare(&stanza.from).rotate_left(1) ^ bare(&stanza.to);
    let seeded = |seed: u64, bytes: &[u8]| xxh3_64_with_seed(bytes, seed);
    if let Some(id) = attr_of(stanza, ns::SID, "origin-id", "id") {
        return seeded(pair, id.as_bytes()) | 1;
    }
    let Some(id) = &stanza.id else { return 0 };
    let seed = seeded(!pair, id.as_bytes());
    let hash = seeded(seed, &stanza.payload.content) & !1;
    hash.max(2)
}

fn is_origin_id(dup: u64) -> bool {
    dup & 1 == 1
}

/// Whether a message of this uid may still be known by this.
fn is_fresh(dup: u64, uid: ArchiveId, now_ms: u64) -> bool {
    is_origin_id(dup) || uid.ms().saturating_add(KNOWN_BY_CONTENT_MS) > now_ms
}

/// Whether the first came more than a minute before the second.
fn is_older(first: ArchiveId, second: ArchiveId) -> bool {
    first.ms().saturating_add(DOUBT_MS) < second.ms()
}

/// An attribute of a direct child.
fn attr_of(stanza: &Stanza, ns: &str, name: &str, attr: &str) -> Option<String> {
    if !stanza.has(ns, name) {
        return None;
    }
    stanza.child(ns, name)?.attr(attr).map(str::to_owned)
}

/// Takes the ids away that only the archive of `owner` may give (XEP-0359 #rules).
fn without_forged_ids(stanza: Stanza, owner: &Jid) -> Stanza {
    let is_id = |child: &ChildRef| {
        child.ns == ns::SID && child.name == "stanza-id"
            || child.ns == ns::MAM_TMP && child.name == "archived"
    };
    if !stanza.payload.children.iter().any(is_id) {
        return stanza;
    }
    let is_ours = |by: &str| Jid::parse(by).is_ok_and(|by| by == *owner);
    let is_forged = |child: &ChildRef| {
        is_id(child)
            && stanza
                .parse(child)
                .is_none_or(|e| e.attr("by").is_none_or(is_ours))
    };
    let children = stanza.payload.children.iter();
    let forged: Vec<_> = children
        .filter(|c| is_forged(c))
        .map(|c| c.span.clone())
        .collect();
    if forged.is_empty() {
        return stanza;
    }
    stanza.retain(|child| !forged.contains(&child.span))
}

/// A message on its way into the archive.
struct Entry<'a> {
    id: ArchiveId,
    uid: ArchiveId,
    peer: Jid,
    flags: Flags,
    dup: u64,
    stanza: &'a Stanza,
    offline_at_ms: Option<u64>,
}

impl User {
    /// Takes away what only this archive may say of a message.
    pub(super) fn without_forged_ids(&self, stanza: Stanza) -> Stanza {
        without_forged_ids(stanza, &self.jid)
    }

    fn archive_mut(&mut self) -> &mut Archive {
        self.archive.get_or_insert_default()
    }

    fn keeps_archive(&self) -> bool {
        self.is_there && self.switches.is_archive_on
    }

    /// Whether messages with this address are archived (XEP-0441 #rules): what is said of the full
    /// address before what is said of the bare one, `never` before `always`.
    fn archives_with(&self, peer: &Jid, t: &Turn) -> bool {
        let prefs = self.archive.as_ref().and_then(|a| a.prefs.as_ref());
        let mut default = t.policy.archive_default;
        if let Some(prefs) = prefs {
            default = prefs.default;
            let bare = peer.bare();
            for jid in [peer, &bare] {
                if prefs.never.binary_search(jid).is_ok() {
                    return false;
                }
                if prefs.always.binary_search(jid).is_ok() {
                    return true;
                }
            }
        }
        match default {
            ArchiveDefault::Always => true,
            ArchiveDefault::Never => false,
            ArchiveDefault::Roster => self.roster.get(&peer.bare()).is_some(),
        }
    }

    /// Archives what one of the user's sessions sends, and gives it its uid. A note to himself is
    /// archived when it comes in.
    pub(super) fn archive_sent(
        &mut self,
        session: SessionId,
        stanza: &mut Stanza,
        t: &mut Turn,
    ) -> Option<ArchiveId> {
        let to = stanza.to.clone()?;
        if !self.keeps_archive() || to.bare_str() == self.jid.as_str() {
            return None;
        }
        self.read_by_marker(stanza, &to.bare(), t);
        let kind = is_worth_keeping(stanza)?;
        if !self.archives_with(&to, t) {
            return None;
        }
        let dup = dup_of(stanza);
        if let Some(uid) = self.sent_before(dup, session, t) {
            stanza.uid = uid.0 | RESENT;
            return Some(uid);
        }
        let id = t.policy.clock.next(t.now_ms);
        stanza.uid = id.0 | (stanza.uid & DOUBTFUL);
        let entry = Entry {
            id,
            uid: id,
            peer: to.bare(),
            flags: kind.and(Flags::OUT),
            dup,
            stanza,
            offline_at_ms: None,
        };
        self.record(entry, t);
        self.note_sent(dup, id, session, t);
        Some(id)
    }

    fn sent_before(&self, dup: u64, session: SessionId, t: &Turn) -> Option<ArchiveId> {
        self.archive.as_ref()?.find(dup, session, t.now_ms)
    }

    /// A stream that is not counted leaves no doubt that only an origin-id clears up.
    fn note_sent(&mut self, dup: u64, uid: ArchiveId, session: SessionId, t: &Turn) {
        if t.origin.is_some() || is_origin_id(dup) {
            self.archive_mut()
                .remember(SentBefore { dup, uid, session });
        }
    }

    /// Whether [`User::archive_received`] would archive it.
    pub(super) fn is_archived_in(&self, stanza: &Stanza, t: &Turn) -> bool {
        self.keeps_archive()
            && is_worth_keeping(stanza).is_some()
            && stanza
                .from
                .as_ref()
                .is_some_and(|from| self.archives_with(from, t))
    }

    /// Archives a message that the user gets; it comes back with its id. `offline_at_ms`: nobody
    /// takes it now, and it waits as an offline message too.
    pub(super) fn archive_received(
        &mut self,
        mut stanza: Stanza,
        offline_at_ms: Option<u64>,
        t: &mut Turn,
    ) -> Stanza {
        if !self.keeps_archive() {
            return stanza;
        }
        let (Some(kind), Some(from)) = (is_worth_keeping(&stanza), stanza.from.clone()) else {
            return stanza;
        };
        if !self.archives_with(&from, t) {
            return stanza;
        }
        // A note to himself: one record for both directions, nothing unread.
        let sender = (from.bare_str() == self.jid.as_str()).then(|| {
            let at = self.session_by_jid(&from);
            at.map_or_else(SessionId::default, |at| self.sessions[at].id)
        });
        let mut flags = kind;
        let dup = dup_of(&stanza);
        if let Some(session) = sender {
            flags = kind.and(Flags::OUT);
            if let Some(uid) = self.sent_before(dup, session, t) {
                return self.identified(stanza, uid, t);
            }
        }
        let is_again = stanza.uid & RESENT != 0;
        let is_doubtful = stanza.uid & DOUBTFUL != 0;
        let uid = ArchiveId(stanza.uid & !(RESENT | DOUBTFUL));
        if let Some(known) = self.known(uid, dup, t.now_ms) {
            // Delivered under the uid of its record, by which a next home finds it.
            stanza.uid = known.uid.0;
            return self.identified(stanza, known.id, t);
        }
        // One that the sender's archive knows may have gone there under another uid, from a home
        // that died.
        let before = (is_again || is_doubtful).then(|| self.received_before(dup, uid));
        let before = before.flatten();
        let shown = before.map(|before| (before.uid, before.id));
        let (id, named, shown) = self.places_for(uid, is_again, shown, t);
        let entry = Entry {
            id,
            uid: named,
            peer: from.bare(),
            flags,
            dup,
            stanza: &stanza,
            offline_at_ms,
        };
        self.record(entry, t);
        stanza.uid = named.0;
        match sender {
            _ if before.is_some() => {}
            Some(session) => self.note_sent(dup, id, session, t),
            None if t.policy.clock.is_shared() => self.note_received(dup, id, named),
            None => {}
        }
        self.identified(stanza, shown, t)
    }

    /// The id of a received message, its uid, and the id under which it is shown. `before`: uid and
    /// id of a message that may be the same.
    fn places_for(
        &self,
        uid: ArchiveId,
        is_again: bool,
        before: Option<(ArchiveId, ArchiveId)>,
        t: &Turn,
    ) -> (ArchiveId, ArchiveId, ArchiveId) {
        if let Some((uid, id)) = before {
            // Its record may be on its way still: this one is done when that is, and the store drops
            // it, or keeps it in a place of its own where it refused that.
            return (t.policy.clock.next(t.now_ms), uid, id);
        }
        let id = self.place_for(uid, is_again, t);
        let named = if uid.0 == 0 { id } else { uid };
        // What was archived before has the uid for its id; the store drops the second record.
        (id, named, if is_again { uid } else { id })
    }

    /// The place of a received message: its uid, where nothing came behind that.
    fn place_for(&self, uid: ArchiveId, is_again: bool, t: &Turn) -> ArchiveId {
        match uid > self.newest() && !is_again {
            true => uid,
            false => t.policy.clock.next(t.now_ms),
        }
    }

    /// A message that a home stored which then died, with its place there, and whether it waits as an
    /// offline message. Its sender's home brings it again since that one never called it done: then
    /// whoever was here may not have got it, and the store, which has its record, makes no offline
    /// message of it.
    pub(super) fn left_behind(&self, stanza: &Stanza, t: &Turn) -> Option<Recent> {
        let is_own = |from: &Jid| from.bare_str() == self.jid.as_str();
        let has_past = self.archive.as_ref().is_some_and(|a| !a.past.is_empty());
        if !has_past
            || !t.policy.clock.is_shared()
            || stanza.uid & RESENT != 0
            || stanza.from.as_ref().is_some_and(is_own)
            || !self.is_archived_in(stanza, t)
        {
            return None;
        }
        let uid = ArchiveId(stanza.uid & !DOUBTFUL);
        self.known(uid, dup_of(stanza), t.now_ms)
    }

    /// A message that a former home stored waits as an offline message from now on.
    pub(super) fn note_waits(&mut self, id: ArchiveId) {
        let past = self.archive.iter_mut().flat_map(|a| &mut a.past);
        for recent in past.filter(|r| r.id == id) {
            recent.has_waited = true;
        }
    }

    fn received_before(&self, dup: u64, uid: ArchiveId) -> Option<Received> {
        let received = &self.archive.as_ref()?.received;
        let is_fresh =
            |r: &&Received| is_origin_id(dup) || r.id.ms().saturating_add(DOUBT_MS) > uid.ms();
        let same = received.iter().find(|r| r.dup == dup && r.uid == uid);
        let found = same.or_else(|| received.iter().find(|r| r.dup == dup));
        found.filter(is_fresh).copied().filter(|_| dup != 0)
    }

    fn note_received(&mut self, dup: u64, id: ArchiveId, uid: ArchiveId) {
        if dup == 0 {
            return;
        }
        let received = &mut self.archive_mut().received;
        while received.len() >= REMEMBERED
            && let Some(first) = received.front()
            && (received.len() >= REMEMBERED_MAX || is_older(first.id, id))
        {
            received.pop_front();
        }
        received.push_back(Received { dup, id, uid });
        if received.capacity() > 4 * received.len().max(REMEMBERED) {
            received.shrink_to_fit();
        }
    }

    /// A received message that the store had when the last process died: by its uid, or, where the
    /// sender's archive had not got that far, as the sender's would know it.
    /// The uid alone does not tell where more is known: nodes share it out in lanes, which may be
    /// dealt anew.
    fn known(&self, uid: ArchiveId, dup: u64, now_ms: u64) -> Option<Recent> {
        let past = &self.archive.as_ref()?.past;
        let is_it = |r: &&Recent| {
            let is_same = dup != 0 && r.dup == dup && is_fresh(dup, r.uid, now_ms);
            let is_its = uid.0 != 0 && r.uid == uid && (r.dup == dup || r.dup == 0);
            is_its || (!r.is_out && is_same)
        };
        past.iter().find(is_it).copied()
    }

    /// The message with its place in this archive (XEP-0359).
    pub(super) fn identified(&self, stanza: Stanza, id: ArchiveId, t: &Turn) -> Stanza {
        let id = id.text(&self.jid, t.policy.archive_key);
        let write = |ns: &str, name: &str| {
            let mut child = Vec::with_capacity(128);
            child.push(b'<');
            child.extend_from_slice(name.as_bytes());
            write_attr("xmlns", ns, &mut child);
            write_attr("by", self.jid.as_str(), &mut child);
            write_attr("id", &id, &mut child);
            child.extend_from_slice(b"/>");
            child
        };
        let stanza = stanza.with_written(ns::SID, "stanza-id", &write(ns::SID, "stanza-id"));
        if !self.archive.as_ref().is_some_and(|a| a.speaks_old) {
            return stanza;
        }
        // XEP-0313 0.2 §3: what told a live message's place before XEP-0359.
        let archived = write(ns::MAM_TMP, "archived");
        stanza.with_written(ns::MAM_TMP, "archived", &archived)
    }

    /// See [`super::Call::ArchiveOldDialect`].
    pub(super) fn speaks_old_dialect(&mut self) {
        self.archive_mut().speaks_old = true;
    }

    fn record(&mut self, entry: Entry, t: &mut Turn) {
        let Entry {
            id,
            uid,
            peer,
            flags,
            dup,
            stanza,
            offline_at_ms,
        } = entry;
        let newest = &mut self.archive_mut().newest;
        *newest = id.max(*newest);
        let is_out = flags.has(Flags::OUT);
        let inbox = match (
            self.switches.is_inbox_on && flags.has(Flags::COUNTS),
            is_out,
        ) {
            (false, _) => InboxEffect::None,
            (true, true) => InboxEffect::Sent,
            (true, false) => InboxEffect::Received,
        };
        let record = ArchiveRecord {
            id,
            uid,
            peer: peer.clone(),
            flags: match offline_at_ms {
                Some(_) => flags.and(Flags::WAITED),
                None => flags,
            },
            mid: stanza.id.as_deref().map_or(0, id_hash),
            dup,
            stanza: stanza.to_bytes().into(),
            inbox,
            offline_at_ms,
        };
        self.archive_write(
            Write::Archive {
                owner: self.jid.clone(),
                record: Box::new(record),
            },
            Some(stanza),
            t,
        );
        self.edit(stanza, &peer, is_out, t);
        if inbox != InboxEffect::None {
            self.bring_back(&peer, t);
        }
    }

    fn archive_write(&self, write: Write, refused: Option<&Stanza>, t: &mut Turn) {
        t.fx.local.push(Local::Store {
            write,
            origin: t.origin,
            refused: refused.map(|stanza| Box::new(stanza.clone())),
        });
    }

    /// Retractions (XEP-0424) and corrections (XEP-0308) change what was said before, by the same
    /// side of the same conversation.
    fn edit(&self, stanza: &Stanza, peer: &Jid, is_out: bool, t: &mut Turn) {
        let (id, edit) = if let Some(id) = attr_of(stanza, ns::RETRACT, "retract", "id") {
            let own = stanza.id.clone();
            (
                id,
                Edit::Retract {
                    at_ms: t.now_ms,
                    id: own,
                },
            )
        } else if let Some(id) = attr_of(stanza, ns::CORRECT, "replace", "id") {
            (id, Edit::Supersede)
        } else {
            return;
        };
        let write = Write::ArchiveEdit {
            owner: self.jid.clone(),
            peer: peer.clone(),
            is_out,
            target: self.reference(&id, t),
            edit,
        };
        self.archive_write(write, None, t);
    }

    /// Messages name each other by `id`, and some clients by the id in the archive.
    fn reference(&self, id: &str, t: &Turn) -> Reference {
        ArchiveId::parse(id, &self.jid, t.policy.archive_key)
            .map_or_else(|| Reference::Mid(id_hash(id)), Reference::Id)
    }

    /// A marker that the user sends says how far he has read (XEP-0333; `acknowledged` is of its
    /// older texts).
    fn read_by_marker(&self, stanza: &Stanza, peer: &Jid, t: &mut Turn) {
        if !self.switches.is_inbox_on || !stanza.has_ns(ns::MARKERS) {
            return;
        }
        let names = ["displayed", "acknowledged"];
        let mut ids = names
            .iter()
            .filter_map(|name| attr_of(stanza, ns::MARKERS, name, "id"));
        let Some(id) = ids.next() else { return };
        let write = Write::InboxRead {
            owner: self.jid.clone(),
            peer: peer.clone(),
            upto: self.reference(&id, t),
        };
        self.archive_write(write, None, t);
    }

    /// A message brings a conversation back from the box `archive`.
    fn bring_back(&mut self, peer: &Jid, t: &mut Turn) {
        let Some(archive) = self.archive.as_mut().filter(|a| !a.filed.is_empty()) else {
            return;
        };
        if let Ok(at) = archive.filed.binary_search(&id_hash(peer.as_str())) {
            archive.filed.remove(at);
            let (owner, peer) = (self.jid.clone(), peer.clone());
            t.fx.local.push(Local::InboxMoved { owner, peer });
        }
    }

    /// The client has ended this session's stream in order, so it has read what it was told: it
    /// sends nothing again. Before [`User::unbind`].
    pub fn confirmed(&mut self, session: SessionId) {
        if let Some(archive) = &mut self.archive {
            archive.sent.retain(|s| s.session != session);
            match archive.sent.back().map(|s| s.session) {
                Some(last) => archive.count_others(last),
                None => (archive.sent, archive.others) = (VecDeque::new(), 0),
            }
        }
    }

    /// Whether messages are remembered whose acknowledgement may not have reached their sender.
    #[must_use]
    pub fn may_be_resent(&self) -> bool {
        self.archive.as_ref().is_some_and(|a| !a.sent.is_empty())
    }

    /// The newest id in the archive.
    #[must_use]
    pub fn newest(&self) -> ArchiveId {
        self.archive
            .as_ref()
            .map_or(ArchiveId::default(), |a| a.newest)
    }

    pub(super) fn prefs(&self, t: &Turn) -> Result<CallAnswer, StanzaError> {
        if !self.switches.is_archive_on {
            return Err(StanzaCondition::ServiceUnavailable.into());
        }
        let set = self.archive.as_ref().and_then(|a| a.prefs.clone());
        Ok(CallAnswer::ArchivePrefs(set.unwrap_or(ArchivePrefs {
            default: t.policy.archive_default,
            always: Vec::new(),
            never: Vec::new(),
        })))
    }

    pub(super) fn set_prefs(
        &mut self,
        mut prefs: ArchivePrefs,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        if !self.switches.is_archive_on {
            return Err(StanzaCondition::ServiceUnavailable.into());
        }
        for list in [&mut prefs.always, &mut prefs.never] {
            list.sort_unstable();
            list.dedup();
        }
        if prefs.always.len() + prefs.never.len() > ARCHIVE_PREFS_MAX {
            let error = StanzaError::from(StanzaCondition::ResourceConstraint);
            return Err(error.with_text("too many addresses in the preferences"));
        }
        self.archive_mut().prefs = Some(prefs.clone());
        t.fx.store(Write::ArchivePrefs {
            owner: self.jid.clone(),
            prefs: prefs.clone(),
        });
        Ok(CallAnswer::ArchivePrefs(prefs))
    }

    pub(super) fn set_inbox(
        &mut self,
        peer: Jid,
        change: InboxChange,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        if !self.switches.is_inbox_on {
            return Err(StanzaCondition::ServiceUnavailable.into());
        }
        let peer = peer.bare();
        if let Some(in_box) = &change.in_box {
            let hash = id_hash(peer.as_str());
            let is_filed = &**in_box == BOX_ARCHIVE;
            let filed = &mut self.archive_mut().filed;
            match (filed.binary_search(&hash), is_filed) {
                (Err(at), true) => filed.insert(at, hash),
                (Ok(at), false) => {
                    filed.remove(at);
                }
                (Ok(_), true) | (Err(_), false) => {}
            }
        }
        t.fx.store(Write::InboxSet {
            owner: self.jid.clone(),
            peer,
            change,
        });
        Ok(CallAnswer::Done)
    }
}
