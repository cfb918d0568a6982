//! Acting on the server: the only type that starts or stops PostgreSQL, or writes its files.

mod copy_slots;
mod crash_recovery;
mod holdup;
mod promote;
mod spawn;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::job::Upstream;
use patroni_core::parameters::{Note, Parameters, command_line};
use patroni_core::server::Role;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::callbacks::{CallbackAction, Callbacks};
use crate::cancel::{Cancel, Progress};
use crate::conf::{Conf, RunningRecovery};
use crate::controldata::ControlValues;
use crate::data_dir;
use crate::monitor::Monitor;
use crate::options::ServerOptions;
use crate::postmaster::{PidFileStatus, Postmaster};
use crate::server_log::Mark;
use crate::sql::UNLIMITED;
use crate::unfinished::Unfinished;
use crate::{Error, Result, blocking};

pub use copy_slots::Copied;
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
    conf: Conf,
    callbacks: Callbacks,
    pub(crate) role: Role,
    announced: bool,
    /// The version of the data directory that `conf` was told.
    known_version: Option<u32>,
    raised: JsonMap,
    /// Where the logs ended before the last start.
    log_mark: Mark,
    /// A start is not finished: the callback to call when the server runs.
    after_start: Option<Option<CallbackAction>>,
    /// A custom bootstrap method is under way.
    pub(crate) custom_bootstrap: bool,
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
    pub fn new(options: watch::Receiver<Arc<ServerOptions>>, monitor: Monitor, conf: Conf) -> Self {
        Control {
            options,
            monitor,
            conf,
            callbacks: Callbacks::new(),
            role: Role::Uninitialized,
            announced: false,
            known_version: None,
            raised: JsonMap::new(),
            log_mark: Mark::default(),
            after_start: None,
            custom_bootstrap: false,
        }
    }

    /// The handle that looks at the same server.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The configuration files.
    pub fn conf(&mut self) -> &mut Conf {
        &mut self.conf
    }

    /// Settings that the last start raised to their values in `pg_control`, and that wait for a restart with the configured
    /// ones: `{"max_connections": {"old_value": ..., "new_value": ...}}`.
    pub fn raised_settings(&self) -> &JsonMap {
        &self.raised
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

    /// Takes over a server that runs already, in the role it was found in: learns its version, and which recovery settings are
    /// in force.
    ///
    /// # Errors
    /// The version cannot be found out, or a standby does not answer.
    pub async fn adopt(&mut self, role: Role) -> Result<()> {
        self.role = role;
        self.learn_version().await?;
        if matches!(role, Role::Replica | Role::StandbyLeader) {
            let connection = self.monitor.connect("adopt").await?;
            let running = RunningRecovery::read(&connection, Duration::from_secs(3)).await?;
            self.conf.adopt_recovery(&running);
        }
        Ok(())
    }

    /// Calls the script for an action, with the present role. Does not wait for it.
    pub fn call_back(&mut self, action: CallbackAction) {
        self.announced |= action != CallbackAction::OnReload;
        let options = self.options();
        self.callbacks.call(&options.callbacks, action, self.role, &options.scope);
    }

    /// Gives the handle up at the end of the agent: a callback that was called a moment ago is still started.
    pub async fn finish(self, limit: Duration) {
        self.callbacks.finish(limit).await;
    }

    /// Starts PostgreSQL and waits until it accepts connections. Cancelling before the start leaves nothing; afterwards it ends
    /// the waiting only.
    ///
    /// # Errors
    /// It did not start: the text says why, as far as that can be found out.
    pub async fn start(&mut self, start: StartOptions, cancel: &Cancel, progress: &Progress) -> Result<Started> {
        let timeout = start.timeout.unwrap_or(self.options().pg_ctl_timeout);
        let postmaster = if let Some(running) = self.monitor.alive().await? {
            tracing::error!("Cannot start PostgreSQL because one is already running.");
            running
        } else {
            let arguments = self.prepare_start(&start).await?;
            self.wait_for_left_processes(cancel).await;
            let data_dir = self.options().data_dir.clone();
            self.log_mark = blocking::at(&data_dir, |data_dir| Ok(Mark::now(data_dir))).await?;
            progress.commit(cancel, "starting PostgreSQL")?;
            Unfinished::clear(&data_dir).await;
            self.spawn_postmaster(&arguments).await?
        };
        self.role = start.role;
        let started = self.wait_until_ready(&postmaster, timeout, cancel).await?;
        self.after_start = Some(start.callback);
        if started == Started::Running {
            self.seen_running().await;
        }
        Ok(started)
    }

    /// Goes on waiting for a server that was [`Started::StillStarting`].
    ///
    /// # Errors
    /// It is gone.
    pub async fn wait_for_start(&mut self, timeout: Duration, cancel: &Cancel) -> Result<Started> {
        let postmaster = self.running().await?;
        let started = self.wait_until_ready(&postmaster, timeout, cancel).await?;
        if started == Started::Running {
            self.seen_running().await;
        }
        Ok(started)
    }

    /// To be told when the server is found running: does what was left to do after a start that had ended with
    /// [`Started::StillStarting`], the callback among it. Otherwise does nothing.
    pub async fn seen_running(&mut self) {
        let Some(callback) = self.after_start.take() else { return };
        // The access files of a custom bootstrap are not those to keep.
        if !self.custom_bootstrap
            && let Err(error) = self.conf.save_configuration_files().await
        {
            tracing::error!("unable to create backup copies of configuration files: {error}");
        }
        if let Some(action) = callback {
            self.call_back(action);
        }
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
        self.conf.write_postgresql_conf(None).await?;
        self.conf.write_pg_hba().await?;
        self.conf.write_pg_ident().await?;
        self.running().await?.signal(Signal::HUP)?;
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
        let alive = self.monitor.alive().await?.is_some();
        let started = if !alive {
            let callback = silent(CallbackAction::OnStart);
            self.start(StartOptions { role, follow: Some(upstream), timeout: None, callback }, cancel, progress).await?
        } else {
            // Not known yet of a server that an earlier agent started, and that is still starting.
            self.learn_version().await?;
            self.conf.follow(&upstream).await?;
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
            let connection = self.options().connect(None, "Patroni", UNLIMITED).await?;
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
        data_dir::move_away(&self.options().data_dir).await
    }

    /// Removes the data directory. See [`data_dir::remove`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove_data_directory(&mut self) -> Result<()> {
        self.role = Role::Uninitialized;
        data_dir::remove(&self.options().data_dir).await
    }

    pub(crate) async fn running(&self) -> Result<Arc<Postmaster>> {
        let nobody = || Error::Unexpected(format!("no postmaster runs on {}", self.options().data_dir.display()));
        self.monitor.alive().await?.ok_or_else(nobody)
    }

    /// Writes the configuration files and returns the arguments of `postgres`.
    async fn prepare_start(&mut self, start: &StartOptions) -> Result<Vec<String>> {
        self.learn_version().await?;
        let control = self.monitor.control_values().await?;
        if let Some(upstream) = &start.follow {
            self.conf.follow(upstream).await?;
        }
        self.conf.check_directories().await?;
        let parameters = self.start_parameters(&control).await?;
        self.conf.write_postgresql_conf(Some(&parameters)).await?;
        if self.custom_bootstrap {
            self.conf.write_custom_bootstrap_pg_hba().await?;
        } else {
            self.conf.write_pg_hba().await?;
        }
        self.conf.write_pg_ident().await?;
        let mut arguments = vec![format!("--config-file={}", self.conf.postgresql_conf().display())];
        arguments.extend(command_line(&parameters));
        Ok(arguments)
    }

    /// As configured; on a standby no setting is below what its primary had.
    async fn start_parameters(&mut self, control: &ControlValues) -> Result<Parameters> {
        self.raised = JsonMap::new();
        if !data_dir::Marks::read(&self.options().data_dir).await?.standby_signal {
            return Ok(self.conf.parameters().clone());
        }
        let raised = self.conf.standby_parameters(&control.settings());
        raised.notes.iter().for_each(log);
        self.raised = raised.pending_restart;
        Ok(self.conf.for_custom_bootstrap(raised.effective))
    }

    /// Tells the configuration the version of the data directory, and which settings its server has.
    ///
    /// # Errors
    /// There is no data directory, or its `postgres` does not tell.
    pub async fn learn_version(&mut self) -> Result<()> {
        let options = self.options();
        let version_file = options.data_dir.join("PG_VERSION");
        let unknown =
            || Error::Unexpected(format!("no version in {}; is this a data directory?", version_file.display()));
        let version = data_dir::major_version(&options.data_dir).await?.ok_or_else(unknown)? * 10_000;
        if self.known_version != Some(version) {
            let mut command = options.programs().command("postgres");
            command.arg("--describe-config");
            let output = options.programs().capture(command, &Cancel::new(), Some(Duration::from_secs(10))).await?;
            let output = output.success()?;
            let names = output.stdout.lines().filter_map(|l| Some(l.split_once('\t')?.0.to_owned()));
            self.conf.set_version(version, names);
            self.known_version = Some(version);
        }
        Ok(())
    }

    async fn wait_until_ready(
        &self,
        postmaster: &Arc<Postmaster>,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<Started> {
        let options = self.options();
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !cancel.is_cancelled() {
            let (looked_at, started) = (options.data_dir.clone(), Arc::clone(postmaster));
            let left = deadline.saturating_duration_since(Instant::now());
            let status = blocking::within(left, "looking at the pid file", move || started.status(&looked_at)).await;
            if !matches!(status, Err(Error::Timeout { .. })) && status? == Some(PidFileStatus::Ready) {
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
        if !cancel.is_cancelled() {
            tracing::warn!("Timed out waiting for PostgreSQL to start");
        }
        Ok(Started::StillStarting)
    }
}

fn log(note: &Note) {
    match note {
        Note::Info(text) => tracing::info!("{text}"),
        Note::Warning(text) => tracing::warn!("{text}"),
    }
}
