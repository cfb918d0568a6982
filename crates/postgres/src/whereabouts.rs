//! Whether the data directory is still the one that it was: file systems come and go under running programs, and what is seen at the
//! same path then is another directory, or none. PostgreSQL works on in the old one, but for `pg_control`, which it writes by its path: into
//! what lies there now. Everything here blocks.
#![expect(clippy::disallowed_methods, reason = "blocks")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

const FSTAB: &str = "/etc/fstab";

/// Device and number of a directory.
type Identity = (u64, u64);

/// What was seen of the data directory while it was there.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    identity: Identity,
    /// Where the file system that holds it is mounted; `None` for that of the root directory, or where the kernel does not say.
    mounted: Option<PathBuf>,
}

impl Whereabouts {
    /// Takes note of a data directory that is there.
    pub(crate) fn learn(known: &mut Option<Self>, data_dir: &Path) {
        let Some(identity) = identity(data_dir) else { return };
        if known.as_ref().is_none_or(|known| known.identity != identity) {
            let real = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
            let mounted = real.ancestors().filter(|path| path.parent().is_some());
            let mounted = mounted.filter(|path| is_mounted(path) == Some(true)).map(Path::to_owned).next();
            *known = Some(Whereabouts { identity, mounted });
        }
    }

    /// Why a data directory that is not there any more must not be made anew where it was. `None`: it may.
    pub(crate) fn is_lost(&self) -> Option<String> {
        let mounted = self.mounted.as_ref().filter(|path| is_mounted(path) == Some(false))?.display();
        Some(format!(
            "it was in the file system at {mounted}, where none is mounted any more. Mount it again, or have this node cloned to what is \
             there now: patronictl reinit"
        ))
    }
}

/// Why no data directory may be made at this path, for an agent that has seen none there: the file system that holds it at other times is not
/// mounted. `None`: nothing speaks against it.
pub(crate) fn awaits_mount(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(FSTAB).ok()?;
    let real = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let missing = mount_points(&text).find(|path| real.starts_with(path) && is_mounted(path) == Some(false))?;
    let path = missing.display();
    Some(format!(
        "{FSTAB} has a file system for {path}, and none is mounted there. Mount it (mount {path}), or, where it is not for this data directory, take it out \
         of {FSTAB} or give it the option noauto; or have this node cloned to what is there now: patronictl reinit"
    ))
}

/// Where this table has file systems mounted when the machine starts, but for the root directory (fstab(5)).
fn mount_points(fstab: &str) -> impl Iterator<Item = PathBuf> {
    fstab.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().filter(|_| !line.trim_start().starts_with('#'));
        let (path, options) = (fields.nth(1)?, fields.nth(1).unwrap_or_default());
        let path = PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t"));
        (path.parent().is_some() && path.is_absolute() && !options.split(',').any(|option| option == "noauto"))
            .then_some(path)
    })
}

/// Why the server of a postmaster is not that of the data directory. `None`: it is, or nobody can say.
pub(crate) fn works_elsewhere(postmaster: i32, data_dir: &Path) -> Option<String> {
    let works_in = identity(Path::new(&format!("/proc/{postmaster}/cwd")))?;
    (works_in != identity(data_dir)?).then(|| {
        format!("the directory that PostgreSQL (pid={postmaster}) works in is not there any more, but another one, put or mounted in its place")
    })
}

fn identity(directory: &Path) -> Option<Identity> {
    fs::metadata(directory).map(|found| (found.dev(), found.ino())).ok()
}

/// Whether a file system is mounted at this path. `None` where the kernel does not say (before 5.8).
fn is_mounted(path: &Path) -> Option<bool> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MODE) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Some(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(rustix::io::Errno::NOENT) => Some(false),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_whose_file_system_is_gone_is_lost() {
        // Is mounted on every Linux.
        let mut known = None;
        Whereabouts::learn(&mut known, Path::new("/proc/self/task"));
        let known = known.expect("it is there");
        assert_eq!(known.mounted.as_deref(), Some(Path::new("/proc")));
        assert_eq!(known.is_lost(), None);
        let parent = tempfile::tempdir().expect("a directory");
        let at = |path: PathBuf| Whereabouts { identity: (0, 0), mounted: Some(path) };
        for gone in [parent.path().to_owned(), parent.path().join("gone")] {
            let lost = at(gone).is_lost().expect("nothing is mounted there");
            assert!(lost.contains("Mount it again"), "{lost}");
        }
    }

    #[test]
    fn what_is_mounted_at_boot() {
        let table = "# /dev/sda1 /old ext4 defaults 0 2\n/dev/sda2 / ext4 defaults 0 1\nUUID=1 /srv/pg\\040data xfs defaults,nofail 0 2\n\
                     /dev/sdb1 /backup ext4 noauto,ro 0 0\n/dev/sda3 none swap sw 0 0\nserver:/pg\t/mnt/pg\tnfs4\n\n";
        let found: Vec<_> = mount_points(table).collect();
        assert_eq!(found, [Path::new("/srv/pg data"), Path::new("/mnt/pg")]);
    }

    #[test]
    fn a_server_works_where_it_was_started() {
        let own = i32::try_from(std::process::id()).expect("a number");
        let here = std::env::current_dir().expect("a directory");
        assert_eq!(works_elsewhere(own, &here), None);
        let other = tempfile::tempdir().expect("a directory");
        assert!(works_elsewhere(own, other.path()).is_some());
        assert_eq!(works_elsewhere(own, &other.path().join("none")), None, "whether it is another is not known");
    }
}
