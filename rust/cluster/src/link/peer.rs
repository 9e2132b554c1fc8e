//! What is kept of another process: both directions of both classes, and how its links do.

use super::{Class, LinkStats};
use crate::clock;
use crate::id::{Incarnation, NodeId};
use crate::relay::{Inbound, Outbound};
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// Someone to be woken, and whether there is something for him.
#[derive(Default)]
pub(super) struct Alarm(Option<Waker>);

impl Alarm {
    pub(super) fn set(&mut self, waker: &Waker) {
        match &self.0 {
            Some(same) if same.will_wake(waker) => {}
            _ => self.0 = Some(waker.clone()),
        }
    }

    #[must_use]
    pub(super) fn take(&mut self) -> Option<Waker> {
        self.0.take()
    }
}

/// The clock of a stream that has something which may wait for company: on a quiet link it waits
/// for nothing, on a busy one until some time after what went last.
#[derive(Default)]
pub(super) struct Pause {
    sleep: Option<Pin<Box<Sleep>>>,
    last: Option<Instant>,
}

impl Pause {
    /// Something goes now.
    pub(super) fn went(&mut self) {
        self.last = Some(Instant::now());
    }

    /// Begins to wait.
    pub(super) fn arm(&mut self, patience: Duration) {
        let Some(at) = self.last.map(|last| last + patience) else {
            return;
        };
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// Whether it has waited long enough; else it wakes whoever polls.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let sleep = self.sleep.as_mut();
        sleep.is_none_or(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

/// Our units to a peer.
pub(super) struct Outbox {
    pub(super) class: Class,
    pub(super) state: Mutex<OutState>,
    pub(super) is_up: AtomicBool,
    pub(super) connects: AtomicU64,
    pub(super) resets: AtomicU64,
    /// When the peer was last heard on it, ms since boot.
    pub(super) heard_ms: AtomicU64,
    /// The third node over which the last connection that stood went.
    pub(super) via: Mutex<Option<NodeId>>,
}

impl Outbox {
    /// The peer said something.
    pub(super) fn heard(&self) {
        self.heard_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// For how long it has said nothing, ms.
    pub(super) fn silent_ms(&self) -> u64 {
        clock::now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed))
    }
}

pub(super) struct OutState {
    pub(super) relay: Outbound<Bytes>,
    pub(super) alarm: Alarm,
    /// Said beside the stream.
    pub(super) notes: VecDeque<crate::wire::v1::Note>,
    /// A ping to send: by time since boot.
    pub(super) ping: Option<u64>,
    /// Said last, then the stream ends.
    pub(super) bye: Option<crate::wire::v1::Bye>,
    /// Connections so far; a stream of an earlier one ends by itself.
    pub(super) generation: u64,
    /// Number of the last unit queued, and of the last one sent on this connection.
    pub(super) queued: u64,
    pub(super) framed: u64,
    /// It is time to tell what was seen, even if there is nothing to send.
    pub(super) is_due: bool,
    /// Not all that is queued may wait for company.
    pub(super) is_urgent: bool,
    /// The stream looks at the clock for what may.
    pub(super) is_armed: bool,
}

/// A peer's units to us.
pub(super) struct Inbox {
    pub(super) class: Class,
    pub(super) state: Mutex<InState>,
    /// Held while units are handed over, so that those of a new connection wait for those of the
    /// one before.
    pub(super) delivering: Mutex<()>,
    pub(super) is_up: AtomicBool,
}

pub(super) struct InState {
    pub(super) relay: Inbound,
    pub(super) alarm: Alarm,
    pub(super) pong: Option<crate::wire::v1::Pong>,
    pub(super) bye: Option<crate::wire::v1::Bye>,
    /// Of the connection in force.
    pub(super) generation: u64,
    /// Bytes that the node has not taken on, by number; only what it holds.
    pub(super) held: HashMap<u64, usize>,
    /// Bytes received since words were said.
    pub(super) unsaid: u64,
    /// It is time to say words.
    pub(super) is_due: bool,
    /// There are words that may wait for company.
    pub(super) is_soon: bool,
    /// The stream looks at the clock for them.
    pub(super) is_armed: bool,
}

/// Another life of a node.
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// `host:port` of its relay; empty: it dials us and is not in our view yet.
    pub(super) address: Mutex<String>,
    pub(super) outboxes: [Arc<Outbox>; 2],
    pub(super) inboxes: [Arc<Inbox>; 2],
    /// Ends the dialling tasks.
    pub(super) closed: AtomicBool,
    pub(super) closing: Notify,
    pub(super) is_dialled: AtomicBool,
}

impl Peer {
    pub(super) fn new(
        node: NodeId,
        incarnation: Incarnation,
        queue_bytes_max: usize,
        window_bytes: u64,
    ) -> Self {
        let outbox = |class| {
            Arc::new(Outbox {
                class,
                state: Mutex::new(OutState {
                    relay: Outbound::new(queue_bytes_max),
                    alarm: Alarm::default(),
                    notes: VecDeque::new(),
                    ping: None,
                    bye: None,
                    generation: 0,
                    queued: 0,
                    framed: 0,
                    is_due: false,
                    is_urgent: false,
                    is_armed: false,
                }),
                is_up: AtomicBool::new(false),
                connects: AtomicU64::new(0),
                resets: AtomicU64::new(0),
                heard_ms: AtomicU64::new(0),
                via: Mutex::default(),
            })
        };
        let inbox = |class| {
            Arc::new(Inbox {
                class,
                state: Mutex::new(InState {
                    relay: Inbound::new(window_bytes),
                    alarm: Alarm::default(),
                    pong: None,
                    bye: None,
                    generation: 0,
                    held: HashMap::new(),
                    unsaid: 0,
                    is_due: false,
                    is_soon: false,
                    is_armed: false,
                }),
                delivering: Mutex::new(()),
                is_up: AtomicBool::new(false),
            })
        };
        Self {
            node,
            incarnation,
            address: Mutex::new(String::new()),
            outboxes: [outbox(Class::Stanza), outbox(Class::Bulk)],
            inboxes: [inbox(Class::Stanza), inbox(Class::Bulk)],
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            is_dialled: AtomicBool::new(false),
        }
    }

