//! One loop for all requests to stores on the network: tries endpoints in turn inside the time budget, and keeps in mind
//! whether an attempt may have been carried out.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use patroni_core::facts::Outcome;
use tokio::time::Instant;

use crate::Unread;

/// What is known about an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was surely not carried out; try another endpoint.
    NotSent,
    /// It may have been carried out; try another endpoint.
    Unknown,
    /// It was surely not carried out and never will be; another try is pointless.
    Refused,
    /// The lease or session it names does not exist (any more).
    LeaseNotFound,
}

/// How a request ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No attempt was carried out.
    NotDone(String),
    /// Some attempt may have been carried out.
    Unknown(String),
    /// The lease or session it names does not exist (any more).
    LeaseNotFound,
}

impl Failure {
    /// For a step before the write: the write itself was surely not done.
    pub(crate) fn before_write(self) -> Failure {
        match self {
            Failure::NotDone(text) | Failure::Unknown(text) => Failure::NotDone(text),
            Failure::LeaseNotFound => Failure::LeaseNotFound,
        }
    }

    /// For a step after a write whose fate it should have told.
    pub(crate) fn after_write(self) -> Failure {
        match self {
            Failure::NotDone(text) | Failure::Unknown(text) => Failure::Unknown(text),
            Failure::LeaseNotFound => Failure::Unknown("the lease is gone".to_owned()),
        }
    }

    /// What it means for whoever asked for a write.
    pub(crate) fn outcome<T>(self) -> Outcome<T> {
        match self {
            Failure::NotDone(text) => Outcome::Failed(text),
            Failure::Unknown(text) => Outcome::Unknown(text),
            Failure::LeaseNotFound => Outcome::Failed("the lease disappeared from the store, again and again".into()),
        }
    }

    /// What it means for whoever asked for a read: it changes nothing, so an unknown one did not happen.
    pub(crate) fn unread(self) -> Unread {
        match self {
            Failure::NotDone(text) | Failure::Unknown(text) => Unread(text),
            Failure::LeaseNotFound => Unread("the lease disappeared from the store".to_owned()),
        }
    }
}

/// The shortest time that an endpoint gets, whatever the budget.
const SHORTEST: Duration = Duration::from_secs(1);

/// Sends a request, again and again until there is an answer or the deadline. `attempt` gets the time it may take, and whether
/// an earlier attempt may have been carried out. An endpoint that hangs is left early: the first round through the endpoints,
/// of which there are `count`, may take half of the budget.
pub(crate) async fn persist<T, F, Fut>(
    store: &str,
    deadline: Instant,
    count: impl Fn() -> usize,
    attempt: F,
) -> Result<T, Failure>
where
    F: Fn(Duration, bool) -> Fut,
    Fut: Future<Output = Result<T, (Fate, String)>>,
{
    let mut uncertain = false;
    let mut last = String::from("there was no time left to ask");
    let mut tries = 0_usize;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let count = count().max(1);
        if left.is_zero() || (tries > 0 && left < Duration::from_millis(10)) {
            break;
        }
        let rounds = if tries < count { 2 } else { 1 };
        let share = left / u32::try_from(rounds * count - tries % count).unwrap_or(u32::MAX);
        let patience = share.max(SHORTEST).min(left);
        tries += 1;
        match attempt(patience, uncertain).await {
            Ok(answer) => return Ok(answer),
            Err((Fate::LeaseNotFound, _)) => return Err(Failure::LeaseNotFound),
            Err((Fate::Refused, text)) => {
                last = text;
                break;
            }
            Err((fate, text)) => {
                uncertain |= fate == Fate::Unknown;
                tracing::debug!("request to {store} failed: {text}");
                last = text;
            }
        }
        if tries.is_multiple_of(count) {
            let pause = jittered(Duration::from_millis(50 << (tries / count).min(4)));
            tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
        }
    }
    let text = format!("{store} is not responding properly: {last}");
    Err(if uncertain { Failure::Unknown(text) } else { Failure::NotDone(text) })
}

/// A random time from half of the given one to all of it.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}
