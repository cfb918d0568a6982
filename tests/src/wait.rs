//! Waiting for states, never for time: each wait has a limit and says what it waited for.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A time limit of a wait, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub u64);

/// Polls `probe` until it gives `Ok`; its value, and how long that took.
///
/// # Panics
/// After `limit`, with `what` and the last thing seen.
#[track_caller]
pub fn wait_for<T, E: Debug>(what: &str, limit: Limit, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() >= Duration::from_secs(limit.0) => {
                panic!("not within {} s: {what}; last seen: {seen:?}", limit.0)
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
