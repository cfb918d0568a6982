//! Acting on the server: the only type that starts or stops PostgreSQL, or writes its files.

mod crash_recovery;
mod promote;
mod spawn;
mod stop;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patroni_core::job::Upstream;
use patroni_core::server::Role;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::callbacks::{CallbackAction, Callbacks};
use crate::cancel::{Cancel, Progress};
use crate::controldata::ControlValues;
use crate::data_dir;
use crate::monitor::Monitor;
use crate::options::ServerOptions;
use crate::postmaster::{PidFileStatus, Postmaster};
use crate::sql::{Connection, UNLIMITED};
use crate::{Error, Result};

pub use promote::Promoted;
pub use stop::{Mode, StopOptions, Stopped, shutdown_checkpoint};

/// How often files are looked at while waiting for PostgreSQL.
const POLL: Duration = Duration::from_millis(5);

/// Starts and stops PostgreSQL and writes its files. Not `Clone`: whoever has it is the one who may. It moves into a job and
/// comes back with the outcome. Dropping it does nothing to PostgreSQL.
#[derive(Debug)]
pub struct Control {
    options: watch::Receiver<Arc<ServerOptions>>,
    monitor: Monitor,
    files: Files,
    callbacks: Callbacks,
    role: Role,
    announced: bool,
}

/// The configuration files of PostgreSQL, as starting, following and bootstrapping need them. All methods may block: they
/// are called on a thread for that.
pub trait Configuration: Send + 'static {
    /// Writes all configuration files for a start, and returns the options for the command line of `postgres`:
    /// `--config-file=...`, `--listen_addresses=...`, ... On a standby no setting is below its value in `pg_control`.
    ///
    /// # Errors
    /// A file cannot be written.
    fn prepare_start(&mut self, start: &StartFiles<'_>) -> Result<Vec<String>>;

    /// Writes all configuration files for a reload.
    ///
    /// # Errors
    /// A file cannot be written.
    fn prepare_reload(&mut self) -> Result<()>;

    /// Makes the next start or reload follow `upstream`: `standby.signal` and recovery settings. With `None` removes them, and
    /// `recovery.signal`.
    ///
    /// # Errors
    /// A file cannot be written.
    fn set_recovery(&mut self, upstream: Option<&Upstream>) -> Result<()>;

    /// After `initdb` or a custom bootstrap: reads what is new there, and appends `pg_hba` of the section `bootstrap` where
    /// `postgresql.pg_hba` gives none.
    ///
    /// # Errors
    /// A file cannot be written.
    fn after_bootstrap(&mut self, pg_hba: &[String]) -> Result<()>;

    /// After a clone: configuration files that the copy lacks are taken from their copies in the data directory.
    ///
    /// # Errors
    /// A file cannot be written.
    fn after_clone(&mut self) -> Result<()>;

    /// Keeps copies of the configuration files in the data directory.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save_copies(&mut self) -> Result<()>;

    /// While a custom bootstrap runs, access is open to local connections without passwords, and recovery settings may be kept.
    fn set_custom_bootstrap(&mut self, custom: Option<CustomBootstrap>);
}

/// What a start needs to be told about.
#[derive(Clone, Copy, Debug)]
pub struct StartFiles<'a> {
    /// It will be a standby.
    pub standby: bool,
    /// `pg_control`
    pub control: &'a ControlValues,
}

/// A custom bootstrap that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomBootstrap {
    /// `keep_existing_recovery_conf`: the script has made recovery settings that must stay.
    pub keep_existing_recovery_conf: bool,
    /// `recovery_conf`: recovery settings to write.
    pub recovery_conf: Option<patroni_core::JsonMap>,
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// What it will be.
    pub role: Role,
    /// The upstream to configure; `None` leaves recovery settings as they are.
    pub follow: Option<Upstream>,
    /// How long to wait until it accepts connections; `None` for `pg_ctl_timeout`.
    pub timeout: Option<Duration>,
    /// Which callback to call when it runs.
    pub callback: Option<CallbackAction>,
}

/// How a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It accepts connections.
    Running,
    /// It is alive and not ready yet.
    StillStarting,
}

impl Control {
    /// The one handle for the server that `options` describe. Needs a tokio runtime.
    pub fn new(
        options: watch::Receiver<Arc<ServerOptions>>,
        monitor: Monitor,
        files: Box<dyn Configuration>,
    ) -> Self {
        let files = Files(Arc::new(Mutex::new(files)));
        Control { options, monitor, files, callbacks: Callbacks::new(), role: Role::Uninitialized, announced: false }
    }

