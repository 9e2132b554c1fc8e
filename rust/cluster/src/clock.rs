//! The two clocks of the I/O half: time since boot for deadlines, wall time for comparing nodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the machine started. Unlike `Instant` it goes on while the machine is
/// suspended, so a lease never looks younger than it is.
#[must_use]
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither part is negative for this clock.
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Milliseconds since boot, the unit of deadlines.
#[must_use]
pub fn now_ms() -> u64 {
    since_boot().as_millis() as u64
}

/// The wall clock, milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
