//! Every namespace that Rust matches, once.

/// Stanzas on a client stream (RFC 6120 §4.8.2).
pub const CLIENT: &str = "jabber:client";
/// Stanzas on a server stream (RFC 6120 §4.8.2).
pub const SERVER: &str = "jabber:server";
/// Stanzas on a component stream (XEP-0114).
pub const COMPONENT_ACCEPT: &str = "jabber:component:accept";
/// The stream element itself (RFC 6120 §4.8.1).
pub const STREAM: &str = "http://etherx.jabber.org/streams";
/// Conditions of stream errors (RFC 6120 §4.9.2).
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Conditions of stanza errors (RFC 6120 §8.3.2).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// STARTTLS (RFC 6120 §5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL (RFC 6120 §6).
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Resource binding (RFC 6120 §7).
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// Session establishment of RFC 3921, kept as an optional no-op.
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// WebSocket framing (RFC 7395).
pub const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
/// The `xml` prefix.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Roster (RFC 6121 §2).
pub const ROSTER: &str = "jabber:iq:roster";
/// Roster versioning stream feature (RFC 6121 §2.6.1).
pub const ROSTERVER: &str = "urn:xmpp:features:rosterver";
/// Pre-approved subscriptions stream feature (RFC 6121 §3.4).
pub const PRE_APPROVAL: &str = "urn:xmpp:features:pre-approval";
/// Stream management (XEP-0198).
pub const SM: &str = "urn:xmpp:sm:3";
/// Client state indication (XEP-0352).
pub const CSI: &str = "urn:xmpp:csi:0";
/// Stream limits (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// Announced channel binding types (XEP-0440).
pub const SASL_CB: &str = "urn:xmpp:sasl-cb:0";
/// Message carbons (XEP-0280).
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// Stanza forwarding (XEP-0297).
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// Delayed delivery (XEP-0203).
pub const DELAY: &str = "urn:xmpp:delay";
/// Message processing hints (XEP-0334).
pub const HINTS: &str = "urn:xmpp:hints";
/// Blocking command (XEP-0191).
pub const BLOCKING: &str = "urn:xmpp:blocking";
/// Error element of the blocking command (XEP-0191 #block).
pub const BLOCKING_ERRORS: &str = "urn:xmpp:blocking:errors";
/// Ping (XEP-0199).
pub const PING: &str = "urn:xmpp:ping";
/// Chat states (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Delivery receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Chat markers (XEP-0333).
pub const MARKERS: &str = "urn:xmpp:chat-markers:0";
/// Unique and stable stanza ids (XEP-0359).
pub const SID: &str = "urn:xmpp:sid:0";
/// Multi-user chat, participant's view (XEP-0045).
pub const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
/// Direct invitations (XEP-0249).
pub const CONFERENCE: &str = "jabber:x:conference";
/// Jingle message initiation (XEP-0353).
pub const JINGLE_MESSAGE: &str = "urn:xmpp:jingle-message:0";
/// Service discovery, information (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Service discovery, items (XEP-0030).
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// Entity capabilities (XEP-0115).
pub const CAPS: &str = "http://jabber.org/protocol/caps";
/// Last activity (XEP-0012).
pub const LAST: &str = "jabber:iq:last";
/// Publish-subscribe events (XEP-0060).
pub const PUBSUB_EVENT: &str = "http://jabber.org/protocol/pubsub#event";
/// Message archive (XEP-0313), the present namespace.
pub const MAM_2: &str = "urn:xmpp:mam:2";
/// Message archive, texts 0.4 and 0.5.
pub const MAM_1: &str = "urn:xmpp:mam:1";
/// Message archive, text 0.3.
pub const MAM_0: &str = "urn:xmpp:mam:0";
/// Message archive, texts 0.1 and 0.2.
pub const MAM_TMP: &str = "urn:xmpp:mam:tmp";
/// Message retraction (XEP-0424).
pub const RETRACT: &str = "urn:xmpp:message-retract:1";
/// Message fastening (XEP-0422), which older retractions use.
pub const FASTEN: &str = "urn:xmpp:fasten:0";
/// Last message correction (XEP-0308).
pub const CORRECT: &str = "urn:xmpp:message-correct:0";
/// Message reactions (XEP-0444).
pub const REACTIONS: &str = "urn:xmpp:reactions:0";
/// Fallback indication (XEP-0428).
pub const FALLBACK: &str = "urn:xmpp:fallback:0";
/// Explicit message encryption (XEP-0380).
pub const EME: &str = "urn:xmpp:eme:0";
/// OMEMO (XEP-0384), as most clients speak it.
pub const OMEMO_OLD: &str = "eu.siacs.conversations.axolotl";
/// OMEMO, text 0.4.
pub const OMEMO_1: &str = "urn:xmpp:omemo:1";
/// OMEMO, the present namespace.
pub const OMEMO_2: &str = "urn:xmpp:omemo:2";
/// OpenPGP for XMPP (XEP-0373).
pub const OPENPGP: &str = "urn:xmpp:openpgp:0";
/// Current Jabber OpenPGP usage (XEP-0027).
pub const OPENPGP_OLD: &str = "jabber:x:encrypted";
/// Inbox of Erlang Solutions: changes of one conversation.
pub const INBOX_CONVERSATION: &str = "erlang-solutions.com:xmpp:inbox:0#conversation";
