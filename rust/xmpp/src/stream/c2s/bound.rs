//! After login: binding, stanzas, stream management and client state.

use super::{Action, BIND_ATTEMPTS, Owed, Phase, Stream};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Stanza, StanzaCondition, StanzaError, StanzaKind};
use crate::stream::check::{self, Verdict};
use crate::stream::error::{StreamCondition, StreamError};
use crate::stream::framing::Outgoing;
use crate::stream::sm::{self, SmEnabled, SmFailed};
use crate::xml::Element;
use crate::xml::reader::Address;

/// The longest SM id we would have given out (XEP-0198 #resumption: no more than 4000 bytes).
const MAX_PREVID_BYTES: usize = 4000;

/// `xs:boolean`, absent is false (XEP-0198, note 1).
fn boolean(value: Option<&str>) -> Option<bool> {
    match value.map(str::trim) {
        None | Some("0" | "false") => Some(false),
        Some("1" | "true") => Some(true),
        Some(_) => None,
    }
}

/// `xs:unsignedInt`
fn count(value: Option<&str>) -> Option<u32> {
    value?.trim().parse().ok()
}

/// `xs:positiveInteger`, which has no upper end: more than we can count is a very long time.
fn seconds(value: &str) -> Option<u32> {
    let digits = value.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX)).filter(|seconds| *seconds > 0)
}

fn is_request_in(stanza: &Stanza, ns: &str, name: &str) -> bool {
    stanza.kind == StanzaKind::Iq && stanza.type_str() == "set" && stanza.has(ns, name)
}

impl Stream {
    /// The first stanza after login must bind a resource; anything else is refused whomever it is
    /// for, which RFC 6120 §7.1 leaves to us for the server and the account itself.
    pub(super) fn on_bind(&mut self, stanza: Stanza, out: &mut Outgoing) -> Option<Action> {
        if !is_request_in(&stanza, ns::BIND, "bind") {
            return self.fail(StreamCondition::NotAuthorized, out);
        }
        let account = self.account.clone()?;
        let resource = match check::check(&stanza) {
            Verdict::Pass => asked_resource(&stanza, &account),
            Verdict::Refuse(error) => Err(error),
            Verdict::Drop => return None,
        };
        match resource {
            Ok(resource) => {
                self.owed = Some(Owed::Bind(Box::new(stanza)));
                Some(Action::Bind { account, resource })
            }
            Err(error) => {
                self.refuse_bind(&stanza, &error, out);
                None
            }
        }
    }

    pub(super) fn on_bound(
        &mut self,
        iq: &Stanza,
        result: Result<Jid, StanzaError>,
        out: &mut Outgoing,
    ) {
        match result {
            Ok(jid) => {
                let text = jid.as_str().to_owned();
                let child = Element::new(ns::BIND, "jid").with_text(text);
                let bind = Element::new(ns::BIND, "bind").with_child(child);
                let mut answer = iq.result();
                // What the client called itself before it had a resource is no address.
                answer.to = None;
                out.write_stanza(&answer.with_child(&bind));
                self.start_session(jid);
            }
            Err(error) => self.refuse_bind(iq, &error, out),
        }
    }

    fn start_session(&mut self, jid: Jid) {
        self.session = Some(jid);
        self.phase = Phase::Bound;
        self.claimed = None;
        self.channel = None;
    }

    fn refuse_bind(&mut self, iq: &Stanza, error: &StanzaError, out: &mut Outgoing) {
        if let Some(mut answer) = iq.error(error) {
            answer.to = None;
            out.write_stanza(&answer);
        }
        self.count_failed_bind(out);
    }

    /// RFC 6120 §7.7.3.
    fn count_failed_bind(&mut self, out: &mut Outgoing) {
        self.failed_binds += 1;
        if self.failed_binds >= BIND_ATTEMPTS {
            let error = StreamError::from(StreamCondition::PolicyViolation)
                .with_text("too many failed attempts to bind a resource");
            self.fail(error, out);
        }
    }

