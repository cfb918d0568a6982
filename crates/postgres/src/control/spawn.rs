//! Starting the postmaster process.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::units::in_words;
use tokio::process::Command;
use tokio::time::Instant;

use super::Control;
use crate::cancel::Cancel;
use crate::data_dir;
use crate::options::ServerOptions;
use crate::postmaster::{Found, Postmaster};
use crate::programs::describe;
use crate::{Error, Result, blocking};

/// How long children of a killed postmaster may take to leave. One that is stuck in the kernel may never.
const LEFT_PROCESSES_LIMIT: Duration = Duration::from_secs(10);

impl Control {
    /// Starts `postgres` in a process group of its own, so that it outlives the agent and gets none of its signals. Its output
    /// goes where that of the agent goes.
    pub(super) async fn spawn_postmaster(&self, arguments: &[String]) -> Result<Arc<Postmaster>> {
        let options = self.options();
        let mut command = options.programs().command("postgres");
        command.arg("-D").arg(&options.data_dir).args(arguments);
        clean_environment(&mut command);
        if let Found::Foreign { pid } = blocking::at(&options.data_dir, Postmaster::find).await? {
            // A starting postmaster takes any live process with the number in the pid file for another postmaster, unless
            // it is told that this is one of its ancestors. Removing the file would race with a real one.
            tracing::info!("Telling pg_ctl that it is safe to ignore postmaster.pid for process {pid}");
            command.env("PG_GRANDPARENT_PID", pid.to_string());
        }
        command.process_group(0).stdin(Stdio::null());
        tracing::debug!("Starting postgres: {:?}", command.as_std());
        let program = options.programs().path("postgres").display().to_string();
        let mut child = command.spawn().map_err(|source| Error::Spawn { program, source })?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        // Not waited for yet, so the number is still its own.
        let gone = || Error::StartFailed("the process was gone at once".into());
        let postmaster = Arc::new(Postmaster::open(pid)?.ok_or_else(gone)?);
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => tracing::info!("postmaster pid={pid} exited"),
                Ok(status) => tracing::warn!("postmaster pid={pid} exited with {}", describe(status)),
                Err(error) => tracing::error!("cannot wait for postmaster pid={pid}: {error}"),
            }
        });
        tracing::info!("postmaster pid={pid}");
        self.monitor.started(&postmaster);
        Ok(postmaster)
    }

    /// A start right after the postmaster was killed would fail: its children need a moment to notice.
    pub(super) async fn wait_for_left_processes(&self, cancel: &Cancel) {
        let data_dir = self.options().data_dir.clone();
        let begun = Instant::now();
        while begun.elapsed() < LEFT_PROCESSES_LIMIT && !cancel.is_cancelled() {
            let left = blocking::at(&data_dir, |data_dir| Ok(Postmaster::left_processes(data_dir)));
            if !left.await.unwrap_or(false) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if begun.elapsed() > Duration::from_millis(500) {
            tracing::info!("waited {} for the processes of a postmaster that is gone", in_words(begun.elapsed()));
        }
    }

    /// PostgreSQL has written its reason to its log, wherever that is; here the common ones are found out again.
    pub(super) async fn why_start_failed(&self) -> Error {
        let options = self.options();
        let version = options.programs().server_version(&Cancel::new()).await.unwrap_or(0) / 10_000;
        if let Some(reason) = unusable_data_dir(&options.data_dir, version).await {
            return Error::StartFailed(reason);
        }
        if let Some(reason) = refused_configuration(&options, &self.conf.postgresql_conf()).await {
            return Error::StartFailed(reason);
        }
        let for_probe = options.clone();
        let mark = self.log_mark.clone();
        let found = blocking::within(blocking::LIMIT, "looking for the reason", move || {
            let taken = |at| format!("{at} is in use by another process; stop it or change postgresql.listen");
            Ok(taken_port(&for_probe).map(taken).or_else(|| mark.reason(&for_probe.data_dir)))
        });
        match found.await {
            Ok(Some(reason)) => Error::StartFailed(reason),
            Ok(None) | Err(_) => {
                Error::StartFailed("postmaster is not running; its log (or the output of this agent) says why".into())
            }
        }
    }
}

/// The environment of the agent is not for PostgreSQL: its settings may hold passwords.
fn clean_environment(command: &mut Command) {
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PATRONI_") || text.starts_with("KUBERNETES_") {
            command.env_remove(&name);
        }
        if text == "PG_MALLOC_ARENA_MAX" {
            command.env_remove(&name).env("MALLOC_ARENA_MAX", value);
        }
    }
}

async fn unusable_data_dir(data_dir: &Path, version: u32) -> Option<String> {
    let shown = data_dir.display();
    let of = data_dir::major_version(data_dir).await.ok()??;
    if version != 0 && of != version {
        return Some(format!(
            "data directory {shown} is of version {of}, bin_dir has version {version}; upgrade one of them"
        ));
    }
    let mode = data_dir::mode(data_dir).await.ok()?;
    let remedy = "chmod it to 700 or 750";
    (mode & 0o027 != 0).then(|| format!("data directory {shown} has invalid permissions {mode:o}; {remedy}"))
}

async fn refused_configuration(options: &ServerOptions, file: &Path) -> Option<String> {
    let mut command = options.programs().command("postgres");
    command.arg("-C").arg("data_directory").arg("-D").arg(&options.data_dir).env("LC_ALL", "C");
    command.arg(format!("--config-file={}", file.display()));
    let output = options.programs().capture(command, &Cancel::new(), Some(Duration::from_secs(5))).await.ok()?;
    (!output.status.success()).then(|| output.stderr.trim().to_owned())
}

fn taken_port(options: &ServerOptions) -> Option<String> {
    let addresses = options.listen_addresses.split(',').map(str::trim);
    for address in addresses {
        let host = if address == "*" { "0.0.0.0" } else { address };
        for socket in (host, options.port).to_socket_addrs().into_iter().flatten() {
            if TcpListener::bind(socket).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse) {
                return Some(socket.to_string());
            }
        }
    }
    None
}
