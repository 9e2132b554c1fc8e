//! Offline messages (XEP-0160): what is kept, and how it is read back in order.

use super::subscription::bounce;
use super::{Session, Turn, User};
use crate::archive::ArchiveId;
use crate::effect::Local;
use crate::session::SessionId;
use crate::store::{OfflineRecord, Write};
use antiphon_xmpp::stanza::ChildRef;
use antiphon_xmpp::{Element, Jid, Stanza, StanzaCondition, ns};
use std::ops::Range;

/// Most messages that wait behind a read for one session, and their bytes.
const HELD_STANZAS: usize = 256;
const HELD_BYTES: usize = 1 << 20;
/// The latter in a cluster: they go with their session to the next home, in one unit of a link.
const HELD_BYTES_SHARED: usize = 1 << 18;

/// What the entity knows of the messages in the store.
#[derive(Debug)]
pub(super) struct Backlog {
    /// How many were stored and not yet handed to a session; never too low for long.
    stored: u64,
    /// A session that was handed some has gone: there may be more than `stored` says.
    is_unsure: bool,
}

impl Backlog {
    pub fn new(stored: u64) -> Self {
        Self {
            stored,
            is_unsure: false,
        }
    }
}

/// How far the reading of offline messages for a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Progress {
    /// None is under way.
    #[default]
    Idle,
    /// Under way; messages to the session wait behind it.
    Holding,
    /// Under way; too many came to wait, so they go past it.
    Flowing,
}

/// Offline messages on their way to one session.
#[derive(Debug, Default)]
pub(super) struct Reading {
    progress: Progress,
    /// Ids handed to the session: above the first, up to the second.
    pub handed: (u64, u64),
    /// What waits, with the time of arrival.
    held: Vec<(u64, Stanza)>,
    held_bytes: usize,
}

impl Reading {
    /// What a former home has said of it.
    pub fn of_former_home(
        is_reading: bool,
        handed: (u64, u64),
        held: Vec<(u64, Stanza)>,
    ) -> Option<Box<Self>> {
        let progress = match is_reading {
            true => Progress::Holding,
            false => Progress::Idle,
        };
        let is_any = is_reading || handed.1 > 0;
        is_any.then(|| {
            Box::new(Self {
                progress,
                handed,
                held_bytes: held.iter().map(|(_, stanza)| bytes_of(stanza)).sum(),
                held,
            })
        })
    }

    /// Whether it is under way.
    pub fn is_on(&self) -> bool {
        self.progress != Progress::Idle
    }

    /// What waits, with the time of arrival.
    pub fn held(&self) -> &[(u64, Stanza)] {
        &self.held
    }

    /// Lets a message wait; gives it back with all that waited when there is no more room.
    fn hold(&mut self, at_ms: u64, stanza: Stanza, most_bytes: usize) -> Vec<(u64, Stanza)> {
        self.held_bytes += bytes_of(&stanza);
        self.held.push((at_ms, stanza));
        if self.held.len() <= HELD_STANZAS && self.held_bytes <= most_bytes {
            return Vec::new();
        }
        self.progress = Progress::Flowing;
        self.release()
    }

    fn release(&mut self) -> Vec<(u64, Stanza)> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    fn note(&mut self, id: u64) {
        if self.handed.1 == 0 {
            self.handed.0 = id.saturating_sub(1);
        }
        self.handed.1 = self.handed.1.max(id);
    }
}

/// What a message costs that waits: here, or on its way to the next home.
fn bytes_of(stanza: &Stanza) -> usize {
    stanza.size().max(stanza.packed_size())
}

/// What became of a message that no session takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Stored,
    Dropped,
    Bounced,
}

/// Whether a message is worth storing (XEP-0160 #types, XEP-0334 #hints).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Store,
    /// Not wanted later, and nobody misses it.
    Drop,
    /// Content that must not be stored: the sender has to know that it did not arrive.
    Refuse,
}

fn worth(stanza: &Stanza) -> Worth {
    let has_content = stanza.payload.children.iter().any(is_content);
    if stanza.has(ns::HINTS, "no-store") {
        return if has_content {
            Worth::Refuse
        } else {
            Worth::Drop
        };
    }
    if has_content || stanza.has(ns::HINTS, "store") {
        Worth::Store
    } else {
        Worth::Drop
    }
}

/// Whether a child says anything by itself. Chat states do not (XEP-0160 #types), nor do what
/// accompanies a message: hints, ids, stamps, threads, requests for receipts and markers.
fn is_content(child: &ChildRef) -> bool {
    match &*child.ns {
        ns::CHAT_STATES | ns::HINTS | ns::SID | ns::DELAY | ns::CARBONS => false,
        ns::CLIENT => &*child.name != "thread",
        ns::RECEIPTS => &*child.name != "request",
        ns::MARKERS => &*child.name != "markable",
        _ => true,
    }
}

/// `<delay/>` of XEP-0203.
pub(super) fn delay(from: &str, at_ms: u64) -> Element {
    Element::new(ns::DELAY, "delay")
        .with_attr("from", from)
        .with_attr("stamp", stamp(at_ms))
}

