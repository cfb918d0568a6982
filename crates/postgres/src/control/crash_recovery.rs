//! Crash recovery without clients, so that the server ends cleanly and pg_rewind can work on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Control;
use crate::cancel::{Cancel, Progress};
use crate::conf::files;
use crate::programs::{self, Stderr};
use crate::rewind::{RewindContext, archive_ready_wals, cleanup_archive_status};
use crate::unfinished::Unfinished;
use crate::{Error, Result};

/// How long a program that reads one setting may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

impl Control {
    /// Archives what waits for it, then starts PostgreSQL in single-user mode with the options of its last start, and lets it end. Markers that would make it a
    /// standby are removed before: single-user mode refuses them. Nothing is archived meanwhile.
    ///
    /// # Errors
    /// A postmaster runs; it was rewound or copied and is not yet consistent; the recovery failed.
    pub async fn crash_recovery(&mut self, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let options = self.options();
        if let Some(postmaster) = self.monitor().alive().await? {
            return Err(Error::PostmasterRuns { pid: postmaster.pid(), data_dir: options.data_dir.clone() });
        }
        if self.monitor().control_values().await?.is_inconsistent(&options.data_dir).await? {
            return Err(Error::Unexpected("not recovered: it would end before it is consistent".to_owned()));
        }
        tracing::info!("doing crash recovery in a single user mode");
        self.learn_version().await?;
        let context = RewindContext::new(&self.conf, false, None, COMMAND_LIMIT);
        archive_ready_wals(&context, cancel).await?;
        if let Err(error) = cleanup_archive_status(&context).await {
            tracing::error!("{error}");
        }
        let mut settings = last_options(&options.data_dir).await;
        settings.insert("archive_mode".into(), "on".into());
        settings.insert("archive_command".into(), "false".into());
        self.conf.remove_recovery().await?;
        self.wait_for_left_processes(cancel).await;
        progress.commit(cancel, "doing crash recovery in a single user mode")?;
        Unfinished::clear(&options.data_dir).await;
        let mut command = options.programs().command("postgres");
        command.args(["--single", "-D"]).arg(&options.data_dir);
        for (name, value) in &settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.arg("template1");
        // Its standard input is at its end: it recovers, reads no command, and shuts down.
        let output = programs::run(command, Some(""), Stderr::Keep, cancel, None).await?;
        if !output.status.success() {
            tracing::error!("Crash recovery finished with {}", programs::describe(output.status));
            tracing::info!(" stdout={}", output.stdout);
            tracing::info!(" stderr={}", output.stderr);
        }
        output.success().map(|_| ())
    }
}

/// The options in `postmaster.opts`: `/bin/postgres "-D" "/data" "--port=5432" ...`. None where it cannot be read.
async fn last_options(data_dir: &Path) -> BTreeMap<String, String> {
    match files::read(&data_dir.join("postmaster.opts")).await {
        Ok(Some(text)) => parse_options(&String::from_utf8_lossy(&text)),
        Ok(None) => BTreeMap::new(),
        Err(error) => {
            tracing::error!("the options of the last start are not known: {error}");
            BTreeMap::new()
        }
    }
}

fn parse_options(text: &str) -> BTreeMap<String, String> {
    let words = text.trim_end().split("\" \"").map(|word| word.trim_end_matches('"'));
    let pairs = words.filter_map(|word| word.strip_prefix("--")?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_last_start_are_found() {
        let text = "/usr/bin/postgres \"-D\" \"/data\" \"--config-file=/data/postgresql.conf\" \"--cluster_name=a b\" \"--port=5433\"\n";
        let options = parse_options(text);
        assert_eq!(options.get("cluster_name").map(String::as_str), Some("a b"));
        assert_eq!(options.get("port").map(String::as_str), Some("5433"));
        assert_eq!(options.len(), 3);
    }
}