    /// A stanza of a session (RFC 6120 §8.1.2.1).
    pub(super) fn on_stanza(&mut self, mut stanza: Stanza, out: &mut Outgoing) -> Option<Action> {
        let session = self.session.clone()?;
        if !is_own(stanza.from.as_ref(), &session) {
            return self.fail(StreamCondition::InvalidFrom, out);
        }
        stanza.from = Some(session);
        let verdict = match check::check(&stanza) {
            Verdict::Pass if stanza.kind == StanzaKind::Iq => self.check_own_iq(&stanza),
            verdict => verdict,
        };
        if verdict != Verdict::Pass {
            return Some(Action::Answer(check::answer(&stanza, &verdict)));
        }
        if is_request_in(&stanza, ns::SESSION, "session") && self.is_for_server(&stanza) {
            // RFC 3921 §3: there is nothing to establish.
            return Some(Action::Answer(Some(stanza.result())));
        }
        Some(Action::Stanza(stanza))
    }

    /// A stream has one resource: a second bind is `not-allowed` (RFC 6120 §7.6.2.2).
    fn check_own_iq(&self, stanza: &Stanza) -> Verdict {
        if is_request_in(stanza, ns::BIND, "bind") && self.is_for_server(stanza) {
            Verdict::Refuse(StanzaCondition::NotAllowed.into())
        } else {
            Verdict::Pass
        }
    }

    fn is_for_server(&self, stanza: &Stanza) -> bool {
        let Some(to) = &stanza.to else { return true };
        self.account.as_ref().is_some_and(|account| {
            to == account || (to.is_domain() && to.domain() == account.domain())
        })
    }

    pub(super) fn on_malformed(
        &mut self,
        mut stanza: Stanza,
        which: Address,
        out: &mut Outgoing,
    ) -> Option<Action> {
        let session = self.session.clone()?;
        if which == Address::From || !is_own(stanza.from.as_ref(), &session) {
            return self.fail(StreamCondition::InvalidFrom, out);
        }
        stanza.from = Some(session);
        let error = StanzaError::new(StanzaCondition::JidMalformed);
        Some(Action::Answer(stanza.error(&error)))
    }

    pub(super) fn on_sm(&mut self, element: &Element, out: &mut Outgoing) -> Option<Action> {
        let is_offered = self.offers(|host| host.is_sm_on);
        match &*element.name {
            // What XEP-0198 #resumption says to one who does not support it.
            "enable" | "resume" if !is_offered && self.account.is_some() => {
                sm_failed(StanzaCondition::FeatureNotImplemented.into(), out)
            }
            "enable" => self.on_sm_enable(element, out),
            "resume" => self.on_sm_resume(element, out),
            "r" | "a" if !self.is_sm_on => {
                sm_failed(StanzaCondition::UnexpectedRequest.into(), out)
            }
            "r" => Some(Action::SmRequest),
            "a" => match count(element.attr("h")) {
                Some(h) => Some(Action::SmAck(h)),
                // The schema is broken, and with it the count that both sides rely on.
                None => self.fail(StreamCondition::InvalidXml, out),
            },
            _ => self.fail(StreamCondition::UnsupportedStanzaType, out),
        }
    }

    /// XEP-0198 #enable: once, and only behind binding.
    fn on_sm_enable(&mut self, element: &Element, out: &mut Outgoing) -> Option<Action> {
        if self.phase != Phase::Bound || self.is_sm_on || self.is_closing {
            return sm_failed(StanzaCondition::UnexpectedRequest.into(), out);
        }
        let max = element.attr("max").map(seconds);
        let (Some(resume), false) = (boolean(element.attr("resume")), max == Some(None)) else {
            return sm_failed(StanzaCondition::BadRequest.into(), out);
        };
        self.owed = Some(Owed::SmEnable);
        Some(Action::SmEnable {
            resume: resume && self.config.sm_resume_seconds > 0,
            max: max.flatten(),
        })
    }

