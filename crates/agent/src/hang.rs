//! While this node leads: does its server hang? A task of its own looks, and wakes the loop when nothing moves any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patroni_core::hang::{Standstill, Watch};
use patroni_postgres::monitor::{Monitor, Pulse};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;

/// From one look to the next. Where the server does not answer, a look takes longer: then the next one begins at once, so that the time
/// after which a server is taken for hung is not stretched.
const INTERVAL: Duration = Duration::from_secs(1);

/// Since when the loop looks itself: it says when the time is over.
const NEWS: Duration = Duration::from_secs(2);

/// The watch over the server of a leader.
pub(crate) struct HangWatch {
    monitor: Monitor,
    found: Arc<Mutex<Option<Standstill>>>,
    task: Option<JoinHandle<()>>,
}

impl HangWatch {
    /// Nobody looks yet.
    pub(crate) fn new(monitor: Monitor) -> Self {
        HangWatch { monitor, found: Arc::default(), task: None }
    }

    /// What the last look showed.
    pub(crate) fn standstill(&self) -> Option<Standstill> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look, or stops.
    pub(crate) fn watch(&mut self, wanted: bool, woken: &Arc<Notify>) {
        if !wanted {
            self.stop();
        } else if self.task.as_ref().is_none_or(JoinHandle::is_finished) {
            let (pulse, found) = (Pulse::new(self.monitor.clone()), Arc::clone(&self.found));
            self.task = Some(tokio::spawn(look(pulse, found, Arc::clone(woken))));
        }
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for HangWatch {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn look(mut pulse: Pulse, found: Arc<Mutex<Option<Standstill>>>, woken: Arc<Notify>) {
    let mut watch = Watch::default();
    let mut next = interval(INTERVAL);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        let mut meanwhile = None;
        let signs = pulse.look(|silent| meanwhile = Some((clock::boot(), silent))).await;
        let standstill = watch.see_from(meanwhile, clock::boot(), signs);
        let before = std::mem::replace(&mut *found.lock().unwrap_or_else(PoisonError::into_inner), standstill);
        let lasts = |standstill: Option<Standstill>| standstill.is_some_and(|standstill| standstill.lasted >= NEWS);
        if lasts(before) != lasts(standstill) {
            woken.notify_one();
        }
    }
}
