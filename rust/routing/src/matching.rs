//! The match table: which stanzas Python wants.

use std::collections::HashMap;

/// To whom a stanza is addressed, from the point of view of a served domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A served domain itself.
    Host,
    /// The bare JID of a local account (also an IQ without `to`: the sender's own).
    Account,
}

/// What one handler wants: an IQ by target, type and first child.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Declaration {
    /// To whom.
    pub target: Target,
    /// `true`: set; `false`: get.
    pub is_set: bool,
    /// Namespace of the first child.
    pub ns: String,
    /// Its name.
    pub name: String,
    /// Hold the session's later stanzas until this one is answered (RFC 6120 §10.1).
    pub is_ordered: bool,
}

/// The compiled declarations.
#[derive(Debug, Default)]
pub struct MatchTable {
    entries: HashMap<(Target, bool, String, String), (u32, bool)>,
}

impl MatchTable {
    /// Compiles; the handler's number is its place in `declarations`.
    #[must_use]
    pub fn new(declarations: &[Declaration]) -> Self {
        let entries = declarations
            .iter()
            .zip(0u32..)
            .map(|(d, i)| {
                (
                    (d.target, d.is_set, d.ns.clone(), d.name.clone()),
                    (i, d.is_ordered),
                )
            })
            .collect();
        Self { entries }
    }
    /// The handler's number and whether it is ordered.
    #[must_use]
    pub fn find(&self, target: Target, is_set: bool, ns: &str, name: &str) -> Option<(u32, bool)> {
        self.entries
            .get(&(target, is_set, ns.to_owned(), name.to_owned()))
            .copied()
    }
}
