//! The clocks. Nothing else in the agent reads them for a decision.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use patroni_core::time::{Moment, Now, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// What time it is, on both clocks.
pub(crate) fn now() -> Now {
    Now { boot: boot(), wall: wall() }
}

/// The boot-time clock: it counts while the machine is suspended, and nobody can set it.
pub(crate) fn boot() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Moment(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

fn wall() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
