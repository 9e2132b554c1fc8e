//! Sockets, TLS and HTTP: drives the stream machines of `antiphon-xmpp` for the node.

pub mod addresses;
pub mod admission;
pub mod client;
pub mod component;
pub mod conn;
pub mod gate;
pub mod gateway;
pub mod http;
pub mod listener;
pub mod pace;
pub mod session;
mod spare;
pub mod timers;
pub mod tls;
mod tls_io;
pub mod transport;
pub mod ws;

pub use gateway::Gateway;
pub use session::Session;