    pub(super) fn outbox(&self, class: Class) -> &Arc<Outbox> {
        &self.outboxes[slot(class)]
    }

    pub(super) fn inbox(&self, class: Class) -> &Arc<Inbox> {
        &self.inboxes[slot(class)]
    }

    /// Ends everything with it.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
        for inbox in &self.inboxes {
            let mut state = inbox.state.lock();
            state.generation += 1;
            let waker = state.alarm.take();
            drop(state);
            wake(waker);
        }
        for outbox in &self.outboxes {
            let mut state = outbox.state.lock();
            state.generation += 1;
            let waker = state.alarm.take();
            drop(state);
            wake(waker);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Returns when it has left the view.
    pub(super) async fn until_closed(&self) {
        let closing = self.closing.notified();
        tokio::pin!(closing);
        // Before the look at the flag, so that no notification is missed between the two.
        closing.as_mut().enable();
        if !self.is_closed() {
            closing.await;
        }
    }

    /// Whether it is in the view, and our link to it stands, goes straight and is heard: then others
    /// can be reached over it, and it over us.
    pub(super) fn is_near(&self, silent_max_ms: u64) -> bool {
        let outbox = self.outbox(Class::Stanza);
        self.is_dialled.load(Ordering::Relaxed)
            && outbox.is_up.load(Ordering::Relaxed)
            && outbox.via.lock().is_none()
            && outbox.silent_ms() <= silent_max_ms
    }

    pub(super) fn stats(&self) -> impl Iterator<Item = LinkStats> + '_ {
        self.outboxes.iter().zip(&self.inboxes).map(|(out, inb)| {
            let (sent, queued_bytes, pending) = {
                let state = out.state.lock();
                let relay = &state.relay;
                (relay.counts(), relay.queued_bytes(), relay.pending())
            };
            let is_up = out.is_up.load(Ordering::Relaxed);
            LinkStats {
                node: self.node.clone(),
                incarnation: self.incarnation,
                class: out.class,
                is_up,
                via: out.via.lock().clone().filter(|_| is_up),
                is_heard: inb.is_up.load(Ordering::Relaxed),
                connects: out.connects.load(Ordering::Relaxed),
                resets: out.resets.load(Ordering::Relaxed),
                queued_bytes,
                pending,
                sent,
                received: inb.state.lock().relay.counts(),
            }
        })
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn slot(class: Class) -> usize {
    match class {
        Class::Stanza => 0,
        Class::Bulk => 1,
    }
}