/// XEP-0082 #profiles-datetime, in UTC.
fn stamp(at_ms: u64) -> String {
    let (seconds, ms) = (at_ms / 1000, at_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Proleptic Gregorian calendar, in years that begin with March, eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let leap_days = day_of_era / 1_460 + day_of_era / 146_096;
    let year_of_era = (day_of_era + day_of_era / 36_524 - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

impl User {
    /// Delivers a message that came at `at_ms` to a session, behind the offline messages that are
    /// being read for it.
    pub(super) fn hand(&mut self, at: usize, stanza: Stanza, at_ms: u64, t: &mut Turn) {
        let session = &mut self.sessions[at];
        match session
            .reading
            .as_mut()
            .filter(|r| r.progress == Progress::Holding)
        {
            None => t.fx.deliver(session.id, stanza),
            Some(reading) => {
                let most_bytes = match t.policy.clock.is_shared() {
                    true => HELD_BYTES_SHARED,
                    false => HELD_BYTES,
                };
                for (_, stanza) in reading.hold(at_ms, stanza, most_bytes) {
                    t.fx.deliver(session.id, stanza);
                }
            }
        }
    }

    /// Whether an archived message that no session takes also waits as an offline message; it is
    /// counted then. One that finds no room is in the archive all the same.
    pub(super) fn wait(&mut self, stanza: &Stanza, t: &Turn) -> bool {
        let limit = t.policy.offline_messages;
        let has_room = limit == 0 || self.backlog.stored < limit;
        let waits = self.switches.is_offline_on && has_room && worth(stanza) == Worth::Store;
        self.backlog.stored += u64::from(waits);
        waits
    }

    /// As [`User::wait`] for one whose record is in the archive already, and does not say that it
    /// waits: it does so with its content.
    pub(super) fn wait_again(&mut self, stanza: &Stanza, id: ArchiveId, t: &mut Turn) {
        if !self.wait(stanza, t) {
            return;
        }
        self.note_waits(id);
        let write = Write::OfflineAppend {
            owner: self.jid.clone(),
            at_ms: t.now_ms,
            stanza: stanza.to_bytes().into(),
        };
        t.fx.local.push(Local::Store {
            write,
            origin: t.origin,
            refused: None,
        });
    }

    /// The client has these messages from its archive: what of them waits is not handed out again.
    /// How many that are only the store knows.
    pub(super) fn seen(&mut self, from: ArchiveId, upto: ArchiveId, t: &mut Turn) {
        if self.backlog.stored == 0 && !self.backlog.is_unsure {
            return;
        }
        self.backlog.is_unsure = true;
        let owner = self.jid.clone();
        t.fx.store(Write::OfflineSeen { owner, from, upto });
    }

    /// Stores a message that no session takes, or says why not (XEP-0160 #flow). `at_ms` is when
    /// it came.
    pub(super) fn keep(&mut self, stanza: &Stanza, at_ms: u64, t: &mut Turn) -> Kept {
        let limit = t.policy.offline_messages;
        let has_room = limit == 0 || self.backlog.stored < limit;
        match worth(stanza) {
            Worth::Drop => return Kept::Dropped,
            Worth::Store if self.is_there && self.switches.is_offline_on && has_room => {}
            Worth::Store | Worth::Refuse => {
                bounce(stanza, StanzaCondition::ServiceUnavailable, t);
                return Kept::Bounced;
            }
        }
        self.backlog.stored += 1;
        let refused = Some(Box::new(stanza.clone()));
        let owner = self.jid.clone();
        let write = Write::OfflineAppend {
            owner,
            at_ms,
            stanza: stanza.to_bytes().into(),
        };
        t.fx.local.push(Local::Store {
            write,
            origin: t.origin,
            refused,
        });
        Kept::Stored
    }

    /// Whether offline messages are being read for a session.
    pub(super) fn is_reading(&self, at: usize) -> bool {
        let reading = self.sessions[at].reading.as_ref();
        reading.is_some_and(|r| r.is_on())
    }

    /// Asks for the offline messages, for a session that takes messages (XEP-0160 #flow, rule 5),
    /// unless there are none or another session is getting them. A session that is getting them
    /// asks again behind what it has: should a page have been lost, this finds it.
    pub(super) fn read_offline(&mut self, at: usize, t: &mut Turn) {
        let is_reading = self.is_reading(at);
        let has_some = self.backlog.stored > 0 || self.backlog.is_unsure;
        if !is_reading && (!has_some || (0..self.sessions.len()).any(|at| self.is_reading(at))) {
            return;
        }
        let session = &mut self.sessions[at];
        let reading = session.reading.get_or_insert_default();
        let mut after = 0;
        if is_reading {
            after = reading.handed.1;
        } else {
            reading.progress = Progress::Holding;
            self.note_change(at);
        }
        let (owner, session) = (self.jid.clone(), self.sessions[at].id);
        t.fx.local.push(Local::ReadOffline {
            owner,
            session,
            after,
        });
    }

    /// Takes a page of offline messages; see [`User::offline_loaded`].
    pub(super) fn take_page(
        &mut self,
        session: SessionId,
        records: Vec<OfflineRecord>,
        t: &mut Turn,
    ) {
        let Some(at) = self.index(session) else {
            return;
        };
        let reading = self.sessions[at].reading.as_ref();
        if !reading.is_some_and(|r| r.is_on()) {
            // It has gone away in between: the next one reads them.
            self.backlog.is_unsure |= !records.is_empty();
            return;
        }
        let Some(last) = records.last().map(|r| r.id) else {
            return self.all_read(at, t);
        };
        let mut useless = Vec::new();
        for record in records {
            if self.is_handed(record.id) {
                continue;
            }
            self.backlog.stored = self.backlog.stored.saturating_sub(1);
            let stanza = Stanza::from_bytes(&record.stanza).ok();
            // XEP-0191 #block: nothing is delivered any more, also what came before the block.
            let stanza = stanza.filter(|s| !s.from.as_ref().is_some_and(|f| self.is_blocked(f)));
            let Some(stanza) = stanza else {
                useless.push(record.id);
                continue;
            };
            let mut stanza = self.stamped(stanza, record.at_ms);
            if let Some(id) = record.archived {
                stanza = self.identified(stanza, id, t);
            }
            if let Some(reading) = self.sessions[at].reading.as_mut() {
                reading.note(record.id);
            }
            t.fx.local.push(Local::Deliver {
                session,
                stanza,
                offline: Some(record.id),
            });
        }
        let owner = self.jid.clone();
        if !useless.is_empty() {
            t.fx.store(Write::OfflineDelete {
                owner: owner.clone(),
                ids: useless,
            });
        }
        t.fx.local.push(Local::ReadOffline {
            owner,
            session,
            after: last,
        });
    }

    /// There are no more offline messages: what waited behind them follows.
    fn all_read(&mut self, at: usize, t: &mut Turn) {
        // Fewer than there should be: a write or a read has failed. The next one looks again.
        self.backlog.is_unsure = self.backlog.stored > 0;
        self.backlog.stored = 0;
        let session = &mut self.sessions[at];
        if let Some(reading) = &mut session.reading {
            reading.progress = Progress::Idle;
            for (_, stanza) in reading.release() {
                t.fx.deliver(session.id, stanza);
            }
        }
        self.note_change(at);
    }

    /// Whether a live session has got this record; it is deleted once its client confirms.
    fn is_handed(&self, id: u64) -> bool {
        let mut readings = self.sessions.iter().filter_map(|s| s.reading.as_ref());
        readings.any(|r| r.handed.0 < id && id <= r.handed.1)
    }

    /// The session takes no messages any more: what waited goes elsewhere.
    pub(super) fn pause_reading(&mut self, at: usize, t: &mut Turn) {
        let Some(reading) = self.sessions[at].reading.as_mut() else {
            return;
        };
        reading.progress = Progress::Idle;
        for (at_ms, stanza) in reading.release() {
            self.redeliver(at_ms, stanza, t);
        }
    }

    /// The session is gone: what it did not confirm is read for another one, and what waited for
    /// it goes elsewhere, behind that.
    pub(super) fn end_reading(&mut self, mut reading: Reading, t: &mut Turn) {
        self.backlog.is_unsure |= reading.handed.1 > 0;
        if let Some(at) = self.sessions.iter().position(Session::is_receiving) {
            self.read_offline(at, t);
        }
        for (at_ms, stanza) in reading.release() {
            self.redeliver(at_ms, stanza, t);
        }
    }

    /// The message with the time of its arrival, unless it has that already (XEP-0203).
    pub(super) fn stamped(&self, stanza: Stanza, at_ms: u64) -> Stanza {
        if self.own_delays(&stanza).is_empty() {
            stanza.with_child(&delay(self.jid.domain(), at_ms))
        } else {
            stanza
        }
    }

    /// Takes away delay stamps in the name of this server, which nobody else may give (XEP-0203
    /// #security). Costs a look at the children's namespaces where there is none.
    pub(super) fn without_forged_delay(&self, stanza: Stanza) -> Stanza {
        let forged = self.own_delays(&stanza);
        if forged.is_empty() {
            return stanza;
        }
        stanza.retain(|child| !forged.contains(&child.span))
    }

    /// Where the delay stamps of this server are.
    fn own_delays(&self, stanza: &Stanza) -> Vec<Range<u32>> {
        let domain = self.jid.domain();
        // As receivers compare addresses: without case, and prepared (RFC 7622 §3.2).
        let is_ours = |from: &str| {
            let is_alike = |jid: Jid| jid.is_domain() && jid.domain() == domain;
            from == domain || Jid::parse(from).is_ok_and(is_alike)
        };
        let is_own = |child: &ChildRef| {
            child.ns == ns::DELAY
                && child.name == "delay"
                && stanza
                    .parse(child)
                    .is_some_and(|e| e.attr("from").is_some_and(is_ours))
        };
        let children = stanza.payload.children.iter();
        children
            .filter(|child| is_own(child))
            .map(|child| child.span.clone())
            .collect()
    }
}
