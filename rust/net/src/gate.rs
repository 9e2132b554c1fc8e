//! Deliveries that wait for a commit.

use crate::session::Session;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::Arc;

/// Sessions whose queues a gate keeps back; nearly always one.
pub type Waiting = SmallVec<[Arc<Session>; 1]>;

/// One write to the store, which stanzas in sessions' queues wait for.
#[derive(Debug, Default)]
pub struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    waiting: Waiting,
}

impl Gate {
    /// Whether what waits for it may go.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.lock().is_open
    }

    /// Names a session to be looked at when it opens. `false`: it is open.
    pub(crate) fn wait(&self, session: &Arc<Session>) -> bool {
        let mut state = self.0.lock();
        if !state.is_open {
            state.waiting.push(Arc::clone(session));
        }
        !state.is_open
    }

    /// Opens it; what it gives back is to be told by [`Session::let_pass`].
    pub fn open(&self) -> Waiting {
        let mut state = self.0.lock();
        state.is_open = true;
        std::mem::take(&mut state.waiting)
    }
}
