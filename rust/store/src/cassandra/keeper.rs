//! What happens behind everybody's back: rows of inboxes are written, segments of the search are
//! made, owners nobody uses leave the memory.

use super::archive::flush_behind;
use super::archives::Slot;
use super::engine::Engine;
use super::error::Failure;
use super::gate::{Leave, Pass};
use super::reader::Reader;
use super::seal::{UNSEALED, seal};
use super::servers::Row;
use super::{from_cql, to_cql};
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::store::Write;
use antiphon_xmpp::Jid;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How often it looks.
const ROUND: Duration = Duration::from_millis(500);

/// How long a row of an inbox may be behind: what a new home has to count again at most.
const BEHIND_MS: u64 = 10_000;

/// Owners that are served at a time.
const AT_A_TIME: usize = 16;

/// And when the engine ends.
const AT_THE_END: usize = 128;

/// How long one of them may take; what fails comes again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Works until the engine has gone.
pub(super) async fn keep(engine: Weak<Engine>) {
    loop {
        sleep(ROUND).await;
        let Some(engine) = engine.upgrade() else {
            return;
        };
        if !engine.servers.health.is_down() {
            round(&engine).await;
        }
    }
}

async fn round(engine: &Arc<Engine>) {
    let archives = &engine.archives;
    let now = archives.now_ms();
    let is_due = |slot: &Slot| {
        let behind = slot.behind_ms.load(Ordering::Acquire);
        let is_behind = behind != 0 && behind + BEHIND_MS <= now;
        let is_unsealed = slot.unsealed.load(Ordering::Relaxed) >= u64::from(UNSEALED);
        is_behind || is_unsealed || archives.is_grown(slot)
    };
    let mut tasks = JoinSet::new();
    for (owner, slot) in archives.due(is_due) {
        if tasks.len() >= AT_A_TIME {
            let _ = tasks.join_next().await;
        }
        let engine = Arc::clone(engine);
        tasks.spawn(async move {
            if !is_ours(&engine, &owner, &slot).await {
                return;
            }
            // What fails stays as it was and is tried in the next round.
            if slot.unsealed.load(Ordering::Relaxed) >= u64::from(UNSEALED) {
                let _ = seal(&engine, Instant::now() + PATIENCE, &owner, &slot).await;
            }
            let behind = slot.behind_ms.load(Ordering::Acquire);
            if behind != 0 && behind + BEHIND_MS <= now {
                let _ = flush_behind(&engine, Instant::now() + PATIENCE, &owner, &slot).await;
            }
            if engine.archives.is_grown(&slot) {
                let _ = trim(&engine, Instant::now() + PATIENCE, &owner, &slot).await;
            }
        });
    }
    for (owner, slot) in archives.spare() {
        if tasks.len() >= AT_A_TIME {
            let _ = tasks.join_next().await;
        }
        let engine = Arc::clone(engine);
        tasks.spawn(async move {
            let deadline = Instant::now() + PATIENCE;
            if flush_behind(&engine, deadline, &owner, &slot).await.is_ok() {
                engine.archives.drop_clean(&owner, slot);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Whether what is in memory of an owner may be written; what is another's by now is forgotten.
async fn is_ours(engine: &Engine, owner: &str, slot: &Slot) -> bool {
    let mut guard = slot.state.lock().await;
    let leave = match guard.as_ref() {
        Some(state) => engine.servers.gate.leave(state.pass(owner)),
        None => engine.servers.gate.ask(owner),
    };
    if leave == Leave::No {
        slot.forget();
        slot.grown.store(0, Ordering::Relaxed);
        *guard = None;
    }
    matches!(leave, Leave::Yes(_) | Leave::Doubted(_))
}

/// Has the oldest messages of an owner deleted where there are more than the operator allows: by
/// his lane, as if he did it himself.
///
/// # Errors
/// The servers are away.
async fn trim(
    engine: &Arc<Engine>,
    deadline: Instant,
    owner: &str,
    slot: &Arc<Slot>,
) -> Result<(), Failure> {
    let archives = &engine.archives;
    let Some(most) = archives.most else {
        return Ok(());
    };
    let grown = slot.grown.swap(0, Ordering::Relaxed);
    slot.trimmed_ms.store(archives.now_ms(), Ordering::Relaxed);
    let read = async {
        let jid = Jid::parse(owner).map_err(Failure::answer)?;
        let reader = Reader::new(engine, deadline, &jid).await?;
        Ok((reader.beyond(most).await?, jid))
    };
    let (oldest, jid) = match read.await {
        Ok(found) => found,
        Err(failure) => {
            slot.grown.fetch_add(grown, Ordering::Relaxed);
            return Err(failure);
        }
    };
    if let Some(oldest) = oldest {
        let purge = Write::ArchivePurge {
            owner: jid,
            peer: None,
            before: ArchiveId(from_cql(oldest) + 1),
        };
        let slot = Arc::clone(slot);
        let done = move |outcome: Result<(), _>| {
            if outcome.is_err() {
                slot.grown.fetch_add(grown, Ordering::Relaxed);
            }
        };
        engine.write(purge, Box::new(done));
    }
    Ok(())
}

/// Writes everything that is behind, and that this process ended in order.
///
/// # Errors
/// The servers are away: the next process counts again.
pub(super) async fn finish(engine: Arc<Engine>, deadline: Instant) -> Result<(), Failure> {
    let is_behind = |slot: &Slot| slot.behind_ms.load(Ordering::Acquire) != 0;
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    let mut outcome = Ok(());
    for (owner, slot) in engine.archives.due(is_behind) {
        if tasks.len() >= AT_THE_END
            && let Some(done) = tasks.join_next().await
        {
            outcome = outcome.and(done.map_err(Failure::answer)?);
        }
        let engine = Arc::clone(&engine);
        tasks.spawn(async move { flush_behind(&engine, deadline, &owner, &slot).await });
    }
    while let Some(done) = tasks.join_next().await {
        outcome = outcome.and(done.map_err(Failure::answer)?);
    }
    outcome?;
    let servers = &engine.servers;
    let closed_ms = to_cql((engine.clock)());
    let values = (engine.archives.run, closed_ms, servers.clock.next());
    let row = Row::new(&servers.statements.run_close, values, 0);
    servers.write(deadline, Pass::Free, &[row]).await
}
