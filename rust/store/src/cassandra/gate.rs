//! Whether rows may still be sent: a process that was paused may have lost its shards meanwhile, and
//! Cassandra itself refuses nobody.
//!
//! The question is asked when the rows have their timestamps and before they are handed to the
//! driver. So what a process sends after its time was made within its time, and lands below the
//! deletes of the next owner ([`super::taken`]); what would be newer than that is not sent.

use std::sync::{Arc, OnceLock};

/// The answer of a [`Gate`]. The number names one uninterrupted time in which this process had the
/// owner; it is never used for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Rows may be sent.
    Yes(u64),
    /// They may be sent, but another process may take the owner up unseen: a commit is none before
    /// it is known that nobody had begun to.
    Doubted(u64),
    /// They wait: it is not known now, and soon will be.
    Wait(u64),
    /// The owner is another's.
    No,
}

/// Asked with the bare JID of an owner; must not block, and must not write to the store.
pub type Gate = Arc<dyn Fn(&str) -> Leave + Send + Sync>;

/// Told of an owner's rows: the bare JID, the time of the owner that they belong to, and ids. Without
/// ids: some rows are handed to the driver now. With ids: messages of these places in the archive
/// are about to be, if the gate lets them. For tests of the fencing.
pub type Witness = Arc<dyn Fn(&str, u64, &[u64]) + Send + Sync>;

/// Stands for no time at all.
const NEVER: u64 = u64::MAX;

/// Under which time of its owner something is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass<'a> {
    /// No owner's: changes of accounts (lightweight transactions decide those), maps of domains.
    Free,
    /// This owner's, in this time.
    Of(&'a str, u64),
}

/// The gate, if there is one, and who looks on.
#[derive(Default)]
pub(super) struct Gatekeeper(OnceLock<Gate>, OnceLock<Witness>);

impl Gatekeeper {
    /// The first one counts.
    pub(super) fn set(&self, gate: Gate) {
        // An error: there is one already.
        let _ = self.0.set(gate);
    }

    /// As [`Gatekeeper::set`].
    pub(super) fn set_witness(&self, witness: Witness) {
        let _ = self.1.set(witness);
    }

    /// Rows are sent.
    pub(super) fn sends(&self, pass: Pass<'_>) {
        if let (Some(witness), Pass::Of(owner, time)) = (self.1.get(), pass) {
            witness(owner, time, &[]);
        }
    }

    /// Messages are to be sent.
    pub(super) fn plans(&self, pass: Pass<'_>, ids: impl Iterator<Item = u64>) {
        if let (Some(witness), Pass::Of(owner, time)) = (self.1.get(), pass) {
            witness(owner, time, &ids.collect::<Vec<u64>>());
        }
    }

    /// What may become of an owner's rows now.
    pub(super) fn ask(&self, owner: &str) -> Leave {
        match self.0.get() {
            Some(gate) if owner.contains('@') => gate(owner),
            _ => Leave::Yes(0),
        }
    }

    /// In which time of its owner this is; [`NEVER`]: it is another's.
    pub(super) fn time(&self, owner: &str) -> u64 {
        match self.ask(owner) {
            Leave::Yes(time) | Leave::Doubted(time) | Leave::Wait(time) => time,
            Leave::No => NEVER,
        }
    }

    /// As [`Gatekeeper::ask`], of what belongs to one time.
    pub(super) fn leave(&self, pass: Pass<'_>) -> Leave {
        let Pass::Of(owner, time) = pass else {
            return Leave::Yes(0);
        };
        match self.ask(owner) {
            Leave::Yes(now) | Leave::Doubted(now) | Leave::Wait(now) if now != time => Leave::No,
            answer => answer,
        }
    }
}

impl std::fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a gate: {}", self.0.get().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gate_everything_may_be_sent() {
        let keeper = Gatekeeper::default();
        assert_eq!(keeper.ask("a@b.example"), Leave::Yes(0));
        assert_eq!(keeper.time("a@b.example"), 0);
        assert_eq!(keeper.leave(Pass::Of("a@b.example", 0)), Leave::Yes(0));
    }

    #[test]
    fn who_looks_on_is_told_what_is_planned_and_what_is_sent() {
        type Seen = Vec<(String, u64, Vec<u64>)>;
        let seen = Arc::new(parking_lot::Mutex::new(Seen::new()));
        let keeper = Gatekeeper::default();
        keeper.sends(Pass::Of("a@b.example", 7));
        let told = Arc::clone(&seen);
        keeper.set_witness(Arc::new(move |owner, time, ids| {
            told.lock().push((owner.to_owned(), time, ids.to_vec()));
        }));
        keeper.plans(Pass::Of("a@b.example", 7), [1, 2].into_iter());
        keeper.sends(Pass::Of("a@b.example", 7));
        keeper.sends(Pass::Free);
        let owner = || "a@b.example".to_owned();
        let expected = [(owner(), 7, vec![1, 2]), (owner(), 7, vec![])];
        assert_eq!(*seen.lock(), expected);
    }

    #[test]
    fn another_time_of_the_same_owner_is_no_leave() {
        let keeper = Gatekeeper::default();
        keeper.set(Arc::new(|owner| match owner {
            "sure@b.example" => Leave::Yes(7),
            "unsure@b.example" => Leave::Wait(7),
            _ => Leave::No,
        }));
        let leave = |owner, time| keeper.leave(Pass::Of(owner, time));
        assert_eq!(leave("sure@b.example", 7), Leave::Yes(7));
        assert_eq!(leave("sure@b.example", 6), Leave::No);
        assert_eq!(keeper.time("unsure@b.example"), 7);
        assert_eq!(keeper.time("else@b.example"), NEVER);
        assert_eq!(leave("unsure@b.example", 7), Leave::Wait(7));
        assert_eq!(leave("unsure@b.example", NEVER), Leave::No);
        assert_eq!(leave("else@b.example", 7), Leave::No);
        assert_eq!(keeper.leave(Pass::Free), Leave::Yes(0));
        // A domain is nobody's.
        assert_eq!(leave("b.example", 0), Leave::Yes(0));
    }
}
