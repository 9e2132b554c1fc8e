//! The rules of RFC 6120 §8.1.4, §8.2.3 and RFC 6121 §4.7.1 that a stanza can be judged by alone.

use crate::stanza::{Stanza, StanzaCondition, StanzaError, StanzaKind};

/// What becomes of a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Pass,
    /// It is answered with this error, where it may be answered at all.
    Refuse(StanzaError),
    /// It is dropped: it must not be answered (RFC 6120 §8.2.3 rule 4).
    Drop,
}

fn bad_request(text: &str) -> Verdict {
    Verdict::Refuse(StanzaError::new(StanzaCondition::BadRequest).with_text(text))
}

/// Judges one stanza. A message of unknown type passes: RFC 6121 §5.2.2 has it treated as
/// `normal`, which is for the delivery rules.
pub(super) fn check(stanza: &Stanza) -> Verdict {
    match stanza.kind {
        StanzaKind::Message => Verdict::Pass,
        StanzaKind::Presence => check_presence(stanza),
        StanzaKind::Iq => check_iq(stanza),
    }
}

fn check_presence(stanza: &Stanza) -> Verdict {
    match stanza.type_.as_deref() {
        None
        | Some(
            "unavailable" | "subscribe" | "subscribed" | "unsubscribe" | "unsubscribed" | "probe"
            | "error",
        ) => Verdict::Pass,
        Some(_) => bad_request("unknown type of presence"),
    }
}

fn check_iq(stanza: &Stanza) -> Verdict {
    let children = stanza.payload.children.len();
    match stanza.type_str() {
        "get" | "set" if stanza.id.is_none() => bad_request("an IQ needs an id"),
        "get" | "set" if children != 1 => {
            bad_request("an IQ of type get or set has exactly one child element")
        }
        "result" if stanza.id.is_none() || children > 1 => Verdict::Drop,
        "error" if stanza.id.is_none() => Verdict::Drop,
        "get" | "set" | "result" | "error" => Verdict::Pass,
        _ => bad_request("the type of an IQ is get, set, result or error"),
    }
}

/// The answer to a refused stanza, `None` where it must not have one.
pub(super) fn answer(stanza: &Stanza, verdict: &Verdict) -> Option<Stanza> {
    match verdict {
        Verdict::Pass | Verdict::Drop => None,
        Verdict::Refuse(error) => stanza.error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ns;
    use crate::xml::Element;

    fn condition(stanza: &Stanza) -> Option<StanzaCondition> {
        match check(stanza) {
            Verdict::Refuse(error) => Some(error.condition),
            Verdict::Pass | Verdict::Drop => None,
        }
    }

    fn iq(type_: &str, id: Option<&str>, children: usize) -> Stanza {
        let mut iq = Stanza::new(StanzaKind::Iq).with_type(type_);
        if let Some(id) = id {
            iq = iq.with_id(id);
        }
        (0..children).fold(iq, |iq, _| iq.with_child(&Element::new(ns::PING, "ping")))
    }

    #[test]
    fn an_iq_request_needs_type_id_and_one_child() {
        const BAD: Option<StanzaCondition> = Some(StanzaCondition::BadRequest);
        for (type_, id, children, expected) in [
            ("get", Some("1"), 1, None),
            ("set", Some("1"), 1, None),
            ("get", None, 1, BAD),
            ("get", Some("1"), 0, BAD),
            ("set", Some("1"), 2, BAD),
            ("subscribe", Some("1"), 1, BAD),
            ("", Some("1"), 1, BAD),
        ] {
            assert_eq!(
                condition(&iq(type_, id, children)),
                expected,
                "{type_} {id:?} {children}"
            );
        }
    }

    #[test]
    fn answers_are_dropped_and_never_answered() {
        assert_eq!(check(&iq("result", Some("1"), 0)), Verdict::Pass);
        assert_eq!(check(&iq("result", Some("1"), 1)), Verdict::Pass);
        assert_eq!(check(&iq("result", Some("1"), 2)), Verdict::Drop);
        assert_eq!(check(&iq("result", None, 0)), Verdict::Drop);
        assert_eq!(check(&iq("error", Some("1"), 2)), Verdict::Pass);
        assert_eq!(check(&iq("error", None, 1)), Verdict::Drop);
    }

    #[test]
    fn presence_has_the_types_of_rfc_6121() {
        let presence = Stanza::new(StanzaKind::Presence);
        assert_eq!(condition(&presence), None);
        assert_eq!(condition(&presence.clone().with_type("unavailable")), None);
        assert_eq!(
            condition(&presence.with_type("available")),
            Some(StanzaCondition::BadRequest)
        );
    }

    #[test]
    fn a_message_of_unknown_type_passes() {
        let message = Stanza::new(StanzaKind::Message).with_type("letter");
        assert_eq!(check(&message), Verdict::Pass);
    }
}
