//! Which messages are worth keeping for good, and what they count as.

use crate::archive::Flags;
use antiphon_xmpp::stanza::ChildRef;
use antiphon_xmpp::{Stanza, ns};

/// What the children of a message say, in one look.
#[derive(Debug, Default)]
struct Content {
    has_body: bool,
    is_encrypted: bool,
    /// Says itself that something is encrypted in it (XEP-0380).
    is_declared: bool,
    /// Something that belongs to the conversation and is no message of it.
    is_aside: bool,
    has_store: bool,
    has_no_store: bool,
    has_fallback: bool,
    is_wrapper: bool,
    may_invite: bool,
    /// Says an earlier message anew (XEP-0308).
    is_correction: bool,
}

impl Content {
    fn of(stanza: &Stanza) -> Self {
        let mut content = Self::default();
        for child in &stanza.payload.children {
            content.look(child);
        }
        content
    }

    fn look(&mut self, child: &ChildRef) {
        match (&*child.ns, &*child.name) {
            (ns::CLIENT, "body") => self.has_body = true,
            (ns::HINTS, "store") => self.has_store = true,
            (ns::HINTS, "no-store" | "no-permanent-store") => self.has_no_store = true,
            (ns::OMEMO_OLD | ns::OMEMO_1 | ns::OMEMO_2, "encrypted")
            | (ns::OPENPGP, "openpgp")
            | (ns::OPENPGP_OLD, "x") => self.is_encrypted = true,
            (ns::EME, "encryption") => self.is_declared = true,
            (ns::MARKERS, "displayed" | "received" | "acknowledged")
            | (ns::RECEIPTS, "received")
            | (ns::RETRACT, "retract")
            | (ns::FASTEN, "apply-to")
            | (ns::REACTIONS, "reactions")
            | (ns::JINGLE_MESSAGE, _)
            | (ns::CONFERENCE, "x") => self.is_aside = true,
            (ns::FALLBACK, "fallback") => self.has_fallback = true,
            (ns::CARBONS, "sent" | "received") | (ns::MAM_2 | ns::MAM_1 | ns::MAM_0, "result") => {
                self.is_wrapper = true;
            }
            (ns::MUC_USER, "x") => self.may_invite = true,
            (ns::CORRECT, "replace") => self.is_correction = true,
            _ => {}
        }
    }
}

/// Whether a message belongs into an archive, and as what: chat and normal messages with a body or
/// something encrypted, what accompanies a conversation (markers, receipts, retractions, reactions,
/// invitations, calls), and what asks for it (XEP-0334 #hints); nothing that asks not to be.
/// Without what depends on the owner.
pub(super) fn is_worth_keeping(stanza: &Stanza) -> Option<Flags> {
    if matches!(stanza.type_str(), "groupchat" | "headline" | "error") {
        return None;
    }
    let content = Content::of(stanza);
    if content.has_no_store || content.is_wrapper {
        return None;
    }
    let says_something = content.has_body || content.is_declared || content.is_encrypted;
    let is_kept = says_something
        || content.is_aside
        || content.has_store
        || content.may_invite && is_invitation(stanza);
    if !is_kept {
        return None;
    }
    // The body of a retraction or a reaction is for clients that do not know them.
    let is_stand_in = content.is_aside || content.has_fallback && is_all_fallback(stanza);
    let is_secret = content.is_declared || content.is_encrypted;
    let mut flags = Flags::default();
    // A correction is no further message to read.
    if ((content.has_body && !is_stand_in) || is_secret) && !content.is_correction {
        flags = flags.and(Flags::COUNTS);
    }
    if content.has_body && !is_stand_in && !is_secret {
        flags = flags.and(Flags::SEARCHABLE);
    }
    Some(flags)
}

/// XEP-0045 #invite-mediated.
fn is_invitation(stanza: &Stanza) -> bool {
    let x = stanza.child(ns::MUC_USER, "x");
    x.is_some_and(|x| x.child(ns::MUC_USER, "invite").is_some())
}

/// Whether the whole body is a stand-in (XEP-0428 #usecases: no range given).
fn is_all_fallback(stanza: &Stanza) -> bool {
    let Some(fallback) = stanza.child(ns::FALLBACK, "fallback") else {
        return false;
    };
    let body = fallback.child(ns::FALLBACK, "body");
    body.is_none_or(|body| body.attr("start").is_none())
        && fallback.elements().all(|e| e.name == "body")
}
