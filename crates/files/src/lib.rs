//! Writing files in directories where others may write, too (`/tmp`, a home that is shared): what lies there under our names may be another
//! user's link, or file.
#![allow(clippy::disallowed_methods, reason = "the one place that opens files to write them")]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// The end of the name of a file that is to replace another one.
const TEMPORARY: &str = ".patroni.tmp";

/// Whoever has not finished a file after this time never will.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// As many symbolic links as Linux follows.
const MOST_LINKS: usize = 40;

/// Replaces a file as a whole, durably: whoever opens it finds the old content or the new. What a symbolic link points to is replaced, and the
/// link stays. `mode` are its permissions; where `None`, the umask decides. Returns the new file, open for reading and writing.
///
/// # Errors
/// It cannot be written, or it is a symbolic link of another user than root.
pub fn replace(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<File> {
    let path = followed(path)?;
    match write_beside(&path, content, mode) {
        // A file that may be written in a directory that may not (Debian's /etc/postgresql of another owner).
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => {
            write_in_place(&path, content, mode)
        }
        other => other,
    }
}

/// Writes a file durably under a name that is nobody else's business: what lies there is removed.
///
/// # Errors
/// It cannot be written.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Opens a file for appending, and makes it where there is none.
///
/// # Errors
/// It cannot be opened, or it is a symbolic link of another user than root.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).custom_flags(no_links()).open(followed(path)?)
}

/// What a path stands for: symbolic links at its end are followed as long as they are ours or root's. Nothing needs to be there.
///
/// # Errors
/// A link of another user, or too many links.
pub fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => metadata,
            Ok(_) | Err(_) => return Ok(path),
        };
        if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
            let text = format!("it is a symbolic link of user {}, which is not followed; remove it", metadata.uid());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let target = fs::read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "too many symbolic links"))
}

fn write_beside(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let permissions = Permissions::from_mode(mode.unwrap_or(0o666));
    // Its name cannot be guessed, and it is made by this or not at all. The umask applies here, and not below.
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(TEMPORARY).permissions(permissions.clone());
    let mut file = builder.tempfile_in(directory)?;
    if mode.is_some() {
        file.as_file().set_permissions(permissions)?;
    }
    file.write_all(content)?;
    file.as_file().sync_all()?;
    let file = file.persist(path)?;
    sync_directory(directory)?;
    remove_left_behind(directory, &prefix);
    Ok(file)
}

/// Removes what agents that were killed have left while they wrote the same file. That it cannot be removed is no harm.
fn remove_left_behind(directory: &Path, prefix: &OsStr) {
    let is_random = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_alphanumeric);
    let is_temporary = |name: &OsStr| {
        let rest = name.as_bytes().strip_prefix(prefix.as_bytes());
        rest.and_then(|rest| rest.strip_suffix(TEMPORARY.as_bytes())).is_some_and(is_random)
    };
    let is_left = |path: &Path| {
        let metadata = fs::symlink_metadata(path).ok().filter(|m| m.is_file() && m.uid() == geteuid().as_raw());
        let age = metadata.and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        age.is_some_and(|age| age > LEFT_BEHIND)
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| is_temporary(&entry.file_name())) {
        if is_left(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_in_place(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(no_links()).open(path)?;
    if let Some(mode) = mode {
        // Before anything is in it: this fails on a file of somebody else.
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.set_len(0)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

/// Between the look at a link and the opening somebody may put another one there.
fn no_links() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems cannot do this with directories.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_links_stay() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        symlink("file", &link).unwrap();
        for text in ["old", "new"] {
            replace(&link, text.as_bytes(), Some(0o600)).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        append(&link).unwrap().write_all(b"er").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
        assert_eq!(names(parent.path()), ["file", "link"], "nothing else is left");
    }

    #[test]
    fn what_a_killed_agent_left_is_in_nobodys_way() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::create_dir(parent.path().join("file.patroni.tmp")).unwrap();
        replace(&file, b"text", None).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        write_new(&file, b"other", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "other");
    }

    #[test]
    fn what_a_killed_agent_left_long_ago_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * LEFT_BEHIND;
        // What another one writes now, or another file.
        let kept = ["file.aB3xyz.patroni.tmp", "file.b.aB3xyz.patroni.tmp", "file.patroni.tmp", "file.old"];
        for (name, is_old) in
            [("file.left00.patroni.tmp", true), (kept[0], false), (kept[1], true), (kept[2], true), (kept[3], true)]
        {
            let file = File::create(parent.path().join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        replace(&parent.path().join("file"), b"text", None).unwrap();
        let mut expected = [&["file"][..], &kept].concat();
        expected.sort();
        assert_eq!(names(parent.path()), expected);
    }

    #[test]
    fn a_new_file_does_not_follow_a_link() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        fs::write(&file, "precious").unwrap();
        symlink("file", &link).unwrap();
        write_new(&link, b"new", 0o640).unwrap();
        assert!(!link.is_symlink());
        assert_eq!(fs::metadata(&link).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn links_of_other_users_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        fs::write(&file, "precious").unwrap();
        symlink(&file, &link).unwrap();
        if lchown(&link, Some(12345), None).is_err() {
            eprintln!("SKIPPED: only root can make a link of another user");
            return;
        }
        for error in [replace(&link, b"x", Some(0o600)).unwrap_err(), append(&link).unwrap_err()] {
            assert!(error.to_string().contains("a symbolic link of user 12345"), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        // Nor where a link of ours leads to one.
        let second = parent.path().join("second");
        symlink("link", &second).unwrap();
        assert!(replace(&second, b"x", None).is_err());
        assert!(followed(Path::new("/nowhere/at/all")).is_ok());
    }

    #[test]
    fn circles_end() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        symlink("link", &link).unwrap();
        assert!(replace(&link, b"x", None).is_err());
    }
}
