//! `patroni_raft_controller`: members of the embedded store without PostgreSQL, such as the third vote beside two servers.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use patroni_config::{Config, Environment, Purpose, Source};
use patroni_dcs::raft::{RaftNode, RaftOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::log::Log;
use crate::notify::{Notifier, Stage};
use crate::options;

/// Takes part in one store for each configuration file, until it is told to stop. The log is that of the first one.
///
/// # Errors
/// A configuration or its files cannot be used.
pub fn run(files: &[PathBuf]) -> anyhow::Result<()> {
    let sources: Vec<Option<&PathBuf>> = if files.is_empty() { vec![None] } else { files.iter().map(Some).collect() };
    let mut log: Option<(Log, Arc<Config>)> = None;
    let mut nodes = Vec::new();
    for file in sources {
        // To `patronictl` a file that it cannot read is none; here it is the whole configuration.
        if let Some(file) = file {
            std::fs::File::open(file).with_context(|| file.display().to_string())?;
        }
        let source = Source::new(file.map(PathBuf::as_path), Environment::of_process());
        let loaded = Config::load(source, Purpose::Ctl)?;
        if log.is_none() {
            log = Some((Log::start(&options::log_options(&loaded.config.log))?, Arc::clone(&loaded.config)));
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
        let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be handled")?;
        let mut notifier = Notifier::of_process();
        notifier.report(Stage::Ready, "takes part in the embedded store").await;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    notifier.reloading().await;
                    if let Some((log, config)) = &mut log {
                        reload_log(log, config);
                    }
                    notifier.reloaded().await;
                }
            }
        }
        notifier.report(Stage::Stopping, "").await;
        for node in &nodes {
            node.hand_over().await;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    drop(nodes);
    if let Some((log, _)) = log {
        log.shutdown();
    }
    Ok(())
}

/// Of a configuration that is read again, the log alone can change while the store goes on.
fn reload_log(log: &Log, config: &mut Arc<Config>) {
    let problem = match config.reload() {
        Ok(loaded) => {
            *config = loaded.config;
            log.reconfigure(&options::log_options(&config.log)).err().map(|error| error.to_string())
        }
        Err(error) => Some(error.to_string()),
    };
    match problem {
        None => tracing::info!("the settings of the log were read again; others take effect with the next start"),
        Some(problem) => tracing::error!("{problem}; the settings before stay in force"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_be_read_is_named() {
        let error = run(&[PathBuf::from("/nowhere/raft.yml")]).expect_err("there is no such file");
        assert!(format!("{error:#}").starts_with("/nowhere/raft.yml: No such file"), "{error:#}");
    }
}
