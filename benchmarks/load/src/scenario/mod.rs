//! What is done to the server, one file each.

pub mod idle;
pub mod login;
pub mod mail;
pub mod msg;
pub mod presence;
pub mod query;
pub mod resume;
pub mod soak;
pub mod stamp;
