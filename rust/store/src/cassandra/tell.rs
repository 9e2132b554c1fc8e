//! The thread that tells of commits: what a callee does cannot hold up the engine's own threads.

use super::queue::Asker;
use antiphon_routing::store::StoreError;
use std::sync::mpsc::Receiver;

/// What to tell.
pub(super) enum Message {
    /// A group of one lane, in its order.
    Group(Vec<(Asker, Result<(), StoreError>)>),
    /// Nothing more comes.
    End,
}

/// Tells until the end.
pub(super) fn serve(messages: &Receiver<Message>) {
    while let Ok(Message::Group(outcomes)) = messages.recv() {
        for (asker, outcome) in outcomes {
            asker.tell(outcome);
        }
    }
}
