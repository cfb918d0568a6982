//! Marks of a data directory while it is copied, made or rewound: whoever finds one knows that this did not end, even after a crash of
//! the agent or of the machine.
//!
//! What a mark of a copy says leads to the removal of data, and marks can be stale: left behind by a machine or an agent that is gone, restored
//! from a backup, in a home directory that several machines share. So a data directory with a `pg_control` is half a copy only by a mark that
//! lies in it, was written for it, and is removed by PostgreSQL itself as soon as somebody starts it there. Marks elsewhere count only
//! where there is no `pg_control`, and for the directory that they were written for.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

mod leftovers;
mod making;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use patroni_core::lsn::Timeline;
use patroni_core::server::ControlState;
use serde::{Deserialize, Serialize};

use crate::controldata::state;
use crate::data_dir::has_nothing;
use crate::{Error, Result, blocking};

pub use leftovers::{end_leftover_copy, end_leftovers, wait_for_rewind};
pub(crate) use making::Making;

/// A file of the data directory that every postmaster removes when it starts (PostgreSQL 12 or newer): it is meant for the one that runs.
const UNTIL_STARTED: &str = "logrotate";

/// What was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// A copy of the whole directory, or a new database system. What there is of it is of no use.
    Clone(CopyMark),
    /// pg_rewind.
    Rewind {
        /// The primary that it takes pages from.
        source: String,
        /// The timeline of that primary.
        timeline: u32,
        /// The file `PG_VERSION`, which pg_rewind leaves alone: with another one, this is another data directory.
        inode: u64,
        /// The boot of the machine: what was written and not flushed is lost with the next one.
        #[serde(default)]
        boot: String,
    },
}

/// A copy that is being made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyMark {
    /// The data directory, by its inode; `None` where there was none yet.
    directory: Option<u64>,
    /// What makes it.
    program: Option<leftovers::Program>,
}

impl Unfinished {
    /// pg_rewind from this primary.
    pub fn rewind(data_dir: &Path, source: &str, timeline: Timeline) -> Self {
        Unfinished::Rewind {
            source: source.to_owned(),
            timeline: timeline.0,
            inode: version_file(data_dir),
            boot: boot(),
        }
    }

    /// That of the primary which pages are taken from.
    pub(crate) fn timeline(&self) -> Option<Timeline> {
        match self {
            Unfinished::Clone(_) => None,
            Unfinished::Rewind { timeline, .. } => Some(Timeline(*timeline)),
        }
    }

