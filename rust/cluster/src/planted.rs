//! Mistakes that the simulation must find. Outside of it they cannot be made: [`Planted::has`] is
//! always false then, and the compiler drops what hangs on it.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Believes in the lease for ever.
    IgnoreDeadline,
    /// Acknowledges with most links down, without a keepalive that was sent after the commit.
    IgnoreLinks,
    /// Accepts a stanza whatever epoch it was sent under.
    SkipEpoch,
    /// Takes what a process sends that is out of the view.
    SkipIncarnation,
    /// Serves a shard before every node of the view has reported.
    ServeUnreported,
    /// Takes up what was not released without killing late writes.
    SkipTakeover,
    /// Releases a shard with writes under way.
    ReleaseUnflushed,
    /// Sends on to the new owner while the old one still has stanzas.
    SkipSettling,
    /// Takes a frame again that came before.
    SkipSeen,
    /// Stops reading a link while its own queue is full.
    ReaderWaits,
    /// Plans at once after etcd was gone.
    SkipQuiet,
    /// Ids of a new owner begin at its own clock.
    SkipHeadStart,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::IgnoreDeadline,
        Self::IgnoreLinks,
        Self::SkipEpoch,
        Self::SkipIncarnation,
        Self::ServeUnreported,
        Self::SkipTakeover,
        Self::ReleaseUnflushed,
        Self::SkipSettling,
        Self::SkipSeen,
        Self::ReaderWaits,
        Self::SkipQuiet,
        Self::SkipHeadStart,
    ];
}

/// Which mistake is made: none, outside of the simulation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted {
    #[cfg(any(test, feature = "simulation"))]
    bug: Option<Bug>,
}

impl Planted {
    /// This one.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn new(bug: Option<Bug>) -> Self {
        Self { bug }
    }

    /// Whether this mistake is made.
    #[must_use]
    pub fn has(self, bug: Bug) -> bool {
        #[cfg(any(test, feature = "simulation"))]
        return self.bug == Some(bug);
        #[cfg(not(any(test, feature = "simulation")))]
        {
            let _ = bug;
            false
        }
    }
}
