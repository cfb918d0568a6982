//! Making a replica: the methods of `create_replica_methods`, pg_basebackup among them.

use std::path::Path;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::job::CloneFrom;
use patroni_core::server::Role;
use patroni_core::settings::StandbyCluster;
use patroni_core::tags::truthy;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::bootstrap::{check_wal_directory, user_options, without_password};
use crate::cancel::{Cancel, Progress};
use crate::conf::{files, remote_address, write_pgpass};
use crate::control::Control;
use crate::copying::Copying;
use crate::method_commands::replica_words;
use crate::options::ServerOptions;
use crate::programs::{self, Output, Stderr, command_of};
use crate::sql::Conninfo;
use crate::unfinished::{Making, Unfinished, end_leftovers};
use crate::{Error, Result, blocking, data_dir};

/// The method that is built in.
const BASEBACKUP: &str = "basebackup";

/// How often pg_basebackup is tried, and the pause between.
const ATTEMPTS: u32 = 2;
const PAUSE: Duration = Duration::from_secs(5);

/// The least pause between two looks at the size of the copy, and how many times longer than a look it is.
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_secs(1);
const PAUSE_TO_LOOK: u32 = 20;

/// What to copy.
#[derive(Clone, Debug)]
pub struct CloneOrder {
    /// Whom the log names.
    pub source_name: Option<String>,
    /// The connection to copy from, with credentials of the replication user; `None` to use only methods that need none.
    pub source: Option<Conninfo>,
    /// Methods in place of `create_replica_methods` (of a standby cluster).
    pub methods: Option<Vec<String>>,
    /// pg_basebackup whatever the methods are (`reinitialize --from-leader`).
    pub basebackup_only: bool,
}

impl Control {
    /// Makes a replica of a member of this cluster, of the remote primary, or by methods that need neither. See
    /// [`Control::clone_replica`]. A standby cluster has methods of its own.
    ///
    /// # Errors
    /// As there; the address of the member cannot be read.
    pub async fn clone_from(&mut self, source: &CloneFrom, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let credentials = self.options().replication.clone();
        let standby_cluster = self.conf().standby_cluster().cloned();
        let remote = |section: &StandbyCluster| {
            let mut conninfo = remote_address(section, false)?;
            conninfo.add_credentials(&credentials);
            Some(conninfo)
        };
        let conninfo = match source {
            CloneFrom::Member(source) => Some(Conninfo::from_url(&source.conn_url, &credentials)?),
            CloneFrom::Remote => standby_cluster.as_ref().and_then(remote),
            CloneFrom::Backup => None,
        };
        let source_name = match source {
            CloneFrom::Member(source) => Some(source.name.to_string()),
            CloneFrom::Remote => Some("the remote primary".to_owned()),
            CloneFrom::Backup => None,
        };
        let methods = standby_cluster.map(|section| section.create_replica_methods);
        let order = CloneOrder { source_name, source: conninfo, methods, basebackup_only: false };
        self.clone_replica(&order, cancel, progress).await
    }

    /// Fills the data directory with a copy, by the first method that works. The server is not started. What a failed method
    /// left is removed, unless it is configured to be kept.
    ///
    /// # Errors
    /// A postmaster runs; cancelled; no method worked: the error of the last.
    pub async fn clone_replica(&mut self, order: &CloneOrder, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let options = self.options();
        if let Some(postmaster) = self.monitor().alive().await? {
            return Err(Error::PostmasterRuns { pid: postmaster.pid(), data_dir: options.data_dir.clone() });
        }
        let methods = methods(&options, order);
        progress.commit(cancel, "creating replica")?;
        end_leftovers(&options.programs(), &options.data_dir).await;
        self.tell_of_half_a_copy(&options).await;
        let result = self.try_methods(&options, order, methods, cancel, progress).await;
        if result.is_ok() || data_dir::is_empty(&options.data_dir).await.unwrap_or(false) {
            Unfinished::clear(&options.data_dir).await;
        }
        result
    }

