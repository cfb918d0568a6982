//! Reading and replacing files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use patroni_files::replace;
use tokio::task::spawn_blocking;

use crate::{Error, Result};

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
pub(super) async fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match tokio::fs::read(path).await {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path, error)),
    }
}

pub(super) async fn is_file(path: &Path) -> bool {
    tokio::fs::metadata(path).await.is_ok_and(|metadata| metadata.is_file())
}

pub(super) async fn rename(from: PathBuf, to: PathBuf) -> Result<()> {
    blocking("rename", from, move |from| {
        fs::rename(from, &to)?;
        sync_parent(&to)
    })
    .await
}

/// Removes a file; no error if it is not there.
pub(super) async fn remove(path: PathBuf) -> Result<()> {
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
    let done = spawn_blocking(move || work(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Error::file(action, shown, error))
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
