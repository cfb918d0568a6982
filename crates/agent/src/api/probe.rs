//! Asking PostgreSQL once for all who want to know at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::server::Running;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Finds out how the local server is, by a query.
#[async_trait]
pub trait StatusProbe: Send + Sync + 'static {
    /// Asks the server. The text of an error says why there is no answer.
    ///
    /// May take as long as it likes: whoever waits has a deadline. It is dropped after [`QUERY_LIMIT`].
    async fn probe(&self) -> Result<Running, String>;
}

/// How long a question may go unanswered until those who wait, and all who come later, are told that nothing is known.
pub const PATIENCE: Duration = Duration::from_millis(1000);

/// The same, where the question before was not answered at all: there is little hope.
const PATIENCE_IN_DOUBT: Duration = Duration::from_millis(50);

/// How long a question that is not answered is kept before a new one may be asked.
pub const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// How old an answer may be to be given again: a burst of checks costs one query.
const FRESH: Duration = Duration::from_millis(20);

type Answer = Option<Result<Arc<Running>, String>>;

/// One probe for all.
pub(crate) struct SharedProbe {
    probe: Arc<dyn StatusProbe>,
    // Held for a few instructions only, never while waiting.
    current: Mutex<Option<Question>>,
}

#[derive(Clone)]
struct Question {
    deadline: Instant,
    answer: watch::Receiver<(Instant, Answer)>,
}

impl SharedProbe {
    pub(crate) fn new(probe: Arc<dyn StatusProbe>) -> Self {
        SharedProbe { probe, current: Mutex::new(None) }
    }

    /// What the server says, at most [`PATIENCE`] after it was asked.
    pub(crate) async fn ask(&self) -> Result<Arc<Running>, String> {
        let mut question = self.question();
        match timeout_at(question.deadline, question.answer.wait_for(|(_, answer)| answer.is_some())).await {
            Ok(Ok(answered)) => answered.1.clone().unwrap_or_else(|| Err("no answer".to_owned())),
            Ok(Err(_)) => Err("the query was given up".to_owned()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
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
            if let Ok(result) = tokio::time::timeout(QUERY_LIMIT, probe.probe()).await {
                sender.send_replace((Instant::now(), Some(result.map(Arc::new))));
            }
        });
        let patience = if in_doubt { PATIENCE_IN_DOUBT } else { PATIENCE };
        let question = Question { deadline: asked + patience, answer };
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
        async fn probe(&self) -> Result<Running, String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
    }

    struct Counting(AtomicUsize);

    #[async_trait]
    impl StatusProbe for Counting {
        async fn probe(&self) -> Result<Running, String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err("down".to_owned())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_costs_one_query() {
        let counting = Arc::new(Counting(AtomicUsize::new(0)));
        let shared = Arc::new(SharedProbe::new(counting.clone()));
        let asks: Vec<_> = (0..100)
            .map(|_| {
                tokio::spawn({
                    let shared = Arc::clone(&shared);
                    async move { shared.ask().await }
                })
            })
            .collect();
        for ask in asks {
            assert_eq!(ask.await.unwrap(), Err("down".to_owned()));
        }
        assert_eq!(counting.0.load(Ordering::SeqCst), 1);
        tokio::time::sleep(FRESH).await;
        let _ = shared.ask().await;
        assert_eq!(counting.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_delays_only_the_first() {
        let hanging = Arc::new(Hanging(AtomicUsize::new(0)));
        let shared = SharedProbe::new(hanging.clone());
        let start = Instant::now();
        assert!(shared.ask().await.is_err());
        assert_eq!(start.elapsed(), PATIENCE);
        assert!(shared.ask().await.is_err());
        assert_eq!(start.elapsed(), PATIENCE, "the second had not to wait");
        assert_eq!(hanging.0.load(Ordering::SeqCst), 1);
        tokio::time::sleep(QUERY_LIMIT).await;
        assert!(shared.ask().await.is_err());
        assert_eq!(hanging.0.load(Ordering::SeqCst), 2, "asked again after the limit");
        assert_eq!(start.elapsed(), PATIENCE + QUERY_LIMIT + PATIENCE_IN_DOUBT);
    }
}
