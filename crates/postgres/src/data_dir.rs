//! The data directory: what lies in it, moving it away, removing it.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use patroni_core::lsn::Timeline;
use patroni_core::server::DataDir;
use rustix::io::Errno;

use crate::blocking;
use crate::controldata::ControlValues;
use crate::postmaster::{Found, Postmaster};
use crate::programs::Programs;
use crate::unfinished::Unfinished;
use crate::{Error, Result};

/// Looks into a data directory: its state, and the content of `pg_control` where there is one. `is_served`: a process of PostgreSQL
/// works in it.
pub async fn inspect(programs: &Programs, data_dir: &Path, is_served: bool) -> (DataDir, Option<ControlValues>) {
    let is_of_use =
        move |data_dir: &Path| Ok(is_readable(data_dir)? && (is_served || !Unfinished::is_half_a_copy(data_dir)));
    match blocking::at(data_dir, is_of_use).await {
        Ok(true) => {}
        // Nothing, or nothing of use.
        Ok(false) => return (DataDir::Empty, None),
        Err(error) => return (not_readable(&error), None),
    }
    match ControlValues::read(programs, data_dir).await {
        Ok(values) => match values.system_id() {
            Some(id) => (DataDir::Present(id), Some(values)),
            None => (DataDir::Invalid("pg_controldata printed no system identifier".into()), None),
        },
        Err(error @ (Error::Timeout { .. } | Error::Spawn { .. })) => (DataDir::Unknown(error.to_string()), None),
        Err(error) => (DataDir::Invalid(error.to_string()), None),
    }
}

/// There is something in it, and what says which database system it is can be read, if it is there at all. False: it is empty.
fn is_readable(data_dir: &Path) -> Result<bool> {
    if has_nothing(data_dir).map_err(|e| Error::file("read", data_dir, e))? {
        return Ok(false);
    }
    let path = data_dir.join("global/pg_control");
    match fs::File::open(&path).and_then(|mut file| file.read_exact(&mut [0])) {
        Err(error) if ![io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof].contains(&error.kind()) => {
            Err(Error::file("read", path, error))
        }
        Ok(()) | Err(_) => Ok(true),
    }
}

/// The system refuses it, or has no room to look.
fn not_readable(error: &Error) -> DataDir {
    let no_room = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN].map(Errno::raw_os_error);
    match error {
        Error::File { source, .. } if !source.raw_os_error().is_some_and(|code| no_room.contains(&code)) => {
            DataDir::Inaccessible(error.to_string())
        }
        _ => DataDir::Unknown(error.to_string()),
    }
}

/// Missing, or nothing in it but hidden files and `lost+found`.
///
/// # Errors
/// It cannot be read.
pub async fn is_empty(data_dir: &Path) -> Result<bool> {
    blocking::at(data_dir, |data_dir| has_nothing(data_dir).map_err(|error| Error::file("read", data_dir, error))).await
}

/// The same. Blocks.
///
/// # Errors
/// It cannot be read.
pub(crate) fn has_nothing(data_dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The major version by the file `PG_VERSION`.
///
/// # Errors
/// The disk does not answer.
pub async fn major_version(data_dir: &Path) -> Result<Option<u32>> {
    blocking::at(data_dir, |data_dir| Ok(version(data_dir))).await
}

/// Its permissions: `0o700`.
///
/// # Errors
/// It cannot be looked at.
pub async fn mode(data_dir: &Path) -> Result<u32> {
    blocking::at(data_dir, |data_dir| {
        let found = fs::metadata(data_dir).map_err(|error| Error::file("read", data_dir, error))?;
        Ok(found.permissions().mode() & 0o777)
    })
    .await
}

fn version(data_dir: &Path) -> Option<u32> {
    fs::read_to_string(data_dir.join("PG_VERSION")).ok()?.trim().split('.').next()?.parse().ok()
}

/// Files in the data directory that say what a server comes up as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `standby.signal` or `recovery.signal` is there.
    pub standby_signal: bool,
    /// `backup_label` is there and means something: before PostgreSQL 15 an exclusive backup could leave it on a primary.
    pub backup_label: bool,
    /// `backup_label` is there.
    pub has_label: bool,
}

impl Marks {
    /// Those that are there.
    ///
    /// # Errors
    /// The disk does not answer.
    pub async fn read(data_dir: &Path) -> Result<Self> {
        blocking::at(data_dir, |data_dir| Ok(Self::find(data_dir))).await
    }

    /// Blocks.
    pub(crate) fn find(data_dir: &Path) -> Self {
        let standby_signal = ["standby.signal", "recovery.signal"].iter().any(|name| data_dir.join(name).exists());
        let has_label = data_dir.join("backup_label").is_file();
        let backup_label = has_label && version(data_dir).is_some_and(|version| version >= 15);
        Marks { standby_signal, backup_label, has_label }
    }
}

/// The history file of a timeline, and when it was written.
///
/// # Errors
/// It cannot be read.
pub async fn timeline_history(data_dir: &Path, timeline: Timeline) -> Result<(String, SystemTime)> {
    let path = data_dir.join(format!("pg_wal/{:08X}.history", timeline.0));
    blocking::at(&path, |path| {
        let read = || Ok((fs::read_to_string(path)?, fs::metadata(path)?.modified()?));
        read().map_err(|error| Error::file("read", path, error))
    })
    .await
}