    /// The handle that looks at the same server.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The options as they are now.
    pub fn options(&self) -> Arc<ServerOptions> {
        self.options.borrow().clone()
    }

    /// Some callback other than `on_reload` has been called since this agent started.
    pub fn announced(&self) -> bool {
        self.announced
    }

    /// Sets the role that callbacks are told, of a server that was found running, or whose role changed without a restart.
    pub fn set_role(&mut self, role: Role) {
        self.role = role;
    }

    /// The role that callbacks are told.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Calls the script for an action, with the present role. Does not wait for it.
    pub fn call_back(&mut self, action: CallbackAction) {
        self.announced |= action != CallbackAction::OnReload;
        let options = self.options();
        self.callbacks.call(&options.callbacks, action, self.role, &options.scope);
    }

    /// Starts PostgreSQL and waits until it accepts connections. Cancelling before the start leaves nothing; afterwards it ends
    /// the waiting only.
    ///
    /// # Errors
    /// It did not start: the text says why, as far as that can be found out.
    pub async fn start(&mut self, start: StartOptions, cancel: &Cancel, progress: &Progress) -> Result<Started> {
        let timeout = start.timeout.unwrap_or(self.options().pg_ctl_timeout);
        let postmaster = if let Some(running) = self.monitor.alive()? {
            tracing::error!("Cannot start PostgreSQL because one is already running.");
            running
        } else {
            let arguments = self.prepare_start(&start).await?;
            progress.commit(cancel, "starting PostgreSQL")?;
            self.spawn_postmaster(&arguments)?
        };
        self.role = start.role;
        let started = self.wait_until_ready(&postmaster, timeout, cancel).await?;
        if started == Started::Running {
            self.after_start(start.callback).await;
        }
        Ok(started)
    }

    /// Goes on waiting for a server that was [`Started::StillStarting`].
    ///
    /// # Errors
    /// It is gone.
    pub async fn wait_for_start(
        &mut self,
        timeout: Duration,
        callback: Option<CallbackAction>,
        cancel: &Cancel,
    ) -> Result<Started> {
        let postmaster = self.running()?;
        let started = self.wait_until_ready(&postmaster, timeout, cancel).await?;
        if started == Started::Running {
            self.after_start(callback).await;
        }
        Ok(started)
    }

