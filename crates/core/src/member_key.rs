//! When the key of this member is written.
//!
//! A member's key runs out a `ttl` after it was written last. It is renewed by what is known of the writes that took place,
//! not by what woke the loop, or a loop that is woken again and again would never come to it. What others react to is
//! written at once. Positions change with every byte of WAL: they go with the renewals, about once per `loop_wait`, or
//! members would wake each other without end.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::MemberData;
use crate::facts::Outcome;
use crate::settings::Settings;
use crate::time::Moment;
use crate::view::without_positions;

/// The pause after a write that failed, or of which nobody knows what became of it.
const PAUSE: Duration = Duration::from_secs(1);

/// What this agent knows of its member's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemberKey {
    /// The last write that surely took place, and the moment before it was sent.
    written: Option<(Arc<MemberData>, Moment)>,
    /// When a write ended of which that is not known, if none has succeeded since.
    failed_at: Option<Moment>,
    /// The last write that was ordered, while its outcome is not known.
    ordered: Option<Arc<MemberData>>,
}

impl MemberKey {
    /// A write is ordered. It takes the place of an earlier one that has not begun.
    pub fn order(&mut self, data: Arc<MemberData>) {
        self.ordered = Some(data);
    }

    /// A write ended, which was sent after `sent_at`.
    pub fn ended(&mut self, data: &Arc<MemberData>, outcome: &Outcome<()>, sent_at: Moment, now: Moment) {
        if self.ordered.as_ref() == Some(data) {
            self.ordered = None;
        }
        match outcome {
            Outcome::Done(()) => {
                self.written = Some((Arc::clone(data), sent_at));
                self.failed_at = None;
            }
            Outcome::Refused | Outcome::Failed(_) | Outcome::Unknown(_) => self.failed_at = Some(now),
        }
    }

    /// How long the key can go without being written; zero: it is due. `data` is what it should say, `missing`: the store does
    /// not have it, although nothing is on its way there.
    pub fn due_in(&self, data: &MemberData, missing: bool, settings: &Settings, now: Moment) -> Duration {
        let news = |known: &MemberData| without_positions(known) != without_positions(data);
        let period = period(settings);
        if let Some(ordered) = &self.ordered {
            // The loop is woken where it does not succeed.
            return if news(ordered) { Duration::ZERO } else { period };
        }
        if let Some(failed_at) = self.failed_at {
            return PAUSE.saturating_sub(now.since(failed_at));
        }
        match &self.written {
            Some((known, at)) if !missing && !news(known) => {
                let left = period.saturating_sub(now.since(*at));
                // So near its end the next tick would come for nothing else.
                if left < period / 10 { Duration::ZERO } else { left }
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    /// For a mistake on purpose: as if it had been written then.
    #[cfg(feature = "deliberate-bugs")]
    pub(crate) fn pretend_renewed(&mut self, at: Moment) {
        if let Some((_, sent_at)) = &mut self.written {
            *sent_at = at.max(*sent_at);
        }
    }

    /// The same, without a look at what it should say: for the time after it was written.
    pub fn next_look(settings: &Settings) -> Duration {
        period(settings)
    }
}

/// How old a write may become: positions are of interest about once per `loop_wait`, and after half a `ttl` there is time left
/// for writes that fail.
fn period(settings: &Settings) -> Duration {
    settings.loop_wait.min(settings.ttl / 2)
}