/// Renames the data directory to `DIR.failed`, and the targets of its symbolic links for WAL and tablespaces likewise. What was
/// there under that name is removed.
///
/// # Errors
/// A postmaster runs on it; a rename failed (what was renamed before stays so).
pub async fn move_away(data_dir: &Path) -> Result<()> {
    blocking::to_its_end(data_dir, rename_all).await
}

fn rename_all(data_dir: &Path) -> Result<()> {
    check_may_go(data_dir)?;
    if !data_dir.is_dir() {
        return Ok(());
    }
    for (link, target) in links(data_dir) {
        tracing::info!("renaming {} and updating symlink: {}", what(&link), target.display());
        let new = failed_name(&target);
        rename_over(&target, &new)?;
        fs::remove_file(&link).map_err(|e| Error::file("remove", &link, e))?;
        std::os::unix::fs::symlink(&new, &link).map_err(|e| Error::file("create symlink", &link, e))?;
    }
    let new = failed_name(data_dir);
    tracing::info!("renaming data directory to {}", new.display());
    rename_over(data_dir, &new)
}

/// Removes the data directory with the targets of its symbolic links for WAL and tablespaces. Where it cannot be removed it is
/// moved away.
///
/// # Errors
/// A postmaster runs on it, or it can neither be removed nor moved.
pub async fn remove(data_dir: &Path) -> Result<()> {
    blocking::to_its_end(data_dir, remove_or_rename).await
}

fn remove_or_rename(data_dir: &Path) -> Result<()> {
    check_may_go(data_dir)?;
    tracing::info!("Removing data directory: {}", data_dir.display());
    match remove_all(data_dir) {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!("Could not remove data directory {}: {error}", data_dir.display());
            rename_all(data_dir)
        }
    }
}

fn remove_all(data_dir: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(data_dir) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::file("read", data_dir, e)),
    };
    if !metadata.is_dir() {
        return fs::remove_file(data_dir).map_err(|e| Error::file("remove", data_dir, e));
    }
    // First, so that a directory of which a part is gone is never taken for a whole one.
    let _ = fs::remove_file(data_dir.join("global/pg_control"));
    for (link, target) in links(data_dir) {
        tracing::info!("Removing {}: {}", what(&link), target.display());
        remove_tree(&target)?;
    }
    // Where the directory itself has to stay (a mount point, a parent that belongs to somebody else), empty is enough.
    let entries = fs::read_dir(data_dir).map_err(|e| Error::file("read", data_dir, e))?;
    let removed: Vec<Result<()>> = entries.flatten().map(|entry| remove_entry(&entry)).collect();
    match fs::remove_dir(data_dir) {
        Err(error) if !has_nothing(data_dir).unwrap_or(false) => {
            Err(removed.into_iter().find_map(Result::err).unwrap_or(Error::file("remove", data_dir, error)))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_entry(entry: &fs::DirEntry) -> Result<()> {
    let path = entry.path();
    let is_dir = entry.file_type().map_err(|e| Error::file("read", &path, e))?.is_dir();
    if is_dir { remove_tree(&path) } else { fs::remove_file(&path).map_err(|e| Error::file("remove", &path, e)) }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Never a directory that somebody works on, nor one that is a root of everything.
fn check_may_go(data_dir: &Path) -> Result<()> {
    let names = data_dir.components().filter(|c| matches!(c, Component::Normal(_))).count();
    if !data_dir.is_absolute() || names == 0 || data_dir.components().any(|c| c == Component::ParentDir) {
        return Err(Error::Configuration(format!(
            "refusing to remove or move {:?}: not the absolute path of a directory below /; check postgresql.data_dir",
            data_dir
        )));
    }
    match Postmaster::find(data_dir)? {
        Found::Alive(postmaster) => Err(Error::PostmasterRuns { pid: postmaster.pid(), data_dir: data_dir.to_owned() }),
        Found::SingleUser { pid } => Err(Error::PostmasterRuns { pid, data_dir: data_dir.to_owned() }),
        Found::Nobody | Found::Foreign { .. } => Ok(()),
    }
}

/// Symbolic links for the WAL and for tablespaces, with what they point to.
fn links(data_dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let tablespaces =
        fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    let is_oid = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().parse::<u32>().is_ok());
    let candidates = std::iter::once(data_dir.join("pg_wal")).chain(tablespaces.filter(is_oid));
    let real = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    candidates
        .filter(|p| p.is_symlink())
        .filter_map(|p| Some((p.clone(), fs::canonicalize(&p).ok()?)))
        // Never what holds the data directory itself, and more.
        .filter(|(_, target)| !real.starts_with(target))
        .collect()
}

fn what(link: &Path) -> &'static str {
    if link.ends_with("pg_wal") { "WAL directory" } else { "user defined tablespace directory" }
}

fn failed_name(path: &Path) -> PathBuf {
    let mut name: OsString = path.components().as_path().as_os_str().to_owned();
    name.push(".failed");
    PathBuf::from(name)
}

fn rename_over(from: &Path, to: &Path) -> Result<()> {
    remove_tree(to)?;
    fs::rename(from, to).map_err(|e| Error::file("rename", from, e))
}
