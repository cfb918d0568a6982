//! Stopping PostgreSQL.

use std::time::Duration;

use patroni_core::job::Stage;
use patroni_core::lsn::Lsn;
use patroni_core::server::ControlState;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Control, POLL, blocking, holdup};
use crate::callbacks::CallbackAction;
use crate::cancel::{Cancel, Progress};
use crate::controldata::{ControlValues, peek_state};
use crate::options::ServerOptions;
use crate::postmaster::Postmaster;
use crate::processes::kill_all;
use crate::programs::{self, Stderr, command_of, describe, split};
use crate::unfinished::Unfinished;
use crate::{Error, Result};

/// The longest CHECKPOINT before a planned stop; the shutdown makes its own anyway.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(3600);

/// How long a killed postmaster and its children may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// How long an immediate shutdown may take.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);

/// How PostgreSQL is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Waits for clients to leave (SIGTERM).
    Smart,
    /// Ends clients, then makes a shutdown checkpoint (SIGINT).
    Fast,
    /// Ends at once; the next start has to recover (SIGQUIT).
    Immediate,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOptions {
    /// The mode.
    pub mode: Mode,
    /// CHECKPOINT before, so that the one of the shutdown is short.
    pub checkpoint: bool,
    /// Tell by [`Stage::ShutDown`] when the shutdown checkpoint is on disk.
    pub report_shutdown: bool,
    /// After this time the mode becomes immediate, after the same time again it is killed. `None` to wait for ever.
    pub timeout: Option<Duration>,
    /// Call back `on_stop`.
    pub callback: bool,
}

impl StopOptions {
    /// Checkpoint, then fast.
    pub fn planned() -> Self {
        StopOptions { mode: Mode::Fast, checkpoint: true, report_shutdown: false, timeout: None, callback: true }
    }

    /// Immediate. What does not stop at once is killed: a postmaster that can do anything kills its children after five seconds.
    pub fn immediate() -> Self {
        let timeout = Some(IMMEDIATE_LIMIT);
        StopOptions { mode: Mode::Immediate, checkpoint: false, timeout, ..Self::planned() }
    }
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// There was nothing to stop.
    WasNotRunning,
    /// Gone. With the positions of the shutdown checkpoint, if they were asked for and it was made.
    Gone(Option<ShutdownCheckpoint>),
}

/// Where a primary ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownCheckpoint {
    /// Where the record of the shutdown checkpoint begins.
    pub checkpoint: Lsn,
    /// Where the record begins that a standby has to have: the same, or, with `archive_mode`, that of the switch of WAL
    /// files before it.
    pub previous: Lsn,
}

impl Control {
    /// Stops PostgreSQL and waits until the postmaster is gone. Cancelling before the signal is sent leaves it running; later it
    /// ends the waiting while PostgreSQL goes on stopping.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; the signal cannot be sent; it cannot be killed.
    pub async fn stop(&mut self, stop: StopOptions, cancel: &Cancel, progress: &Progress) -> Result<Stopped> {
        let Some(postmaster) = self.monitor.alive().await? else { return Ok(Stopped::WasNotRunning) };
        // Somebody has started it: whatever was unfinished is not any more. A disk that hangs does not hold up the stop.
        let data_dir = self.options().data_dir.clone();
        tokio::join!(self.stop_running(&postmaster, stop, cancel, progress), Unfinished::clear(&data_dir)).0
    }

