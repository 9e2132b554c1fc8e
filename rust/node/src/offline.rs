//! Offline messages on their way from the store to a session (XEP-0160).

use crate::mesh::Stay;
use crate::node::{Node, Routes};
use antiphon_routing::SessionId;
use antiphon_routing::effect::Local;
use antiphon_routing::store::{OfflineRecord, Store, StoreError};
use antiphon_xmpp::Jid;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Records of one read.
const PAGE: usize = 100;
/// Between two reads that fail, ms: first and longest.
const PAUSE_MS: (u64, u64) = (100, 5_000);
/// How long reads may fail before the session gets what waits behind them. Its next presence asks
/// again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether the lease is certain again.
const UNSURE: Duration = Duration::from_millis(50);

impl Node {
    /// Reads a page. The session's later stanzas wait, so that the messages come before whatever it
    /// asks next (RFC 6120 §10.1). A client that is behind gets them at its own pace.
    ///
    /// A read that fails is tried again: taken for the end, it would let newer messages pass.
    pub(crate) fn read_offline(self: &Arc<Self>, owner: Jid, session: SessionId, after: u64) {
        if let Some(session) = self.session(session) {
            session.hold();
        }
        let node = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Some(page) = node.offline_page(&owner, session, after).await
                && !node.offline_came(&owner, session, page).await
            {
                node.release(session);
            }
        });
    }

    /// `None`: the session is over, or its entity lives elsewhere.
    async fn offline_page(
        self: &Arc<Self>,
        owner: &Jid,
        session: SessionId,
        after: u64,
    ) -> Option<Vec<OfflineRecord>> {
        let begun = Instant::now();
        let mut pause_ms = PAUSE_MS.0;
        loop {
            let (count, bytes) = self.room(session).await?;
            let error = match self.store.offline(owner, after, count.min(PAGE)).await {
                Ok(records) => return Some(fitting(records, bytes)),
                Err(error) => error,
            };
            self.log_store_error("offline messages not read", &error);
            // It may ask for other things meanwhile.
            self.release(session);
            if error == StoreError::Closed || matches!(self.stay(owner.as_str()), Stay::Gone) {
                return None;
            }
            if begun.elapsed() >= PATIENCE {
                return Some(Vec::new());
            }
            sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = PAUSE_MS.1.min(pause_ms * 2);
        }
    }

    /// Hands a page to the entity; whether it reads on. That of a bound session is in memory, also
    /// while its shard is not served yet; where that goes, the next home reads on.
    async fn offline_came(
        self: &Arc<Self>,
        owner: &Jid,
        session: SessionId,
        page: Vec<OfflineRecord>,
    ) -> bool {
        let guard = loop {
            match self.stay(owner.as_str()) {
                Stay::Here(guard) => break guard,
                Stay::Unsure => sleep(UNSURE).await,
                Stay::Gone => return false,
            }
        };
        let mut routes = Routes::new();
        let reads_on = self.with_live_user(owner, &mut routes, |user, fx| {
            user.offline_loaded(session, page, &self.live.load().policy, fx);
            let mut effects = fx.local.iter();
            effects.any(|e| matches!(e, Local::ReadOffline { .. }))
        });
        drop(guard);
        self.route_all(routes);
        reads_on.unwrap_or(false)
    }
}

/// What fits into so many bytes; one at least, or there would be no end.
fn fitting(mut records: Vec<OfflineRecord>, bytes: usize) -> Vec<OfflineRecord> {
    let mut left = bytes;
    let fits = |record: &OfflineRecord| {
        let fits = left > 0;
        left = left.saturating_sub(record.stanza.len());
        fits
    };
    let page = records.iter().map(fits).take_while(|fits| *fits).count();
    records.truncate(page.max(1));
    records
}
