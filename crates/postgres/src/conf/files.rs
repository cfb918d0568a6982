//! Reading and replacing files.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use patroni_files::replace;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::blocking::LIMIT;
use crate::{Error, Result};

/// Held by who changes a file. One that a frozen disk holds up is the only one, and what comes after it is written after it.
static CHANGING: Semaphore = Semaphore::const_new(1);

/// Replaces a file as a whole, durably. Inside the data directory its permissions follow those of the directory (readable
/// by the group or not), elsewhere the umask.
pub(super) async fn write(data_dir: &Path, path: PathBuf, content: Vec<u8>) -> Result<()> {
    let data_dir = data_dir.to_owned();
    blocking("write", path, move |path| replace(path, &content, mode_for(&data_dir, path)).map(drop)).await
}

/// As [`write`], readable by the owner alone.
pub(super) async fn write_private(path: PathBuf, content: Vec<u8>) -> Result<()> {
    blocking("write", path, move |path| replace(path, &content, Some(0o600)).map(drop)).await
}

/// The content; `None` where there is no such file.
pub(crate) async fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match timeout(LIMIT, tokio::fs::read(path)).await {
        Ok(Ok(content)) => Ok(Some(content)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => Err(Error::file("read", path, error)),
        Err(_) => Err(late("read", path)),
    }
}

pub(crate) async fn is_file(path: &Path) -> bool {
    timeout(LIMIT, tokio::fs::metadata(path)).await.is_ok_and(|found| found.is_ok_and(|metadata| metadata.is_file()))
}

/// Makes a directory and those that it lies in, if they are not there.
pub(super) async fn create_directory(path: &Path) -> Result<()> {
    blocking("create", path.to_owned(), |path| fs::create_dir_all(path)).await
}

pub(crate) async fn rename(from: PathBuf, to: PathBuf) -> Result<()> {
    blocking("rename", from, move |from| {
        fs::rename(from, &to)?;
        sync_parent(&to)
    })
    .await
}

/// Removes a file; no error if it is not there.
pub(crate) async fn remove(path: PathBuf) -> Result<()> {
    blocking("remove", path, |path| match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    })
    .await
}

async fn blocking(
    action: &'static str,
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let shown = path.clone();
    let change = async {
        let turn = CHANGING.acquire().await.map_err(io::Error::other)?;
        let work = move || {
            let done = work(&path);
            drop(turn);
            done
        };
        spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    match timeout(LIMIT, change).await {
        Ok(done) => done.map_err(|error| Error::file(action, shown, error)),
        Err(_) => Err(late(action, &shown)),
    }
}

fn late(action: &str, path: &Path) -> Error {
    Error::Timeout { what: format!("to {action} {}", path.display()), limit: LIMIT }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match File::open(parent)?.sync_all() {
        // Some file systems cannot do this with directories.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// The mode of a file inside the data directory; `None` for one elsewhere.
fn mode_for(data_dir: &Path, path: &Path) -> Option<u32> {
    let data_dir = fs::canonicalize(data_dir).ok()?;
    let place = fs::canonicalize(path).ok().or_else(|| fs::canonicalize(path.parent()?).ok())?;
    if !place.starts_with(&data_dir) {
        return None;
    }
    const GROUP: u32 = 0o050;
    let mode = fs::metadata(&data_dir).ok()?.permissions().mode();
    Some(if mode & GROUP == GROUP { 0o640 } else { 0o600 })
}
