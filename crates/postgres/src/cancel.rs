//! How a job is called off, and how it tells how far it is.

use std::fmt;
use std::sync::Arc;

use patroni_core::job::Stage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// A request to stop working, handed down to everything a job starts.
#[derive(Clone, Debug, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that holds this token, or a child of it, to stop.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Cancelled together with this one, or alone.
    pub fn child(&self) -> Cancel {
        Cancel(self.0.child_token())
    }

    /// Has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes when cancelled.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// An error if cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Where a job writes how far it is. The loop reads the latest value.
#[derive(Clone)]
pub struct Progress {
    stage: watch::Sender<Stage>,
    may_commit: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&*self.stage.borrow()).finish()
    }
}

impl Progress {
    /// Progress that the receiver sees.
    pub fn new() -> (Self, watch::Receiver<Stage>) {
        Self::with_condition(|| true)
    }

    /// The same, and nothing that has to be committed is done once `may_commit` says no. It is asked each time, at that very
    /// moment: it does not matter for how long the process stood still before.
    pub fn with_condition(may_commit: impl Fn() -> bool + Send + Sync + 'static) -> (Self, watch::Receiver<Stage>) {
        let (stage, receiver) = watch::channel(Stage::Revocable);
        (Progress { stage, may_commit: Arc::new(may_commit) }, receiver)
    }

    /// Progress that nobody looks at.
    pub fn ignored() -> Self {
        Self::new().0
    }

    /// Reports a stage.
    pub fn report(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Under way, no return; `text` says what is being done.
    pub fn committed(&self, text: impl Into<String>) {
        self.report(Stage::Committed(text.into()));
    }

    /// Says more of what is under way. A stage that says something else to the decision stays.
    pub fn remark(&self, text: impl Into<String>) {
        self.stage.send_if_modified(|stage| {
            let under_way = matches!(stage, Stage::Committed(_));
            if under_way {
                *stage = Stage::Committed(text.into());
            }
            under_way
        });
    }

    /// Nothing was done yet that cannot be taken back.
    pub fn is_revocable(&self) -> bool {
        *self.stage.borrow() == Stage::Revocable
    }

    /// Changes from revocable to committed, unless cancelled before or no longer allowed: afterwards a cancellation comes too
    /// late.
    ///
    /// # Errors
    /// [`Error::Cancelled`]
    pub fn commit(&self, cancel: &Cancel, text: impl Into<String>) -> Result<()> {
        cancel.check()?;
        if !(self.may_commit)() {
            return Err(Error::Cancelled);
        }
        self.committed(text);
        Ok(())
    }
}