    fn into_copy(self) -> Option<CopyMark> {
        match self {
            Unfinished::Clone(copy) => Some(copy),
            Unfinished::Rewind { .. } => None,
        }
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Leaves the mark on disk before anything is done.
    ///
    /// # Errors
    /// It cannot be written, neither beside the data directory nor in the other place: in it, or, for a copy, in the home directory.
    pub fn mark(&self, data_dir: &Path) -> Result<()> {
        let text = self.text();
        let Places { beside, within, home, until_started: _ } = Places::of(data_dir);
        let Err(error) = write(&beside, &text) else { return Ok(()) };
        // The parent directory belongs to somebody else, or is yet to be made. pg_rewind removes a file in the data directory as the last
        // but one of its steps; a clone needs the directory to be empty.
        let other = match self {
            Unfinished::Rewind { .. } => Some(within),
            Unfinished::Clone(_) => home,
        };
        let Some(other) = other else { return Err(Error::file("write", beside, error)) };
        write(&other, &text).map_err(|error| Error::file("write", other, error))
    }

    /// Everything that was begun on this data directory and did not end, by all marks.
    fn all(data_dir: &Path) -> Vec<Unfinished> {
        let marks = Places::of(data_dir).all().filter_map(|path| read(&path));
        let is_of_this = |mark: &Unfinished| match mark {
            Unfinished::Rewind { inode, .. } => *inode == version_file(data_dir),
            Unfinished::Clone(_) => true,
        };
        marks.filter(is_of_this).collect()
    }

    /// pg_rewind that was begun on this data directory and did not end.
    pub fn rewind_of(data_dir: &Path) -> Option<Unfinished> {
        Self::all(data_dir).into_iter().find(|mark| matches!(mark, Unfinished::Rewind { .. }))
    }

    /// The same, given the state by `pg_control`. pg_rewind works on a server that was shut down, and changes that state as its last step
    /// before it flushes everything: then nothing is missing as long as the machine runs, and the mark was only not removed.
    pub fn in_force(data_dir: &Path, state: Option<ControlState>) -> Option<Unfinished> {
        use ControlState::{InArchiveRecovery, ShutDown, ShutDownInRecovery};
        Self::rewind_of(data_dir).filter(|found| match (found, state) {
            (_, None | Some(ShutDown | ShutDownInRecovery)) => true,
            (Unfinished::Rewind { boot: of, .. }, Some(InArchiveRecovery)) => *of != boot(),
            (Unfinished::Clone(_) | Unfinished::Rewind { .. }, Some(_)) => false,
        })
    }

    /// The same, given `pg_control` itself.
    ///
    /// # Errors
    /// The disk does not answer.
    pub(crate) async fn rewind_in_force(data_dir: &Path) -> Result<Option<Unfinished>> {
        blocking::at(data_dir, |data_dir| Ok(Self::in_force(data_dir, state(data_dir)))).await
    }

    /// Leaves the mark of pg_rewind from this primary on disk before that begins.
    ///
    /// # Errors
    /// As [`Unfinished::mark`].
    pub(crate) async fn mark_rewind(data_dir: &Path, source: &str, timeline: Timeline) -> Result<()> {
        let source = source.to_owned();
        blocking::at(data_dir, move |data_dir| Self::rewind(data_dir, &source, timeline).mark(data_dir)).await
    }

    /// What is in the data directory is the rest of a copy, or of a new database system, that did not end: nobody has started PostgreSQL
    /// there since it was begun.
    pub fn is_half_a_copy(data_dir: &Path) -> bool {
        let places = Places::of(data_dir);
        let directory = inode(data_dir);
        let copy = |path: &Path| read(path)?.into_copy();
        match data_dir.join("global/pg_control").symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut copies = places.all().filter_map(|path| copy(&path));
                copies.any(|copy| copy.directory.is_none() || copy.directory == directory)
            }
            Ok(_) | Err(_) => {
                copy(&places.until_started).is_some_and(|copy| copy.directory.is_some() && copy.directory == directory)
            }
        }
    }

    /// There is something in the data directory, and it is half a copy.
    ///
    /// # Errors
    /// The disk does not answer.
    pub(crate) async fn left_half(data_dir: &Path) -> Result<bool> {
        let is_half = |dir: &Path| Ok(!has_nothing(dir).unwrap_or(true) && Self::is_half_a_copy(dir));
        blocking::at(data_dir, is_half).await
    }

    /// It ended, or the data directory is another one now. That the mark cannot be removed is logged.
    pub async fn clear(data_dir: &Path) {
        let cleared = blocking::at(data_dir, |data_dir| {
            Self::remove(data_dir);
            Ok(())
        });
        if let Err(error) = cleared.await {
            tracing::error!("a mark that this data directory is not whole may be left: {error}");
        }
    }

    /// The same. Blocks.
    pub fn remove(data_dir: &Path) {
        let places = Places::of(data_dir);
        // It may be somebody else's, for the server that runs.
        let is_kept = read(&places.until_started).is_none().then(|| places.until_started.clone());
        for path in places.all().filter(|path| Some(path) != is_kept.as_ref()) {
            if let Err(error) = remove(&path) {
                let path = path.display();
                tracing::error!("cannot remove {path}, which says that its data directory is not whole: {error}");
            }
        }
    }
}

/// Removes the mark if it is there. Where we may not even look, in the home directory of another user for one, there is none of ours.
fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Where a mark can be.
struct Places {
    /// Beside the data directory: what is in it is copied over and removed.
    beside: PathBuf,
    /// In it, for pg_rewind.
    within: PathBuf,
    /// In it, for a copy: only there until somebody starts PostgreSQL.
    until_started: PathBuf,
    /// In the home directory of the user, under the whole path.
    home: Option<PathBuf>,
}

impl Places {
    fn of(data_dir: &Path) -> Self {
        let clean: PathBuf = data_dir.components().collect();
        let mut beside: OsString = clean.as_os_str().to_owned();
        beside.push(".unfinished");
        let path = clean.to_string_lossy().replace('%', "%25").replace('/', "%2F");
        let home = std::env::home_dir().map(|home| home.join(format!(".patroni{path}.unfinished")));
        Places {
            beside: PathBuf::from(beside),
            within: data_dir.join(".unfinished"),
            until_started: data_dir.join(UNTIL_STARTED),
            home,
        }
    }

