//! Stream state machines without I/O. A driver feeds bytes and answers, and pulls actions:
//!
//! ```text
//! stream.feed(bytes);
//! while let Some(action) = stream.poll(random, &mut out) { carry it out; perhaps answer it }
//! write `out` to the socket
//! ```
//!
//! `poll` stops (returns `None`) while an answer is owed, so nothing overtakes it; what was fed
//! stays buffered within the reader's limits.

pub mod c2s;
mod check;
pub mod component;
pub mod csi;
pub mod error;
pub mod framing;
pub mod sm;

pub use error::{StreamCondition, StreamError};
pub use framing::{Framing, Outgoing};
