//! Calls: what the node and Python ask of the entity.

use super::{Call, CallAnswer, SessionSummary, Turn, User};
use crate::effect::Local;
use antiphon_xmpp::stream::StreamCondition;
use antiphon_xmpp::{Jid, StanzaCondition, StanzaError};

impl User {
    pub(super) fn answer(&mut self, call: Call, t: &mut Turn) -> Result<CallAnswer, StanzaError> {
        match call {
            Call::Exists => return Ok(CallAnswer::Flag(self.is_there)),
            Call::MaySeePresence { by } => {
                return Ok(CallAnswer::Flag(self.may_see_presence(&by)));
            }
            Call::Sessions => return Ok(CallAnswer::Sessions(self.summaries())),
            _ if !self.is_there => return Err(StanzaCondition::ItemNotFound.into()),
            _ if self.is_off(&call) => {
                return Err(StanzaCondition::ServiceUnavailable.into());
            }
            _ => {}
        }
        match call {
            Call::RosterGet { session, ver } => self.roster_get(session, ver.as_deref()),
            Call::RosterSet { item } => self.roster_set(item, t),
            Call::RosterRemove { jid } => self.roster_remove(&jid, t),
            Call::BlockList { session } => self.block_list(session),
            Call::Block { jids } => self.block(jids, t),
            Call::Unblock { jids } => self.unblock(jids, t),
            Call::Carbons { session, enabled } => {
                let at = self.index(session).ok_or(StanzaCondition::ItemNotFound)?;
                let session = &mut self.sessions[at];
                // Enabling twice is no error and no new beginning (XEP-0280 #bizrules).
                session.carbons_since_ms = match (enabled, session.has_carbons()) {
                    (false, _) => u64::MAX,
                    (true, true) => session.carbons_since_ms,
                    (true, false) => t.now_ms,
                };
                self.note_change(at);
                Ok(CallAnswer::Done)
            }
            Call::LastActivity => Ok(CallAnswer::Activity {
                at_ms: self.last_seen_ms,
                status: self.last_status.to_string(),
                is_online: !self.sessions.is_empty(),
            }),
            Call::Kick {
                resource,
                condition,
            } => self.kick(resource.as_deref(), condition, t),
            Call::Removed => {
                self.remove_account(t);
                Ok(CallAnswer::Done)
            }
            Call::ArchivePrefs => self.prefs(t),
            Call::ArchivePrefsSet { prefs } => self.set_prefs(prefs, t),
            Call::ArchiveRead { from, upto } => {
                self.seen(from, upto, t);
                Ok(CallAnswer::Done)
            }
            Call::ArchiveOldDialect => {
                self.speaks_old_dialect();
                Ok(CallAnswer::Done)
            }
            Call::InboxSet { peer, change } => self.set_inbox(peer, change, t),
            Call::Exists | Call::MaySeePresence { .. } | Call::Sessions => Ok(CallAnswer::Done),
        }
    }

    /// Whether a call is about something that is turned off.
    fn is_off(&self, call: &Call) -> bool {
        match call {
            Call::BlockList { .. } | Call::Block { .. } | Call::Unblock { .. } => {
                !self.switches.is_blocking_on
            }
            Call::Carbons { .. } => !self.switches.is_carbons_on,
            _ => false,
        }
    }

    fn summaries(&self) -> Vec<SessionSummary> {
        let sessions = self.sessions.iter();
        sessions
            .map(|s| SessionSummary {
                session: s.id,
                jid: s.jid.clone(),
                priority: s.presence.as_ref().map(|p| p.priority),
                presence: s.presence.as_ref().map(|p| p.stanza(&s.jid).element()),
                has_carbons: s.has_carbons(),
            })
            .collect()
    }

    /// The sessions stay until the node has ended their streams and unbinds them.
    fn kick(
        &self,
        resource: Option<&str>,
        condition: StreamCondition,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        let mut is_found = resource.is_none();
        for session in &self.sessions {
            if resource.is_none() || resource == session.jid.resource() {
                is_found = true;
                t.fx.local.push(Local::Close {
                    session: session.id,
                    condition,
                });
            }
        }
        if is_found {
            Ok(CallAnswer::Done)
        } else {
            Err(StanzaCondition::ItemNotFound.into())
        }
    }

    /// Ends all that the account had with others. The store deletes what it holds of it by itself.
    fn remove_account(&mut self, t: &mut Turn) {
        let mut others: Vec<Jid> = self.roster.iter().map(|c| c.jid.clone()).collect();
        others.extend(self.requests.iter().map(|r| r.from.clone()));
        others.sort_unstable();
        others.dedup();
        for contact in &others {
            self.part_from(contact, t);
        }
        // Contacts have been told: what is left are the directed presences.
        self.roster.clear();
        for at in 0..self.sessions.len() {
            self.become_unavailable(at, None, t);
            let session = self.sessions[at].id;
            let condition = StreamCondition::NotAuthorized;
            t.fx.local.push(Local::Close { session, condition });
        }
        self.is_there = false;
        self.requests = Vec::new();
        self.blocked = super::BlockList::default();
        self.backlog = super::Backlog::new(0);
        self.archive = None;
        self.last_status = Box::default();
    }
}