    /// Stops with a checkpoint before, and starts again in the present role. Does not call back `on_stop` and `on_start`.
    ///
    /// # Errors
    /// As [`Control::stop`] and [`Control::start`].
    pub async fn restart(
        &mut self,
        timeout: Option<Duration>,
        callback: Option<CallbackAction>,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<Started> {
        self.stop(StopOptions { callback: false, ..StopOptions::planned() }, cancel, progress).await?;
        let start = StartOptions { role: self.role, follow: None, timeout, callback };
        self.start(start, cancel, progress).await
    }

    /// Writes the configuration files and tells PostgreSQL to read them.
    ///
    /// # Errors
    /// A file cannot be written, or no postmaster runs.
    pub async fn reload(&mut self, call_back: bool) -> Result<()> {
        self.files.with(|files| files.prepare_reload()).await?;
        self.running()?.signal(Signal::HUP)?;
        if call_back {
            self.call_back(CallbackAction::OnReload);
        }
        Ok(())
    }

    /// Makes the server follow `upstream` as `role`: started if it does not run, else restarted or reloaded.
    ///
    /// # Errors
    /// As [`Control::restart`] and [`Control::reload`].
    pub async fn follow(
        &mut self,
        upstream: Upstream,
        role: Role,
        restart: bool,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<Started> {
        // One callback tells of the change of role; the start or restart on the way is not told.
        let changes = self.announced && self.role != role && self.role != Role::Uninitialized;
        let silent = |action| if changes { None } else { Some(action) };
        let alive = self.monitor.alive()?.is_some();
        let started = if !alive {
            let callback = silent(CallbackAction::OnStart);
            self.start(StartOptions { role, follow: Some(upstream), timeout: None, callback }, cancel, progress).await?
        } else {
            self.files.with(move |files| files.set_recovery(Some(&upstream))).await?;
            if restart {
                self.role = role;
                self.restart(None, silent(CallbackAction::OnRestart), cancel, progress).await?
            } else {
                self.reload(!changes).await?;
                self.role = role;
                Started::Running
            }
        };
        if changes {
            self.call_back(CallbackAction::OnRoleChange);
        }
        Ok(started)
    }

    /// Runs CHECKPOINT, without a limit of the server's; `limit` and `cancel` end the waiting.
    ///
    /// # Errors
    /// No connection, or the statement failed.
    pub async fn checkpoint(&self, limit: Duration, cancel: &Cancel) -> Result<()> {
        let checkpoint = async {
            let connection = Connection::open(&self.options().local_superuser(), "Patroni", UNLIMITED).await?;
            connection.query_within("CHECKPOINT", limit).await
        };
        tokio::select! {
            result = checkpoint => Ok(result.map(|_| ())?),
            () = cancel.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Goes on with the replay on a standby that paused it because a setting is smaller than on its primary. From PostgreSQL 14
    /// it then shuts down, to be started with the values of `pg_control`.
    ///
    /// # Errors
    /// No connection, or the statement failed.
    pub async fn resume_replay(&self) -> Result<()> {
        tracing::info!("Resuming paused WAL replay for PostgreSQL 14+");
        let connection = self.monitor.connect("resume").await?;
        connection.query_within("SELECT pg_catalog.pg_wal_replay_resume()", Duration::from_secs(3)).await?;
        Ok(())
    }

    /// Renames the data directory to `DIR.failed`. See [`data_dir::move_away`].
    ///
    /// # Errors
    /// As there.
    pub async fn move_data_directory(&mut self) -> Result<()> {
        let data_dir = self.options().data_dir.clone();
        blocking(move || data_dir::move_away(&data_dir)).await
    }

    /// Removes the data directory. See [`data_dir::remove`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove_data_directory(&mut self) -> Result<()> {
        let data_dir = self.options().data_dir.clone();
        self.role = Role::Uninitialized;
        blocking(move || data_dir::remove(&data_dir)).await
    }

    /// Work on the configuration files, on a thread that may block.
    ///
    /// # Errors
    /// As the work.
    pub async fn with_files<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Configuration) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.files.with(work).await
    }

    pub(crate) async fn remove_recovery(&mut self) -> Result<()> {
        self.files.with(|files| files.set_recovery(None)).await
    }

    pub(crate) fn running(&self) -> Result<Arc<Postmaster>> {
        let nobody = || Error::Unexpected(format!("no postmaster runs on {}", self.options().data_dir.display()));
        self.monitor.alive()?.ok_or_else(nobody)
    }

    async fn prepare_start(&mut self, start: &StartOptions) -> Result<Vec<String>> {
        let control = self.monitor.control_values().await?;
        let follow = start.follow.clone();
        let data_dir = self.options().data_dir.clone();
        self.files
            .with(move |files| {
                if let Some(upstream) = &follow {
                    files.set_recovery(Some(upstream))?;
                }
                let standby = data_dir::has_standby_signal(&data_dir);
                files.prepare_start(&StartFiles { standby, control: &control })
            })
            .await
    }

    async fn wait_until_ready(&self, postmaster: &Postmaster, limit: Duration, cancel: &Cancel) -> Result<Started> {
        let options = self.options();
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !cancel.is_cancelled() {
            if PidFileStatus::read_of(&options.data_dir, postmaster.pid())? == Some(PidFileStatus::Ready) {
                tracing::info!("{} - accepting connections", options.local_address_text());
                return Ok(Started::Running);
            }
            tokio::select! {
                () = postmaster.exited() => return Err(self.why_start_failed().await),
                () = tokio::time::sleep(POLL) => {}
            }
        }
        if !postmaster.is_alive() {
            return Err(self.why_start_failed().await);
        }
        tracing::warn!("Timed out waiting for PostgreSQL to start");
        Ok(Started::StillStarting)
    }

    async fn after_start(&mut self, callback: Option<CallbackAction>) {
        if let Err(error) = self.files.with(|files| files.save_copies()).await {
            tracing::error!("unable to create backup copies of configuration files: {error}");
        }
        if let Some(action) = callback {
            self.call_back(action);
        }
    }
}

/// The configuration files behind a lock that only threads that may block take.
struct Files(Arc<Mutex<Box<dyn Configuration>>>);

impl Files {
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Configuration) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = self.0.clone();
        blocking(move || work(files.lock().unwrap_or_else(PoisonError::into_inner).as_mut())).await
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

/// Runs work that blocks on a thread for that. It goes on when the caller stops waiting.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Unexpected(format!("internal error: {error}"))),
    }
}
