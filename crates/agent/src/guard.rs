//! The third fence: a tiny process that holds the end of the lease and stops PostgreSQL when the agent does not come
//! back in time.
//!
//! The agent can be killed, frozen, or starved; PostgreSQL goes on accepting writes meanwhile. As long as this node
//! leads, the agent tells the guard over a pipe until when. Where nothing new comes before that, the guard ends the
//! postmaster (immediately, then by SIGKILL), and only that very process; while the agent starts or restarts a primary, whichever
//! runs in the data directory then. An agent that is started again in time takes over with a guard of its own. When it is armed and let
//! go is decided in `core::fence`.

pub mod process;

use std::path::PathBuf;
use std::process::Stdio;

use patroni_core::fence::{Fence, Target};
use patroni_core::time::Moment;
use patroni_postgres::monitor::Monitor;
use patroni_postgres::programs::command_for;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::time::{Duration, timeout};

/// How long the guard may take to read a line; it has nothing else to do.
const WRITE_LIMIT: Duration = Duration::from_millis(500);

/// Instead of the number of a postmaster: whichever runs in the data directory when the deadline has passed.
const ANY: i32 = 0;

/// The agent's end of the guard.
pub struct Guard {
    data_dir: PathBuf,
    monitor: Monitor,
    running: Option<(Child, ChildStdin)>,
    armed: Option<(Moment, i32)>,
    /// Guards of an earlier agent have been looked for, and ended.
    alone: bool,
}

impl Guard {
    /// No guard yet.
    pub fn new(data_dir: PathBuf, monitor: Monitor) -> Self {
        Guard { data_dir, monitor, running: None, armed: None, alone: false }
    }

    /// Arms, prolongs, or lets go.
    pub async fn tell(&mut self, order: Fence) {
        match order {
            Fence::Until(deadline, Target::Whichever) => self.arm(deadline, ANY).await,
            Fence::Until(deadline, Target::Postmaster) => match self.postmaster().await {
                Some(pid) => self.arm(deadline, pid).await,
                // It died since it was looked at.
                None => self.disarm().await,
            },
            Fence::Stands => {}
            Fence::LetGo => self.disarm().await,
            Fence::LetAllGo => {
                self.end_others();
                self.disarm().await;
            }
        }
    }

    /// Where the data directory cannot be read, that which was guarded so far.
    async fn postmaster(&self) -> Option<i32> {
        match self.monitor.alive().await {
            Ok(postmaster) => postmaster.map(|postmaster| postmaster.pid()),
            Err(error) => {
                tracing::error!("the postmaster to be guarded is not known: {error}");
                self.armed.map(|(_, pid)| pid)
            }
        }
    }

    /// Nothing is left to guard.
    async fn disarm(&mut self) {
        self.armed = None;
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin_off(stdin).await);
            tokio::spawn(async move {
                let _ = timeout(Duration::from_secs(5), child.wait()).await;
            });
        }
    }

    async fn arm(&mut self, deadline: Moment, pid: i32) {
        if self.armed == Some((deadline, pid)) {
            return;
        }
        if self.running.is_none() {
            match self.spawn() {
                Ok(running) => self.running = Some(running),
                Err(error) => {
                    tracing::error!("the guard could not be started: {error}; a frozen agent would not be fenced");
                    return;
                }
            }
        }
        let line = format!("{} {pid}\n", deadline.0.as_nanos());
        if let Some((_, stdin)) = &mut self.running
            && !matches!(timeout(WRITE_LIMIT, stdin.write_all(line.as_bytes())).await, Ok(Ok(())))
        {
            tracing::error!("the guard does not listen; starting another one");
            self.running = None;
            return;
        }
        self.armed = Some((deadline, pid));
        self.end_others();
    }

    fn spawn(&self) -> std::io::Result<(Child, ChildStdin)> {
        let mut child = command_for(std::env::current_exe()?)
            .arg("--guard")
            .arg(&self.data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("no pipe to the guard"))?;
        Ok((child, stdin))
    }

    /// Guards that an earlier agent left behind would stop a server that is ours again. Once is enough: nobody else
    /// starts any.
    fn end_others(&mut self) {
        if std::mem::replace(&mut self.alone, true) {
            return;
        }
        let own = self.running.as_ref().and_then(|(child, _)| child.id());
        process::end_guards(&self.data_dir, own);
    }
}

async fn stdin_off(mut stdin: ChildStdin) -> ChildStdin {
    let _ = timeout(WRITE_LIMIT, stdin.write_all(b"off\n")).await;
    stdin
}
