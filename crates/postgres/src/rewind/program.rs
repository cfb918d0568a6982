//! Running pg_rewind.

use std::time::Duration;

use patroni_core::job::RewindSource;
use tokio::process::Command;

use super::{RewindContext, archive, source};
use crate::cancel::Cancel;
use crate::conf::{guc_value, write_pgpass};
use crate::copying::Copying;
use crate::programs::{self, Output, Stderr};
use crate::{Error, Result};

/// How long a checkpoint on the primary may take.
pub(super) const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);

/// How many missing WAL files are fetched: more than a disk holds, so that a restore command that succeeds without doing anything ends.
const MOST_FETCHES: u32 = 1_000_000;

/// Runs pg_rewind until it succeeds, fetching WAL that it misses where it cannot do that by itself.
pub(super) async fn pg_rewind(
    context: &RewindContext,
    source: &RewindSource,
    copying: &Copying<'_>,
    cancel: &Cancel,
) -> Result<()> {
    let watch = |line: &str| copying.take(line);
    let in_force = restore_command_in_force(context).await;
    let fetches_itself = in_force.is_some() && can_restore(context);
    // A node that has been primary since its start has no recovery settings in its files.
    let restore_command = in_force.or_else(|| context.restore_command.clone());
    let mut last_missing = None;
    for _ in 0..MOST_FETCHES {
        let command = command(context, source, fetches_itself).await?;
        let output = programs::run_to_its_end(command, Stderr::Watch(&watch), cancel).await?;
        tracing::info!("pg_rewind exit {}", programs::describe(output.status));
        if !output.stdout.trim().is_empty() {
            tracing::info!(" stdout={}", output.stdout.trim_end());
        }
        if output.status.success() {
            return Ok(());
        }
        let Some(template) = restore_command.as_deref().filter(|_| !fetches_itself) else { return failed(output) };
        let Some(wal) = missing_wal(&output) else { return failed(output) };
        // Fetched, and missing again: it is not there.
        if last_missing.as_ref() == Some(&wal) || !archive::fetch(context, template, &wal, cancel).await? {
            tracing::info!("Failed to fetch WAL segment {wal} required for pg_rewind");
            return failed(output);
        }
        last_missing = Some(wal);
    }
    Err(Error::Unexpected("pg_rewind asks for WAL without end".to_owned()))
}

fn failed(output: Output) -> Result<()> {
    output.success().map(|_| ())
}

async fn command(context: &RewindContext, source: &RewindSource, fetches_itself: bool) -> Result<Command> {
    let mut conninfo = source::conninfo(context, source)?;
    let mut command = context.programs.command("pg_rewind");
    if write_pgpass(&context.options.pgpass, &conninfo).await? {
        command.env("PGPASSFILE", &context.options.pgpass);
    }
    conninfo.remove("password");
    let dsn = conninfo.dsn(context.version);
    tracing::info!("running pg_rewind from {dsn}");
    command.env("LANG", "C").env("LC_ALL", "C").env("PGOPTIONS", "-c statement_timeout=0");
    if fetches_itself {
        command.arg("--restore-target-wal");
        if context.config_dir != context.options.data_dir {
            let mut option = std::ffi::OsString::from("--config-file=");
            option.push(&context.postgresql_conf);
            command.arg(option);
        }
    }
    command.args(["--progress", "-D"]).arg(&context.options.data_dir).arg("--source-server").arg(dsn);
    Ok(command)
}

/// The `restore_command` in `postgresql.conf`, which pg_rewind and a start would go by.
pub(super) async fn restore_command_in_force(context: &RewindContext) -> Option<String> {
    let data_dir = &context.options.data_dir;
    let value =
        guc_value(&context.programs, data_dir, &context.postgresql_conf, "restore_command", context.limit).await;
    value.filter(|command| !command.is_empty())
}

/// Before version 15 pg_rewind looks for `postgresql.conf` in the data directory only.
fn can_restore(context: &RewindContext) -> bool {
    context.version >= 150_000 || context.config_dir == context.options.data_dir
}

/// `could not open file "/data/pg_wal/0000000A00006AA100000068": No such file or directory`
fn missing_wal(output: &Output) -> Option<String> {
    let lines = output.stderr.lines().chain(output.stdout.lines());
    lines.filter_map(missing_in).next().map(str::to_owned)
}

fn missing_in(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("could not open file \"")?;
    let (path, _) = rest.split_once("\": ")?;
    let (directory, name) = path.rsplit_once('/')?;
    (directory.ends_with("/pg_wal") && archive::is_segment(name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::missing_in;

    #[test]
    fn the_missing_file_is_named_in_the_complaint() {
        let wal = "0000000A00006AA100000068";
        let line = format!("pg_rewind: error: could not open file \"/data/pg_wal/{wal}\": No such file or directory");
        assert_eq!(missing_in(&line), Some(wal));
        for other in [line.replace("pg_wal", "base"), line.replace(wal, "x"), line.replace("\": ", ""), String::new()] {
            assert_eq!(missing_in(&other), None, "{other}");
        }
    }
}
