//! Instants that a decision can compare. The clocks themselves are read by the driver only.

use std::ops::Add;
use std::time::Duration;

pub mod schedule;

/// An instant on the boot-time clock (`CLOCK_BOOTTIME`): it counts while the machine is suspended and does not move
/// when the wall clock is set. Leases and time-outs are measured on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(span))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01 UTC. Only for what people schedule and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

/// What time it is, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now {
    /// For leases and time-outs.
    pub boot: Moment,
    /// For schedules and history.
    pub wall: WallTime,
}
