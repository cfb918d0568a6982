//! `patroni_raft_controller`: members of the embedded store without PostgreSQL, such as the third vote beside two servers.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use patroni_config::{Config, Environment, Purpose, Source};
use patroni_dcs::raft::{RaftNode, RaftOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::log::Log;
use crate::options;

/// Takes part in one store for each configuration file, until it is told to stop. The log is that of the first one.
///
/// # Errors
/// A configuration or its files cannot be used.
pub fn run(files: &[PathBuf]) -> anyhow::Result<()> {
    let sources: Vec<Option<&PathBuf>> = if files.is_empty() { vec![None] } else { files.iter().map(Some).collect() };
    let mut log: Option<Log> = None;
    let mut nodes = Vec::new();
    for file in sources {
        let source = Source::new(file.map(PathBuf::as_path), Environment::of_process());
        let loaded = Config::load(source, Purpose::Ctl)?;
        if log.is_none() {
            log = Some(Log::start(&options::log_options(&loaded.config.log))?);
        }
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        nodes.push(
            start(&loaded.config).with_context(|| file.map_or_else(String::new, |file| file.display().to_string()))?,
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok::<(), anyhow::Error>(())
    })?;
    drop(nodes);
    if let Some(log) = log {
        log.shutdown();
    }
    Ok(())
}

fn start(config: &Config) -> anyhow::Result<Arc<RaftNode>> {
    if !config.effective().contains_key("raft") {
        bail!(
            "there is no section raft; it needs self_addr, partner_addrs, data_dir and, beyond this machine, password"
        );
    }
    let options = RaftOptions::from_json(config.effective())?;
    let node = RaftNode::start(options)?;
    tracing::info!("embedded store: {} takes part without PostgreSQL", node.address());
    Ok(node)
}
