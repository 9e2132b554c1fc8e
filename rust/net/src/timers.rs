//! Deadlines without timers: connections note when they want to be woken, one task looks once a
//! second. An idle connection costs one entry here and nothing in the runtime.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

/// A connection's wish to be woken.
#[derive(Debug, Default)]
pub struct Alarm {
    due_ms: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Alarm {
    /// Wake this task at or shortly after `due_ms` (ms of the sweeper's clock), once.
    pub fn set(&self, due_ms: u64, waker: &Waker) {
        let mut slot = self.waker.lock();
        match &mut *slot {
            Some(old) if old.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
        self.due_ms.store(due_ms, Ordering::Release);
    }

    /// When it rings, `u64::MAX` for never.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        match self.due_ms.load(Ordering::Acquire) {
            0 => u64::MAX,
            due => due,
        }
    }

    fn ring(&self) {
        self.due_ms.store(0, Ordering::Release);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

/// All alarms of a node.
#[derive(Debug, Default)]
pub struct Alarms {
    entries: Mutex<HashMap<u64, Arc<Alarm>>>,
    next: AtomicU64,
}

/// Keeps an alarm known; gone when dropped.
#[derive(Debug)]
pub struct AlarmHandle {
    /// The alarm.
    pub alarm: Arc<Alarm>,
    key: u64,
    alarms: Arc<Alarms>,
}

impl Drop for AlarmHandle {
    fn drop(&mut self) {
        let mut entries = self.alarms.entries.lock();
        entries.remove(&self.key);
        if entries.capacity() > 1024 && entries.len() * 4 < entries.capacity() {
            entries.shrink_to_fit();
        }
    }
}

impl Alarms {
    /// Enters a new alarm.
    pub fn register(self: &Arc<Self>) -> AlarmHandle {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let alarm = Arc::new(Alarm::default());
        self.entries.lock().insert(key, Arc::clone(&alarm));
        AlarmHandle {
            alarm,
            key,
            alarms: Arc::clone(self),
        }
    }

    /// Rings what is due; called about once a second.
    pub fn sweep(&self, now_ms: u64) {
        let due: Vec<Arc<Alarm>> = {
            let entries = self.entries.lock();
            entries
                .values()
                .filter(|a| a.due_ms() <= now_ms)
                .cloned()
                .collect()
        };
        for alarm in due {
            alarm.ring();
        }
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Counter(AtomicUsize);
    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_alarm_rings_once_when_due_and_is_forgotten_when_dropped() {
        let alarms = Arc::new(Alarms::default());
        let handle = alarms.register();
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        handle.alarm.set(100, &Waker::from(Arc::clone(&counter)));
        alarms.sweep(99);
        assert_eq!(counter.0.load(Ordering::SeqCst), 0);
        alarms.sweep(100);
        alarms.sweep(101);
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        drop(handle);
        assert!(alarms.is_empty());
    }
}
