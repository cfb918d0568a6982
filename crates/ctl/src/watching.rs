//! Doing the same thing again and again (`-W`, `-w SECONDS`).

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::parse::Matches;
use crate::output;

/// The pace of repetitions.
#[derive(Debug)]
pub(crate) struct Watch {
    period: Duration,
    last: Instant,
}

impl Watch {
    /// Every `period`; zero for a single time.
    pub(crate) fn new(period: Duration) -> Self {
        Watch { period, last: Instant::now() }
    }

    /// The time between the beginnings of two repetitions.
    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    /// Waits for the next repetition. False if there is none.
    pub(crate) async fn next(&mut self) -> bool {
        if self.period.is_zero() {
            return false;
        }
        tokio::time::sleep_until(self.last + self.period).await;
        self.last = Instant::now();
        true
    }
}

/// How often, from the options.
pub(crate) fn period(matches: &Matches) -> Duration {
    let asked = matches.float("watch").filter(|seconds| *seconds > 0.0 && seconds.is_finite());
    match (asked, matches.flag("w")) {
        (Some(seconds), _) => Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        (None, true) => Duration::from_secs(2),
        (None, false) => Duration::ZERO,
    }
}

/// Clears the terminal, if it is one.
pub(crate) fn clear_screen() {
    if std::io::stdout().is_terminal() {
        output::write("\x1b[2J\x1b[1;1H");
    }
}