    fn all(self) -> impl Iterator<Item = PathBuf> {
        [Some(self.beside), Some(self.within), Some(self.until_started), self.home].into_iter().flatten()
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    patroni_files::replace(path, text.as_bytes(), Some(0o600)).map(drop)
}

fn read(path: &Path) -> Option<Unfinished> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

fn version_file(data_dir: &Path) -> u64 {
    inode(&data_dir.join("PG_VERSION")).unwrap_or(0)
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(data_dir: &Path) -> Unfinished {
        Unfinished::Clone(CopyMark { directory: inode(data_dir), program: None })
    }

    #[test]
    fn a_mark_of_pg_rewind_is_of_one_data_directory() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("PG_VERSION"), "15").unwrap();
        assert_eq!(Unfinished::rewind_of(&data_dir), None);
        let rewind = Unfinished::rewind(&data_dir, "b", Timeline(3));
        rewind.mark(&data_dir).unwrap();
        assert_eq!(Unfinished::rewind_of(&data_dir), Some(rewind));
        fs::rename(&data_dir, parent.path().join("old")).unwrap();
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("PG_VERSION"), "15").unwrap();
        assert_eq!(Unfinished::rewind_of(&data_dir), None, "another data directory");
        Unfinished::remove(&data_dir);
        Unfinished::remove(&data_dir);
        assert_eq!(Unfinished::all(&data_dir), []);
    }

    #[test]
    fn a_mark_of_a_copy_is_in_force_for_its_directory_and_with_pg_control_only_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let (data_dir, other) = (parent.path().join("data"), parent.path().join("other"));
        fs::create_dir(&data_dir).unwrap();
        fs::create_dir(&other).unwrap();
        let (nameless, ours, foreign) = (Unfinished::Clone(CopyMark::default()), copy_of(&data_dir), copy_of(&other));
        let places = Places::of(&data_dir);
        let rows = [
            // mark, beside, in it: without pg_control, with it
            (&ours, true, false, true, false),
            (&nameless, true, false, true, false),
            (&foreign, true, false, false, false),
            (&ours, false, true, true, true),
            (&ours, true, true, true, true),
            (&nameless, false, true, true, false),
            (&foreign, false, true, false, false),
        ];
        for (mark, beside, within, without_control, with_control) in rows {
            for (is_there, expected) in [(false, without_control), (true, with_control)] {
                fs::create_dir_all(data_dir.join("global")).unwrap();
                for (place, is_wanted) in [(&places.beside, beside), (&places.until_started, within)] {
                    if is_wanted {
                        write(place, &mark.text()).unwrap();
                    }
                }
                if is_there {
                    fs::write(data_dir.join("global/pg_control"), "x").unwrap();
                }
                let context = format!("{mark:?} {beside} {within} {is_there}");
                assert_eq!(Unfinished::is_half_a_copy(&data_dir), expected, "{context}");
                Unfinished::remove(&data_dir);
                assert!(!Unfinished::is_half_a_copy(&data_dir), "{context}");
                fs::remove_dir_all(data_dir.join("global")).unwrap();
            }
        }
    }

    /// A request of `pg_ctl logrotate`.
    #[test]
    fn a_file_of_that_name_that_is_not_ours_stays() {
        let data_dir = tempfile::tempdir().unwrap();
        fs::write(data_dir.path().join(UNTIL_STARTED), "").unwrap();
        Unfinished::remove(data_dir.path());
        assert!(data_dir.path().join(UNTIL_STARTED).exists());
    }

    #[test]
    fn a_rewind_that_changed_the_state_has_ended_unless_the_machine_was_restarted_since() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        let here = Unfinished::rewind(&data_dir, "b", Timeline(3));
        let copy = Unfinished::Clone(CopyMark::default());
        let text = serde_json::to_string(&here).unwrap();
        let other_boot: Unfinished = serde_json::from_str(&text.replace(&boot(), "another")).unwrap();
        // An agent that wrote no boot into it: nothing is known.
        let before: Unfinished = serde_json::from_str(r#"{"rewind":{"source":"b","timeline":3,"inode":0}}"#).unwrap();
        use ControlState::{InArchiveRecovery, InProduction, ShutDown, ShutDownInRecovery};
        for (mark, state, in_force) in [
            (&here, Some(ShutDown), true),
            (&here, Some(ShutDownInRecovery), true),
            (&here, Some(InArchiveRecovery), false),
            (&here, Some(InProduction), false),
            (&here, None, true),
            (&other_boot, Some(InArchiveRecovery), true),
            (&before, Some(InArchiveRecovery), true),
            (&copy, Some(InArchiveRecovery), false),
        ] {
            mark.mark(&data_dir).unwrap();
            assert_eq!(Unfinished::in_force(&data_dir, state).is_some(), in_force, "{mark:?} {state:?}");
        }
    }

    #[test]
    fn a_copy_is_marked_also_where_there_is_no_parent_directory() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("15/100%/main");
        copy_of(&data_dir).mark(&data_dir).unwrap();
        assert!(Unfinished::is_half_a_copy(&data_dir));
        // Whoever makes the copy makes the directories.
        fs::create_dir_all(&data_dir).unwrap();
        assert!(Unfinished::is_half_a_copy(&data_dir));
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0);
        assert!(!Unfinished::is_half_a_copy(&parent.path().join("15/100/main")));
        Unfinished::remove(&data_dir);
        assert!(!Unfinished::is_half_a_copy(&data_dir));
    }

    #[test]
    fn a_place_that_cannot_be_looked_into_holds_no_mark_and_one_that_stays_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let circle = parent.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        assert!(remove(&circle.join("data.unfinished")).is_ok());
        let directory = parent.path().join("data.unfinished");
        fs::create_dir(&directory).unwrap();
        assert!(remove(&directory).is_err());
    }

    #[test]
    fn nonsense_is_no_mark() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        for text in ["", "x", "{}", r#"{"rewind":{}}"#, "\"other\""] {
            fs::write(parent.path().join("data.unfinished"), text).unwrap();
            assert_eq!(Unfinished::all(&data_dir), [], "{text}");
        }
    }
}
