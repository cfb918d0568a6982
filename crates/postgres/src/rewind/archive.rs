//! The archive: WAL that a dying primary left unarchived, and WAL that pg_rewind misses.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use patroni_core::server::ControlState;

use super::RewindContext;
use crate::cancel::Cancel;
use crate::conf::{files, guc_value};
use crate::controldata::ControlValues;
use crate::programs::{self, Stderr};
use crate::{Error, Result, blocking};

/// How long one call of an archive or restore command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);

/// Archives the WAL files that wait for it. With `archive_mode` on, not always, a promoted standby does not archive the WAL that the old
/// primary wrote last; after crash recovery or pg_rewind nobody would, and the archive had a hole. Failures are logged: what
/// follows works without.
///
/// # Errors
/// Cancelled.
pub async fn archive_ready_wals(context: &RewindContext, cancel: &Cancel) -> Result<()> {
    let Some(template) = archive_command(context).await else { return Ok(()) };
    let wal_dir = wal_dir(context);
    let status_dir = wal_dir.join("archive_status");
    let ready = match ready_files(&status_dir).await {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(());
        }
    };
    for wal in ready {
        cancel.check()?;
        if !files::is_file(&wal_dir.join(&wal)).await {
            continue;
        }
        let command = expand(&template, &wal_dir, &wal);
        tracing::info!("Trying to archive {wal}: {command}");
        if !shell(&context.options.data_dir, &command, cancel).await? {
            tracing::info!("Failed to archive WAL segment {wal}");
            continue;
        }
        let (from, to) = (status_dir.join(format!("{wal}.ready")), status_dir.join(format!("{wal}.done")));
        if let Err(error) = files::rename(from, to).await {
            tracing::error!("{error}");
        }
    }
    Ok(())
}

/// Archives the WAL file with the shutdown checkpoint of a primary that was stopped, as `pg_control` names it. The archiver does
/// not: the file is not full. Failures are logged.
///
/// # Errors
/// Cancelled.
pub async fn archive_shutdown_checkpoint(context: &RewindContext, cancel: &Cancel) -> Result<()> {
    let Some(template) = archive_command(context).await else {
        tracing::info!("Not archiving latest checkpoint WAL file. Archiving is not configured.");
        return Ok(());
    };
    let values = match ControlValues::read(&context.programs, &context.options.data_dir).await {
        Ok(values) => values,
        Err(error) => {
            tracing::error!("Cannot extract latest checkpoint's WAL file name: {error}");
            return Ok(());
        }
    };
    let name = values.get("Latest checkpoint's REDO WAL file").filter(|name| is_segment(name));
    let Some(wal) = name.filter(|_| values.state() == ControlState::ShutDown) else {
        tracing::error!("Cannot extract latest checkpoint's WAL file name: PostgreSQL was not shut down cleanly");
        return Ok(());
    };
    let command = expand(&template, &wal_dir(context), wal);
    tracing::info!("Archiving the WAL file with the shutdown checkpoint: {command}");
    if !shell(&context.options.data_dir, &command, cancel).await? {
        tracing::error!("Failed to archive WAL file with the shutdown checkpoint");
    }
    Ok(())
}

/// Removes all marks of the archiver, before crash recovery in single-user mode and after [`archive_ready_wals`]: the node
/// comes back as a standby, which archives nothing, and marks of a former life would be acted on after a later promotion.
///
/// # Errors
/// The directory cannot be read; that a file cannot be removed is logged.
pub async fn cleanup_archive_status(context: &RewindContext) -> Result<()> {
    let status_dir = wal_dir(context).join("archive_status");
    blocking::at(&status_dir, |status_dir| {
        for name in names(status_dir)? {
            let mark = status_dir.join(name);
            if let Err(error) = fs::remove_file(&mark) {
                tracing::error!("Unable to remove {}: {error}", mark.display());
            }
        }
        Ok(())
    })
    .await
}

/// What is in a directory. Blocks.
fn names(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |error| Error::file("list", directory, error);
    fs::read_dir(directory).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.file_name())).collect()
}

/// Fetches a WAL file that pg_rewind misses.
pub(super) async fn fetch(context: &RewindContext, template: &str, wal: &str, cancel: &Cancel) -> Result<bool> {
    let command = expand(template, &wal_dir(context), wal);
    tracing::info!("Trying to fetch the missing wal: {command}");
    shell(&context.options.data_dir, &command, cancel).await
}

async fn archive_command(context: &RewindContext) -> Option<String> {
    let value = async |name| {
        guc_value(&context.programs, &context.options.data_dir, &context.postgresql_conf, name, context.limit).await
    };
    let mode = value("archive_mode").await?;
    if mode != "on" && mode != "always" {
        return None;
    }
    value("archive_command").await.filter(|command| !command.is_empty() && command != "(disabled)")
}

fn wal_dir(context: &RewindContext) -> PathBuf {
    context.options.data_dir.join("pg_wal")
}

async fn ready_files(status_dir: &Path) -> Result<Vec<String>> {
    let found = blocking::at(status_dir, names).await?;
    let mut ready: Vec<String> =
        found.iter().filter_map(|name| ready_wal(&name.to_string_lossy()).map(str::to_owned)).collect();
    ready.sort();
    Ok(ready)
}

/// The WAL file, complete or partial, that such a mark is for. Those of history files do not matter here.
fn ready_wal(mark: &str) -> Option<&str> {
    let wal = mark.strip_suffix(".ready")?;
    let segment = wal.strip_suffix(".partial").unwrap_or(wal);
    is_segment(segment).then_some(wal)
}

pub(super) fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// `%p` is the path, `%f` the name; `%r` (the oldest file that must stay) is one that removes nothing.
fn expand(template: &str, wal_dir: &Path, wal: &str) -> String {
    let mut command = String::new();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        let replacement = match chars.peek() {
            Some('p') if c == '%' => wal_dir.join(wal).to_string_lossy().into_owned(),
            Some('f') if c == '%' => wal.to_owned(),
            Some('r') if c == '%' => "000000010000000000000001".to_owned(),
            Some('%') if c == '%' => "%".to_owned(),
            Some(_) | None => {
                command.push(c);
                continue;
            }
        };
        chars.next();
        command.push_str(&replacement);
    }
    command
}

/// Runs a command as PostgreSQL does: by a shell, in the data directory. True if it succeeded.
async fn shell(data_dir: &Path, command: &str, cancel: &Cancel) -> Result<bool> {
    let mut shell = programs::command_for("/bin/sh");
    shell.args(["-c", command]).current_dir(data_dir);
    match programs::run(shell, None, Stderr::Log, cancel, Some(COMMAND_LIMIT)).await {
        Ok(output) => Ok(output.status.success()),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => {
            tracing::error!("{command}: {error}");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_those_of_postgresql() {
        let expand = |template| expand(template, Path::new("/d/pg_wal"), "W");
        for (template, command) in [
            ("cp %p /a/%f", "cp /d/pg_wal/W /a/W"),
            ("x %% %r %q %", "x % 000000010000000000000001 %q %"),
            ("%%p", "%p"),
        ] {
            assert_eq!(expand(template), command);
        }
    }

    #[test]
    fn only_marks_of_segments_count() {
        let segment = "00000001000000000000000A";
        assert_eq!(ready_wal(&format!("{segment}.ready")), Some(segment));
        assert_eq!(ready_wal(&format!("{segment}.partial.ready")), Some(&*format!("{segment}.partial")));
        for other in ["00000002.history.ready", &format!("{segment}.done"), "00000001000000000000000a.ready", ".ready"]
        {
            assert_eq!(ready_wal(other), None, "{other}");
        }
    }
}
