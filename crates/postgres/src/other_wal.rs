//! The mark of a data directory that holds other WAL than the primary on the same timeline. It lies inside: it goes with the data where that is
//! copied, and ends with it.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result, blocking};

const NAME: &str = "patroni.diverged";

/// For whoever finds it.
const TEXT: &str = "\
The WAL of this data directory and that of the primary differ on a timeline that both have. Patroni neither follows nor leads with it:
PostgreSQL would mix two histories without a word.

Save what only this node has, if it is worth it, and clone the node anew with `patronictl reinit`. If this is the data to keep, and nobody
else leads: stop patroni, remove this file, start patroni.
";

/// The mark is there. Blocks.
pub fn is_marked(data_dir: &Path) -> bool {
    fs::symlink_metadata(path(data_dir)).is_ok()
}

/// Leaves the mark, on disk, or removes it.
///
/// # Errors
/// The file cannot be written or removed.
pub async fn mark(data_dir: &Path, present: bool) -> Result<()> {
    blocking::at(data_dir, move |data_dir| {
        let path = path(data_dir);
        let (what, done) = match present {
            true => ("write", write(&path)),
            false => ("remove", remove(&path)),
        };
        done.map_err(|error| Error::file(what, path, error))
    })
    .await
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

fn write(path: &Path) -> io::Result<()> {
    patroni_files::replace(path, TEXT.as_bytes(), None).map(drop)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_parent(path)),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mark_is_left_and_removed() {
        let data_dir = tempfile::tempdir().unwrap();
        assert!(!is_marked(data_dir.path()));
        for present in [true, true, false, false] {
            mark(data_dir.path(), present).await.unwrap();
            assert_eq!(is_marked(data_dir.path()), present);
        }
        assert!(mark(&data_dir.path().join("missing"), true).await.is_err());
    }
}
