//! How this crate tells the operator something: constant events with fields, no prose.

/// How urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// Life of the cluster.
    Info,
    /// A fault that was handled.
    Warning,
    /// An operator must act.
    Error,
}

/// The fields of an event.
pub type Fields<'a> = &'a [(&'static str, String)];

/// Where events go. Called from any thread; must not block.
pub trait Log: Send + Sync + 'static {
    /// One event: a constant lower-case message and its fields.
    fn log(&self, level: Level, event: &'static str, fields: Fields<'_>);
}

/// Drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Log for Silent {
    fn log(&self, _level: Level, _event: &'static str, _fields: Fields<'_>) {}
}
