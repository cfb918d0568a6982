//! A mark beside the data directory while it is copied or rewound: whoever finds it there knows that this did not end, even after
//! a crash of the agent or of the machine.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use patroni_core::lsn::Timeline;
use patroni_core::server::ControlState;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::cancel::{Cancel, Progress};
use crate::postmaster::Postmaster;
use crate::programs::Programs;
use crate::{Error, Result};

/// How long a program of the agent's former life may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// A copy of the whole directory. What there is of it is of no use.
    Clone,
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

impl Unfinished {
    /// pg_rewind from this primary.
    pub fn rewind(data_dir: &Path, source: &str, timeline: Timeline) -> Self {
        Unfinished::Rewind { source: source.to_owned(), timeline: timeline.0, inode: inode(data_dir), boot: boot() }
    }

    /// That of the primary which pages are taken from.
    pub(crate) fn timeline(&self) -> Option<Timeline> {
        match self {
            Unfinished::Clone => None,
            Unfinished::Rewind { timeline, .. } => Some(Timeline(*timeline)),
        }
    }

    /// Leaves the mark on disk before anything is done.
    ///
    /// # Errors
    /// It cannot be written, neither beside the data directory nor in the other place: in it, or, for a copy, in the home directory.
    pub fn mark(&self, data_dir: &Path) -> Result<()> {
        let text = serde_json::to_string(self).unwrap_or_default();
        let Places { beside, within, home } = Places::of(data_dir);
        let Err(error) = write(&beside, &text) else { return Ok(()) };
        // The parent directory belongs to somebody else, or is yet to be made. pg_rewind removes a file in the data directory as the last
        // but one of its steps; a clone needs the directory to be empty.
        let other = match self {
            Unfinished::Rewind { .. } => Some(within),
            Unfinished::Clone => home,
        };
        let Some(other) = other else { return Err(Error::file("write", beside, error)) };
        write(&other, &text).map_err(|error| Error::file("write", other, error))
    }

    /// What was begun on this data directory and did not end.
    pub fn read(data_dir: &Path) -> Option<Unfinished> {
        let texts = Places::of(data_dir).all().filter_map(|path| fs::read_to_string(path).ok());
        let found = texts.into_iter().find_map(|text| serde_json::from_str(&text).ok())?;
        match found {
            Unfinished::Rewind { inode: of, .. } if of != inode(data_dir) => None,
            Unfinished::Rewind { .. } | Unfinished::Clone => Some(found),
        }
    }

    /// The same, given the state by `pg_control`. pg_rewind works on a server that was shut down, and changes that state as its last step
    /// before it flushes everything: then nothing is missing as long as the machine runs, and the mark was only not removed.
    pub fn in_force(data_dir: &Path, state: Option<ControlState>) -> Option<Unfinished> {
        use ControlState::{InArchiveRecovery, ShutDown, ShutDownInRecovery};
        Self::read(data_dir).filter(|found| match (found, state) {
            (Unfinished::Clone, _) | (_, None | Some(ShutDown | ShutDownInRecovery)) => true,
            (Unfinished::Rewind { boot: of, .. }, Some(InArchiveRecovery)) => *of != boot(),
            (Unfinished::Rewind { .. }, Some(_)) => false,
        })
    }

