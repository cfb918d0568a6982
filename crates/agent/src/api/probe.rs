//! Asking PostgreSQL once for all who want to know at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::health::NO_ANSWER;
use patroni_core::server::Postmaster;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Finds out what the local server does, by a look at its process and a query.
#[async_trait]
pub trait StatusProbe: Send + Sync + 'static {
    /// Looks at the server.
    ///
    /// May take as long as it likes: whoever waits has a deadline. It is dropped after [`QUERY_LIMIT`].
    async fn probe(&self) -> Postmaster;

    /// Why the primary refuses a replication connection of this standby, if it does.
    async fn refusal(&self) -> Option<String> {
        None
    }
}

/// How long a question may go unanswered until those who wait, and all who come later, are told that nothing is known.
pub const PATIENCE: Duration = Duration::from_millis(1000);

/// The same for checks of the lease: what was known before goes on counting for them.
pub(crate) const PATIENCE_OF_LEASE: Duration = Duration::from_millis(100);

/// The same, where the question before was not answered at all: there is little hope.
const PATIENCE_IN_DOUBT: Duration = Duration::from_millis(50);

/// How long a question that is not answered is kept before a new one may be asked.
pub const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// How old an answer may be to be given again: a burst of checks costs one query.
const FRESH: Duration = Duration::from_millis(20);

/// How old the answer about the primary may be to be given again: it costs a connection there.
const REFUSAL_FRESH: Duration = Duration::from_secs(5);

type Answer = Option<Arc<Postmaster>>;

/// One probe for all.
pub(crate) struct SharedProbe {
    probe: Arc<dyn StatusProbe>,
    // Held for a few instructions only, never while waiting.
    current: Mutex<Option<Question>>,
    refusal: Mutex<Option<(Instant, Option<String>)>>,
}

#[derive(Clone)]
struct Question {
    asked: Instant,
    in_doubt: bool,
    answer: watch::Receiver<(Instant, Answer)>,
}

impl SharedProbe {
    pub(crate) fn new(probe: Arc<dyn StatusProbe>) -> Self {
        SharedProbe { probe, current: Mutex::new(None), refusal: Mutex::new(None) }
    }

    /// Why the primary refuses this standby, if it does. While that is found out, others get the answer before.
    pub(crate) async fn refusal(&self) -> Option<String> {
        let last = || self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut last = last();
            let before = last.as_ref().and_then(|(_, text)| text.clone());
            if last.as_ref().is_some_and(|(at, _)| at.elapsed() < REFUSAL_FRESH) {
                return before;
            }
            *last = Some((Instant::now(), before));
        }
        let found = tokio::time::timeout(QUERY_LIMIT, self.probe.refusal()).await.ok().flatten();
        *last() = Some((Instant::now(), found.clone()));
        found
    }

    /// What the server does, at most so long after it was asked: without an answer until then it is [`NO_ANSWER`].
    pub(crate) async fn ask(&self, patience: Duration) -> Arc<Postmaster> {
        let mut question = self.question();
        let patience = if question.in_doubt { PATIENCE_IN_DOUBT } else { patience };
        let answer = question.answer.wait_for(|(_, answer)| answer.is_some());
        let answered = timeout_at(question.asked + patience, answer).await;
        answered.ok().and_then(|answered| answered.ok()?.1.clone()).unwrap_or_else(|| Arc::new(NO_ANSWER.clone()))
    }

    /// The question that is under way or was just answered, or else a new one.
    fn question(&self) -> Question {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(question) = current.as_ref().filter(|question| question.is_good()) {
            return question.clone();
        }
        let in_doubt = current.as_ref().is_some_and(|last| last.answer.borrow().1.is_none());
        let asked = Instant::now();
        let (sender, answer) = watch::channel((asked, None));
        let probe = Arc::clone(&self.probe);
        tokio::spawn(async move {
            if let Ok(postmaster) = tokio::time::timeout(QUERY_LIMIT, probe.probe()).await {
                sender.send_replace((Instant::now(), Some(Arc::new(postmaster))));
            }
        });
        let question = Question { asked, in_doubt, answer };
        *current = Some(question.clone());
        question
    }
}

impl Question {
    /// Still under way, or answered a moment ago.
    fn is_good(&self) -> bool {
        let (at, answer) = &*self.answer.borrow();
        match answer {
            Some(_) => at.elapsed() < FRESH,
            None => self.answer.has_changed().is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Hanging(AtomicUsize);

    #[async_trait]
    impl StatusProbe for Hanging {
        async fn probe(&self) -> Postmaster {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
    }

    struct Counting(AtomicUsize);

    #[async_trait]
    impl StatusProbe for Counting {
        async fn probe(&self) -> Postmaster {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Postmaster::Stopping
        }
    }

    struct Refused(AtomicUsize);

    #[async_trait]
    impl StatusProbe for Refused {
        async fn probe(&self) -> Postmaster {
            Postmaster::Stopping
        }

        async fn refusal(&self) -> Option<String> {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some(format!("no {}", self.0.fetch_add(1, Ordering::SeqCst)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_primary_is_asked_once_in_a_while() {
        let shared = Arc::new(SharedProbe::new(Arc::new(Refused(AtomicUsize::new(0)))));
        let (first, meanwhile) = tokio::join!(shared.refusal(), shared.refusal());
        assert_eq!((first.as_deref(), meanwhile.as_deref()), (Some("no 0"), None));
        assert_eq!(shared.refusal().await.as_deref(), Some("no 0"));
        tokio::time::sleep(REFUSAL_FRESH).await;
        assert_eq!(shared.refusal().await.as_deref(), Some("no 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_costs_one_query() {
        let counting = Arc::new(Counting(AtomicUsize::new(0)));
        let shared = Arc::new(SharedProbe::new(counting.clone()));
        let asks: Vec<_> = (0..100)
            .map(|_| {
                tokio::spawn({
                    let shared = Arc::clone(&shared);
                    async move { shared.ask(PATIENCE).await }
                })
            })
            .collect();
        for ask in asks {
            assert_eq!(*ask.await.unwrap(), Postmaster::Stopping);
        }
        assert_eq!(counting.0.load(Ordering::SeqCst), 1);
        tokio::time::sleep(FRESH).await;
        shared.ask(PATIENCE).await;
        assert_eq!(counting.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_delays_only_the_first() {
        let hanging = Arc::new(Hanging(AtomicUsize::new(0)));
        let shared = SharedProbe::new(hanging.clone());
        let start = Instant::now();
        assert_eq!(*shared.ask(PATIENCE_OF_LEASE).await, *NO_ANSWER);
        assert_eq!(start.elapsed(), PATIENCE_OF_LEASE);
        assert_eq!(*shared.ask(PATIENCE).await, *NO_ANSWER);
        assert_eq!(start.elapsed(), PATIENCE);
        assert_eq!(*shared.ask(PATIENCE).await, *NO_ANSWER);
        assert_eq!(start.elapsed(), PATIENCE, "the second had not to wait");
        assert_eq!(hanging.0.load(Ordering::SeqCst), 1);
        tokio::time::sleep(QUERY_LIMIT).await;
        assert_eq!(*shared.ask(PATIENCE).await, *NO_ANSWER);
        assert_eq!(hanging.0.load(Ordering::SeqCst), 2, "asked again after the limit");
        assert_eq!(start.elapsed(), PATIENCE + QUERY_LIMIT + PATIENCE_IN_DOUBT);
    }
}
