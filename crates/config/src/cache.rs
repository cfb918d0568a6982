//! `patroni.dynamic.json` in the data directory: a copy of the dynamic configuration, from which it is restored if the
//! store was wiped. Clones take it along.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use patroni_core::JsonMap;

const NAME: &str = "patroni.dynamic.json";

/// The place of the copy.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// Reads the copy; `None` if there is none.
pub fn load(data_dir: &Path) -> Result<Option<JsonMap>, (PathBuf, String)> {
    let path = path(data_dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err((path, error.to_string())),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| (path, error.to_string()))
}

/// Writes the copy as a whole or not at all, readable for the group if the data directory is. Blocks: not for the
/// runtime's threads.
pub fn save(data_dir: &Path, dynamic: &JsonMap) -> io::Result<()> {
    let group_may_read = std::fs::metadata(data_dir)?.mode() & 0o050 == 0o050;
    let mode = if group_may_read { 0o640 } else { 0o600 };
    patroni_files::replace(&path(data_dir), serde_json::to_string(dynamic)?.as_bytes(), Some(mode)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), Ok(None));
        let dynamic = serde_json::from_str(r#"{"ttl": 20, "a": {"b": [1, null]}}"#).unwrap();
        save(dir.path(), &dynamic).unwrap();
        assert_eq!(load(dir.path()), Ok(Some(dynamic)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(path(dir.path()), "{").unwrap();
        assert!(load(dir.path()).is_err());
        std::fs::write(path(dir.path()), "[]").unwrap();
        assert!(load(dir.path()).is_err());
    }

    #[test]
    fn the_mode_follows_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, expected) in [(0o700, 0o600), (0o750, 0o640)] {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            save(dir.path(), &JsonMap::new()).unwrap();
            assert_eq!(std::fs::metadata(path(dir.path())).unwrap().mode() & 0o777, expected);
        }
        assert!(save(&dir.path().join("absent"), &JsonMap::new()).is_err());
    }
}
