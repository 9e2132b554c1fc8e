//! XMPP without I/O: addresses, XML, stanzas, streams, SASL, stream management.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: time and randomness come
//! in as arguments, bytes and decisions go out as values.

pub mod jid;
pub mod ns;
pub mod packed;
pub mod sasl;
pub mod stanza;
pub mod stream;
pub mod xml;

pub use jid::{Jid, JidError};
pub use stanza::{ErrorType, Stanza, StanzaCondition, StanzaError, StanzaKind};
pub use xml::{Element, Node};