    pub(super) fn on_sm_enabled(
        &mut self,
        result: Result<SmEnabled, StanzaCondition>,
        out: &mut Outgoing,
    ) {
        match result {
            Ok(enabled) => {
                out.write_element(&enabled.element());
                self.is_sm_on = true;
            }
            Err(condition) => {
                sm_failed(condition.into(), out);
            }
        }
    }

    /// XEP-0198 #resumption: after login, instead of binding.
    fn on_sm_resume(&mut self, element: &Element, out: &mut Outgoing) -> Option<Action> {
        let account = self.account.clone().filter(|_| self.phase == Phase::Bind);
        let Some(account) = account else {
            return sm_failed(StanzaCondition::UnexpectedRequest.into(), out);
        };
        if self.config.sm_resume_seconds == 0 {
            return sm_failed(StanzaCondition::FeatureNotImplemented.into(), out);
        }
        let previd = element
            .attr("previd")
            .filter(|id| id.len() <= MAX_PREVID_BYTES);
        let (Some(previd), Some(h)) = (previd, count(element.attr("h"))) else {
            return sm_failed(StanzaCondition::BadRequest.into(), out);
        };
        self.owed = Some(Owed::SmResume(previd.to_owned()));
        Some(Action::SmResume {
            account,
            previd: previd.to_owned(),
            h,
        })
    }

    pub(super) fn on_sm_resumed(
        &mut self,
        result: Result<(Jid, u32), SmFailed>,
        previd: &str,
        out: &mut Outgoing,
    ) {
        // Whatever the driver found: a session is resumed by its own account only (XEP-0198
        // #security).
        let result = result.and_then(|(jid, h)| {
            let is_own = self.account.as_ref().map(Jid::as_str) == Some(jid.bare_str());
            if is_own && !jid.is_bare() {
                Ok((jid, h))
            } else {
                Err(StanzaCondition::ItemNotFound.into())
            }
        });
        match result {
            Ok((jid, h)) => {
                out.write_element(&sm::resumed(h, previd));
                self.is_sm_on = true;
                self.start_session(jid);
            }
            Err(failed) => {
                sm_failed(failed, out);
                self.count_failed_bind(out);
            }
        }
    }

    /// XEP-0352 #protocol. Before there is a session it says nothing: every session begins active.
    /// Where it is off it says nothing either: it is only a hint, and worth no client's stream.
    pub(super) fn on_csi(&mut self, element: &Element, out: &mut Outgoing) -> Option<Action> {
        let is_heard = self.phase == Phase::Bound && self.offers(|host| host.is_csi_on);
        match (&*element.name, self.phase) {
            ("active" | "inactive", _) if is_heard => Some(Action::Csi(element.name == "active")),
            ("active" | "inactive", Phase::Bind | Phase::Bound) => None,
            ("active" | "inactive", _) => self.fail(StreamCondition::NotAuthorized, out),
            _ => self.fail(StreamCondition::UnsupportedStanzaType, out),
        }
    }
}

/// Whether a client may write this `from`: none, its full JID or its bare JID.
fn is_own(from: Option<&Jid>, session: &Jid) -> bool {
    from.is_none_or(|from| from == session || from.as_str() == session.bare_str())
}

fn sm_failed(failed: SmFailed, out: &mut Outgoing) -> Option<Action> {
    out.write_element(&failed.element());
    None
}

/// The resource that a bind request asks for, prepared; `None` leaves it to the server, as does
/// an empty element, which some clients send for that.
fn asked_resource(iq: &Stanza, account: &Jid) -> Result<Option<String>, StanzaError> {
    let asked = iq
        .child(ns::BIND, "bind")
        .and_then(|bind| bind.child(ns::BIND, "resource").map(Element::text))
        .filter(|resource| !resource.is_empty());
    let Some(resource) = asked else {
        return Ok(None);
    };
    // RFC 6120 §7.7.2.1.
    let jid = account.with_resource(&resource).map_err(|error| {
        StanzaError::new(StanzaCondition::BadRequest).with_text(error.to_string())
    })?;
    Ok(jid.resource().map(str::to_owned))
}