    /// It ended, or the data directory is another one now. That the mark cannot be removed is logged.
    pub fn clear(data_dir: &Path) {
        for path in Places::of(data_dir).all() {
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

/// Ends pg_basebackup that an agent which was killed left behind, still at work on the data directory. pg_rewind is left to its work: it
/// cannot be repeated once it has removed the WAL that it goes by.
pub async fn end_leftover_copy(programs: &Programs, data_dir: &Path) {
    if Unfinished::read(data_dir) == Some(Unfinished::Clone) {
        end(&at_work(&[programs.path("pg_basebackup")], data_dir), data_dir).await;
    }
}

/// Ends everything of the kind, before the data directory is removed.
pub async fn end_leftovers(programs: &Programs, data_dir: &Path) {
    if Unfinished::read(data_dir).is_some() {
        end(&at_work(&["pg_basebackup", "pg_rewind"].map(|name| programs.path(name)), data_dir), data_dir).await;
    }
}

/// Waits for pg_rewind that an agent which was killed left behind. True: there was one.
///
/// # Errors
/// Cancelled.
pub async fn wait_for_rewind(
    programs: &Programs,
    data_dir: &Path,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<bool> {
    let left = at_work(&[programs.path("pg_rewind")], data_dir);
    for process in &left {
        progress.commit(cancel, "waiting for pg_rewind of an earlier run")?;
        tracing::info!("pg_rewind of an earlier run is still at work: waiting for process {}", process.pid());
        tokio::select! {
            () = process.exited() => {}
            () = cancel.cancelled() => return Err(Error::Cancelled),
        }
    }
    Ok(!left.is_empty())
}

async fn end(processes: &[Postmaster], data_dir: &Path) {
    for process in processes {
        let pid = process.pid();
        tracing::warn!("a program of an earlier run is still at work on {}: ending process {pid}", data_dir.display());
        if process.signal(Signal::KILL).is_err() || timeout(END_LIMIT, process.exited()).await.is_err() {
            tracing::error!("process {pid} does not end");
        }
    }
}

/// Processes that run one of these programs with the data directory as an argument.
fn at_work(programs: &[PathBuf], data_dir: &Path) -> Vec<Postmaster> {
    let wanted = data_dir.to_string_lossy();
    let is_one = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let words: Vec<&str> = command.split('\0').collect();
        // The second word, where the program is a script.
        let is_program = |word: &&str| programs.iter().any(|path| path.file_name() == Path::new(word).file_name());
        words.iter().take(2).any(is_program)
            && words.iter().any(|word| word.strip_prefix("--pgdata=").unwrap_or(word) == wanted)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_one);
    pids.filter_map(|pid| Postmaster::open(pid).ok().flatten()).collect()
}

/// Where a mark can be.
struct Places {
    /// Beside the data directory: what is in it is copied over and removed.
    beside: PathBuf,
    within: PathBuf,
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
        Places { beside: PathBuf::from(beside), within: data_dir.join(".unfinished"), home }
    }

    fn all(self) -> impl Iterator<Item = PathBuf> {
        [Some(self.beside), Some(self.within), self.home].into_iter().flatten()
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    patroni_files::replace(path, text.as_bytes(), Some(0o600)).map(drop)
}

fn inode(data_dir: &Path) -> u64 {
    fs::metadata(data_dir.join("PG_VERSION")).map_or(0, |metadata| metadata.ino())
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_data_directory_and_outlives_what_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("PG_VERSION"), "15").unwrap();
        assert_eq!(Unfinished::read(&data_dir), None);
        let rewind = Unfinished::rewind(&data_dir, "b", Timeline(3));
        rewind.mark(&data_dir).unwrap();
        assert_eq!(Unfinished::read(&data_dir), Some(rewind));
        fs::rename(&data_dir, parent.path().join("old")).unwrap();
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("PG_VERSION"), "15").unwrap();
        assert_eq!(Unfinished::read(&data_dir), None, "another data directory");
        Unfinished::Clone.mark(&data_dir).unwrap();
        fs::remove_dir_all(&data_dir).unwrap();
        assert_eq!(Unfinished::read(&data_dir), Some(Unfinished::Clone));
        Unfinished::clear(&data_dir);
        Unfinished::clear(&data_dir);
        assert_eq!(Unfinished::read(&data_dir), None);
    }

    #[test]
    fn a_rewind_that_changed_the_state_has_ended_unless_the_machine_was_restarted_since() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        let here = Unfinished::rewind(&data_dir, "b", Timeline(3));
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
            (&Unfinished::Clone, Some(InArchiveRecovery), true),
        ] {
            mark.mark(&data_dir).unwrap();
            assert_eq!(Unfinished::in_force(&data_dir, state).is_some(), in_force, "{mark:?} {state:?}");
        }
    }

    #[test]
    fn a_copy_is_marked_also_where_there_is_no_parent_directory() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("15/100%/main");
        Unfinished::Clone.mark(&data_dir).unwrap();
        assert_eq!(Unfinished::read(&data_dir), Some(Unfinished::Clone));
        // Whoever makes the copy makes the directories.
        fs::create_dir_all(&data_dir).unwrap();
        assert_eq!(Unfinished::read(&data_dir), Some(Unfinished::Clone));
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0);
        assert_eq!(Unfinished::read(&parent.path().join("15/100/main")), None);
        Unfinished::clear(&data_dir);
        assert_eq!(Unfinished::read(&data_dir), None);
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
            assert_eq!(Unfinished::read(&data_dir), None, "{text}");
        }
    }
}
