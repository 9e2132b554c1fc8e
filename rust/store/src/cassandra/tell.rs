//! The thread that tells of commits: what a callee does cannot hold up the engine's own threads.

use super::queue::Asker;
use antiphon_routing::store::StoreError;
use std::sync::mpsc::Receiver;
use tokio::sync::oneshot;

/// What to tell.
pub(super) enum Message {
    /// A group of one lane, in its order.
    Group {
        outcomes: Vec<(Asker, Result<(), StoreError>)>,
        /// The lane goes on.
        told: oneshot::Sender<()>,
    },
    /// Nothing more comes.
    End,
}

/// Tells until the end.
pub(super) fn serve(messages: &Receiver<Message>) {
    while let Ok(Message::Group { outcomes, told }) = messages.recv() {
        for (asker, outcome) in outcomes {
            asker.tell(outcome);
        }
        // Fails when the lane has gone with its runtime.
        let _ = told.send(());
    }
}
