//! The clock that leases are measured with.

use std::time::Duration;

use patroni_core::time::Moment;

/// What `CLOCK_BOOTTIME` says.
pub(crate) fn boot_time() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Moment(Duration::new(seconds, nanoseconds))
}
