//! Becoming primary.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use patroni_core::server::{ControlState, Role};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Control, POLL};
use crate::callbacks::CallbackAction;
use crate::cancel::{Cancel, Progress};
use crate::conf::files;
use crate::controldata::peek_state;
use crate::programs::{self, Stderr, command_of, describe, split};
use crate::{Error, Result, blocking};

/// When a promotion that has not come about is nudged: a request that arrives just as recovery begins its pause between attempts to
/// connect (`wal_retrieve_retry_interval`, 5 s) is noticed only after it, unless a reload wakes recovery up.
const NUDGE_AFTER: Duration = Duration::from_millis(300);

/// How long writing the file that asks for the promotion may take.
const TRIGGER_LIMIT: Duration = Duration::from_secs(5);

/// How a promotion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// Out of recovery.
    Done,
    /// The `pre_promote` script ended with an error: nothing was done.
    PrePromoteFailed,
    /// Told to promote, and still in recovery after the limit.
    StillInRecovery,
}

impl Control {
    /// Runs `pre_promote`, then promotes and waits until the server is out of recovery. Revocable until the script ended well;
    /// then `cancel` ends the waiting only.
    ///
    /// # Errors
    /// [`Error::Cancelled`] before; no postmaster, or it died.
    pub async fn promote(&mut self, limit: Duration, cancel: &Cancel, progress: &Progress) -> Result<Promoted> {
        let postmaster = self.running().await?;
        let data_dir = self.options().data_dir.clone();
        if peek_state(&data_dir).await == Some(ControlState::InProduction) {
            progress.commit(cancel, "already primary")?;
            self.role = Role::Primary;
            return Ok(Promoted::Done);
        }
        if !self.run_pre_promote(cancel).await? {
            return Ok(Promoted::PrePromoteFailed);
        }
        progress.commit(cancel, "promoting")?;
        // What `pg_ctl promote` does, without the time for starting a program.
        let trigger = data_dir.join("promote");
        write_trigger(trigger.clone()).await?;
        if let Err(error) = postmaster.signal(Signal::USR1) {
            forget(&trigger).await;
            return Err(error);
        }
        self.role = Role::Promoted;
        self.call_back(CallbackAction::OnRoleChange);
        let deadline = Instant::now() + limit;
        let (mut nudge_at, mut pause) = (Instant::now() + NUDGE_AFTER, NUDGE_AFTER);
        while peek_state(&data_dir).await != Some(ControlState::InProduction) {
            if Instant::now() >= deadline || cancel.is_cancelled() {
                return Ok(Promoted::StillInRecovery);
            }
            tokio::select! {
                () = postmaster.exited() => {
                    // The next start must not become primary by itself.
                    forget(&trigger).await;
                    return Err(Error::Unexpected("PostgreSQL died while it was promoted".into()));
                }
                () = sleep(POLL) => {}
            }
            if Instant::now() >= nudge_at {
                // The outcome shows in the state; a server that is gone has its own branch above.
                let _ = postmaster.signal(Signal::HUP);
                pause *= 2;
                nudge_at += pause;
            }
        }
        self.role = Role::Primary;
        Ok(Promoted::Done)
    }

    async fn run_pre_promote(&self, cancel: &Cancel) -> Result<bool> {
        let options = self.options();
        let Some(script) = &options.pre_promote else { return Ok(true) };
        let words = match split(script) {
            Ok(words) => words,
            Err(error) => {
                tracing::error!("pre_promote: {error}");
                return Ok(false);
            }
        };
        match programs::run(command_of(&words), None, Stderr::Log, cancel, None).await {
            Ok(output) => {
                tracing::info!("pre_promote script `{script}` exited with {}", describe(output.status));
                Ok(output.status.success())
            }
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => {
                tracing::error!("pre_promote script `{script}`: {error}");
                Ok(false)
            }
        }
    }
}

/// That it cannot be removed shows when it is looked for.
async fn forget(trigger: &Path) {
    let _ = files::remove(trigger.to_owned()).await;
}

/// On a disk that hangs the promotion has not begun: a trigger that is written when the disk answers again is taken back.
async fn write_trigger(trigger: PathBuf) -> Result<()> {
    // Whoever comes first: the write, or the end of the waiting for it.
    let (settled, path) = (Arc::new(AtomicBool::new(false)), trigger.clone());
    let is_late = Arc::clone(&settled);
    let write = blocking::within(TRIGGER_LIMIT, format!("writing {}", trigger.display()), move || {
        patroni_files::append(&path).map_err(|error| Error::file("write", &path, error))?;
        if is_late.swap(true, Ordering::SeqCst) {
            let _ = fs::remove_file(&path);
        }
        Ok(())
    });
    match write.await {
        Err(Error::Timeout { .. }) if settled.swap(true, Ordering::SeqCst) => Ok(()),
        written => written,
    }
}