    async fn try_methods(
        &mut self,
        options: &ServerOptions,
        order: &CloneOrder,
        methods: Vec<String>,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<()> {
        let nothing = "no method of create_replica_methods works without a source to copy from (no_leader)";
        let mut failure = Error::Configuration(nothing.into());
        for method in methods {
            let result = match method.as_str() {
                BASEBACKUP => self.basebackup(options, order, cancel, progress).await,
                name => self.run_method(options, name, order, cancel, progress).await,
            };
            match result {
                Ok(()) => {
                    tracing::info!("replica has been created using {method}");
                    self.learn_version().await?;
                    self.role = Role::Replica;
                    self.conf().restore_configuration_files().await?;
                    // A trigger file in the copy would promote it.
                    return files::remove(options.data_dir.join("promote")).await;
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => {
                    tracing::error!("Error creating replica using method {method}: {error}");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn tell_of_half_a_copy(&self, options: &ServerOptions) {
        if let Ok(true) = Unfinished::left_half(&options.data_dir).await {
            let path = options.data_dir.display();
            tracing::warn!(
                "what is in data directory {path} is the rest of a copy that was interrupted: it is made again"
            );
        }
    }

    async fn basebackup(
        &mut self,
        options: &ServerOptions,
        order: &CloneOrder,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<()> {
        let Some(source) = &order.source else {
            return Err(Error::Configuration("basebackup needs a member to copy".into()));
        };
        let version = options.programs().server_version(cancel).await?;
        let arguments = basebackup_options(options.replica_methods.get(BASEBACKUP), version);
        let mut attempt = 1;
        loop {
            let making = self.begin_copy(options, false).await?;
            check_wal_directory(&arguments).await?;
            let mut command = options.programs().command("pg_basebackup");
            command.arg(format!("--pgdata={}", options.data_dir.display()));
            // Never asks: whoever started the agent on a terminal is not there any more.
            command.args(["-X", "stream", "--no-password", "--progress"]);
            command.arg(format!("--dbname={}", without_password(source).dsn(version)));
            command.args(&arguments);
            give_password(&mut command, options, source).await?;
            // Its progress is read.
            command.env("LC_ALL", "C");
            let copying = Copying::new(order.source_name.as_deref().unwrap_or("source"), progress);
            let watch = |line: &str| copying.take(line);
            let started = |pid| making.started(pid);
            let work = programs::run_known(command, None, Stderr::Watch(&watch), cancel, &started);
            let Err(error) = making.watch(work).await.and_then(Output::success) else { return Ok(()) };
            tracing::error!("Error when fetching backup: {error}");
            self.make_room(options).await?;
            if attempt == ATTEMPTS || matches!(error, Error::Cancelled) {
                return Err(error);
            }
            attempt += 1;
            tracing::warn!("Trying again in 5 seconds");
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = cancel.cancelled() => return Err(Error::Cancelled),
            }
        }
    }

    async fn run_method(
        &mut self,
        options: &ServerOptions,
        name: &str,
        order: &CloneOrder,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<()> {
        let config = method_config(options, name);
        let keep_data = config.get("keep_data").is_some_and(truthy);
        let making = self.begin_copy(options, keep_data).await?;
        let program_version = options.programs().server_version(cancel).await.unwrap_or(0);
        let connection = order.source.as_ref().map(|s| without_password(s).dsn(program_version)).unwrap_or_default();
        let words = replica_words(name, &config, &options.scope, &options.data_dir, &connection)?;
        let mut command = command_of(&words);
        if let Some(source) = &order.source {
            give_password(&mut command, options, source).await?;
        }
        let result = run_script(command, &options.data_dir, &Copying::new(name, progress), &making, cancel).await;
        if result.is_err() && !keep_data {
            self.make_room(options).await?;
        }
        result
    }

    /// Leaves a mark that what comes into the data directory now is not whole yet, and nothing in there unless it is to be kept.
    async fn begin_copy(&mut self, options: &ServerOptions, keep_data: bool) -> Result<Making> {
        let making = Making::begin(&options.data_dir).await;
        if keep_data {
            tracing::info!("Leaving data directory uncleaned");
            return Ok(making);
        }
        self.make_room(options).await?;
        // The mark names the directory, which may be gone now.
        Ok(Making::begin(&options.data_dir).await)
    }

    async fn make_room(&mut self, options: &ServerOptions) -> Result<()> {
        if data_dir::is_empty(&options.data_dir).await? { Ok(()) } else { self.remove_data_directory().await }
    }
}

fn methods(options: &ServerOptions, order: &CloneOrder) -> Vec<String> {
    let configured = order.methods.as_ref().unwrap_or(&options.create_replica_methods);
    let mut methods = configured.clone();
    if order.basebackup_only || methods.is_empty() {
        methods = vec![BASEBACKUP.to_owned()];
    }
    if order.source.is_none() {
        methods.retain(|m| m != BASEBACKUP && method_config(options, m).get("no_leader").is_some_and(truthy));
    }
    methods
}

fn method_config(options: &ServerOptions, name: &str) -> JsonMap {
    options.replica_methods.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn basebackup_options(section: Option<&Value>, version: u32) -> Vec<String> {
    let mut not_allowed = vec![
        "pgdata",
        "format",
        "wal-method",
        "xlog-method",
        "gzip",
        "version",
        "dbname",
        "host",
        "port",
        "username",
        "password",
    ];
    if version < 150_000 {
        not_allowed.push("compress");
    }
    let (mut arguments, mut problems) = user_options(BASEBACKUP, section.unwrap_or(&Value::Null), &not_allowed);
    arguments.retain(|argument| {
        let client_side = argument.starts_with("--compress=") && !argument.starts_with("--compress=server");
        if client_side {
            problems.push(
                "compress option for basebackup must use server-side compression (e.g., server-gzip, server-zstd). \
                 Client-side compression is not allowed."
                    .into(),
            );
        }
        !client_side
    });
    for problem in problems {
        tracing::error!("{problem}");
    }
    arguments
}

/// Puts the password into the password file, and tells the command where that is.
pub(crate) async fn give_password(command: &mut Command, options: &ServerOptions, source: &Conninfo) -> Result<()> {
    if write_pgpass(&options.pgpass, source).await? {
        command.env("PGPASSFILE", &options.pgpass);
    }
    Ok(())
}

/// Runs a program that copies, and looks how much there is meanwhile.
async fn run_script(
    command: Command,
    data_dir: &Path,
    copying: &Copying<'_>,
    making: &Making,
    cancel: &Cancel,
) -> Result<()> {
    let started = |pid| making.started(pid);
    let work = programs::run_known(command, None, Stderr::Log, cancel, &started);
    let mut work = std::pin::pin!(making.watch(work));
    let mut pause = PAUSE_BETWEEN_LOOKS;
    loop {
        tokio::select! {
            output = &mut work => return output?.success().map(|_| ()),
            () = sleep(pause) => {}
        }
        let path = data_dir.to_owned();
        let began = Instant::now();
        let size = blocking::within(SIZE_LIMIT, "adding up what was copied", move || Ok(size(&path)));
        tokio::select! {
            output = &mut work => return output?.success().map(|_| ()),
            bytes = size => if let Ok(bytes) = bytes { copying.report(bytes, None) },
        }
        // A directory with a million files takes a while to add up.
        pause = PAUSE_BETWEEN_LOOKS.max(began.elapsed() * PAUSE_TO_LOOK);
    }
}

/// How long adding up a copy may take.
const SIZE_LIMIT: Duration = Duration::from_secs(600);

/// Bytes in the files below a directory. Those that vanish or cannot be read count as nothing.
#[expect(clippy::disallowed_methods, reason = "blocks")]
fn size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
