//! XML as XMPP uses it (RFC 6120 §11): an incremental reader with limits, a small tree, a writer.

mod chars;
pub mod element;
mod intern;
mod names;
mod prolog;
pub mod reader;
mod scan;
mod scope;
mod stanza;
mod tag;
mod uri;
pub mod writer;

pub use chars::{is_char, is_ncname};
pub use element::{Attr, Element, Node, Text};
pub(crate) use intern::{name as known_name, namespace as known_namespace};
pub use reader::{Address, Event, Limits, Reader, StreamHeader, XmlError, parse_element};
pub(crate) use stanza::parse_child;
