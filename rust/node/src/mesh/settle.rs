//! Between a commit and its acknowledgement: whether this process may still speak for the shard.

use super::Mesh;
use antiphon_cluster::fence::Acknowledge;
use antiphon_cluster::id::Mono;
use antiphon_cluster::membership::now;
use parking_lot::Mutex;

/// Told whether it may be acknowledged.
type Continuation = Box<dyn FnOnce(bool) + Send>;

/// Commits that wait for a keepalive, or for the end. What a node may have unsaved bounds them.
#[derive(Default)]
pub(super) struct Unsure(Mutex<Vec<(Mono, Continuation)>>);

impl std::fmt::Debug for Unsure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} commits", self.0.lock().len())
    }
}

impl Mesh {
    /// Runs it when a commit of now may be acknowledged, or when this process is out and it may not.
    pub(crate) fn acknowledged(&self, then: impl FnOnce(bool) + Send + 'static) {
        let Some(place) = &self.place else {
            return then(true);
        };
        let committed = now();
        match place.acknowledge(committed) {
            Acknowledge::Now => then(true),
            Acknowledge::AfterKeepalive | Acknowledge::Barred => {
                self.unsure.0.lock().push((committed, Box::new(then)));
            }
        }
    }

    /// Looks at them again.
    pub(super) fn look_at_unsure(&self) {
        let Some(place) = &self.place else {
            return;
        };
        let waiting = std::mem::take(&mut *self.unsure.0.lock());
        let mut later = Vec::new();
        for (committed, then) in waiting {
            match place.acknowledge(committed) {
                Acknowledge::Now => then(true),
                Acknowledge::AfterKeepalive | Acknowledge::Barred => later.push((committed, then)),
            }
        }
        if !later.is_empty() {
            let mut unsure = self.unsure.0.lock();
            // In front of what came meanwhile.
            later.append(&mut unsure);
            *unsure = later;
        }
    }

    /// Forgets them: what became of those writes, the next homes know.
    pub(super) fn forget_unsure(&self) {
        let waiting = std::mem::take(&mut *self.unsure.0.lock());
        for (_, then) in waiting {
            then(false);
        }
    }
}