    async fn stop_running(
        &mut self,
        postmaster: &Postmaster,
        stop: StopOptions,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<Stopped> {
        if stop.checkpoint {
            match self.checkpoint(stop.timeout.unwrap_or(CHECKPOINT_LIMIT), cancel).await {
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => tracing::error!("Exception during CHECKPOINT: {error}"),
                Ok(()) => {}
            }
        }
        self.run_before_stop(cancel).await?;
        let events = if stop.checkpoint { self.wait_events().await } else { holdup::WaitEvents::new() };
        self.after_start = None;
        progress.commit(cancel, "stopping PostgreSQL")?;
        postmaster.signal(match stop.mode {
            Mode::Smart => Signal::TERM,
            Mode::Fast => Signal::INT,
            Mode::Immediate => Signal::QUIT,
        })?;
        let end = self.wait_for_exit(postmaster, &stop, &events, cancel, progress).await?;
        if stop.callback {
            self.call_back(CallbackAction::OnStop);
        }
        Ok(Stopped::Gone(end))
    }

    async fn wait_for_exit(
        &self,
        postmaster: &Postmaster,
        stop: &StopOptions,
        events: &holdup::WaitEvents,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<Option<ShutdownCheckpoint>> {
        let watched = async {
            let report = stop.report_shutdown && stop.mode != Mode::Immediate;
            let end = if report { self.report_shutdown(postmaster, progress).await } else { None };
            postmaster.exited().await;
            if let Some(ShutdownCheckpoint { checkpoint, previous }) = end {
                progress.report(Stage::ShutDown { checkpoint, previous, exited: true });
            }
            end
        };
        let mut watched = std::pin::pin!(watched);
        let escalation = async {
            match stop.timeout {
                Some(limit) => self.escalate(postmaster, stop.mode, limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = &mut watched => Ok(end),
            killed = escalation => killed.map(|()| None),
            never = holdup::report(postmaster, stop.timeout, events, progress) => match never {},
            () = cancel.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Makes the mode harder each time `limit` passes, until nothing of the server runs any more.
    async fn escalate(&self, postmaster: &Postmaster, mode: Mode, limit: Duration) -> Result<()> {
        sleep(limit).await;
        tracing::warn!("Timeout during postmaster stop, aborting Postgres.");
        if mode != Mode::Immediate {
            postmaster.signal(Signal::QUIT)?;
            sleep(limit).await;
        }
        tracing::warn!("Sending SIGKILL to Postmaster and its children");
        self.kill(postmaster).await
    }

    /// Ends a server that hangs: every process of it is killed.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; not permitted, or a process goes on.
    pub async fn kill_hung(&mut self, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let Some(postmaster) = self.monitor.alive().await? else { return Ok(()) };
        self.after_start = None;
        progress.commit(cancel, "killing PostgreSQL")?;
        self.kill(&postmaster).await?;
        self.call_back(CallbackAction::OnStop);
        Ok(())
    }

    /// Kills every process of the server. Afterwards none of them runs, though some may still be there: those that sleep in the kernel
    /// go when they wake up, and until then the server counts as stopping.
    ///
    /// # Errors
    /// Not permitted, or a process goes on.
    pub(crate) async fn kill(&self, postmaster: &Postmaster) -> Result<()> {
        let pid = postmaster.pid();
        let what = format!("killing the processes of PostgreSQL (pid={pid})");
        let mut killed = blocking::within(KILL_LIMIT * 2, what, move || kill_all(pid, KILL_LIMIT)).await?;
        if killed.remain() {
            tracing::warn!(
                "Processes of PostgreSQL that were killed hang in the kernel; they are gone when that lets them go"
            );
        }
        self.monitor.remember_killed(killed);
        Ok(())
    }

    /// Waits for the shutdown checkpoint of a primary, or for the end of the postmaster, and reports where it is.
    async fn report_shutdown(&self, postmaster: &Postmaster, progress: &Progress) -> Option<ShutdownCheckpoint> {
        let options = self.options();
        loop {
            let alive = postmaster.is_alive();
            match peek_state(&options.data_dir).await {
                Some(ControlState::ShutDown) => break,
                Some(ControlState::ShutDownInRecovery) => return None,
                Some(_) | None if !alive => return None,
                Some(_) | None => {}
            }
            tokio::select! {
                () = postmaster.exited() => {}
                () = sleep(POLL) => {}
            }
        }
        let end = shutdown_checkpoint(&options).await;
        if let Some(ShutdownCheckpoint { checkpoint, previous }) = end {
            progress.report(Stage::ShutDown { checkpoint, previous, exited: !postmaster.is_alive() });
        }
        end
    }

    async fn run_before_stop(&self, cancel: &Cancel) -> Result<()> {
        let options = self.options();
        let Some(script) = &options.before_stop else { return Ok(()) };
        let words = match split(script) {
            Ok(words) => words,
            Err(error) => {
                tracing::error!("before_stop: {error}");
                return Ok(());
            }
        };
        match programs::run(command_of(&words), None, Stderr::Log, cancel, None).await {
            Ok(output) => tracing::info!("before_stop script `{script}` exited with {}", describe(output.status)),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => tracing::error!("Exception when calling `{script}`: {error}"),
        }
        Ok(())
    }
}

/// Where the shutdown checkpoint of a cleanly stopped primary is; `None` if it was not one, or `pg_control` cannot be read.
/// Without `pg_waldump` both positions are the same, the larger.
pub async fn shutdown_checkpoint(options: &ServerOptions) -> Option<ShutdownCheckpoint> {
    // The state in the file may be seen a moment before the rest of it.
    let deadline = Instant::now() + Duration::from_secs(1);
    let values = loop {
        match ControlValues::read(&options.programs(), &options.data_dir).await {
            Ok(values) if values.state() == ControlState::ShutDown => break values,
            Ok(_) => return None,
            Err(error) if Instant::now() > deadline => {
                tracing::error!("Error when calling pg_controldata: {error}");
                return None;
            }
            Err(_) => sleep(POLL).await,
        }
    };
    let checkpoint = values.checkpoint()?;
    let timeline = values.checkpoint_timeline()?.0;
    let previous = match wal_record(options, timeline, checkpoint).await {
        Some(record) if record.is_shutdown_checkpoint_at(checkpoint) => record.previous,
        Some(_) | None => return Some(ShutdownCheckpoint { checkpoint, previous: checkpoint }),
    };
    // With archive_mode the WAL file is switched before the checkpoint, which is then alone in a new file that a standby may
    // not get any more. Nothing is lost if it has all up to the switch.
    let switch = wal_record(options, timeline, previous).await.is_some_and(|r| r.lsn == previous && r.is_switch());
    Some(ShutdownCheckpoint { checkpoint, previous: if switch { previous } else { checkpoint } })
}

/// A record as `pg_waldump` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WalRecord {
    manager: String,
    lsn: Lsn,
    previous: Lsn,
    description: String,
}

impl WalRecord {
    /// `rmgr: XLOG  len (rec/tot): 114/ 114, tx: 0, lsn: 0/01000028, prev 0/00000000, desc: CHECKPOINT_SHUTDOWN redo ...; shutdown`
    fn parse(line: &str) -> Option<Self> {
        let after = |label: &str| Some(line.split_once(label)?.1.trim_start());
        let word = |label: &str| Some(after(label)?.split([',', ' ']).next()?.to_owned());
        Some(WalRecord {
            manager: word("rmgr:")?,
            lsn: word("lsn:")?.parse().ok()?,
            previous: word("prev ")?.parse().ok()?,
            description: after("desc:")?.trim().to_lowercase(),
        })
    }

    fn is_shutdown_checkpoint_at(&self, lsn: Lsn) -> bool {
        self.manager == "XLOG"
            && self.lsn == lsn
            && self.description.starts_with("checkpoint")
            && self.description.ends_with("shutdown")
    }

    fn is_switch(&self) -> bool {
        ["switch", "xlog switch"].contains(&self.description.as_str())
    }
}

async fn wal_record(options: &ServerOptions, timeline: u32, lsn: Lsn) -> Option<WalRecord> {
    let mut command = options.programs().command("pg_waldump");
    command.arg("-p").arg(options.data_dir.join("pg_wal"));
    command.args(["-t", &timeline.to_string(), "-s", &lsn.to_string(), "-n", "1"]).env("LC_ALL", "C");
    match options.programs().capture(command, &Cancel::new(), Some(Duration::from_secs(5))).await {
        Ok(output) => WalRecord::parse(&output.stdout),
        Err(error) => {
            tracing::error!("Exception when parsing WAL pg_waldump output: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_pg_waldump_prints_them() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, prev 0/020001C0, desc: \
                    CHECKPOINT_SHUTDOWN redo 0/3000028; tli 1; prev tli 1; fpw true; shutdown\n";
        let record = WalRecord::parse(line).expect("a record");
        assert!(record.is_shutdown_checkpoint_at(Lsn(0x300_0028)));
        assert!(!record.is_shutdown_checkpoint_at(Lsn(0x300_0029)));
        assert_eq!(record.previous, Lsn(0x200_01C0));
        let line = "rmgr: XLOG len (rec/tot): 24/ 24, tx: 0, lsn: 0/020001C0, prev 0/02000148, desc: SWITCH";
        assert!(WalRecord::parse(line).is_some_and(|r| r.is_switch()));
        assert_eq!(WalRecord::parse("pg_waldump: error: could not find"), None);
    }
}
