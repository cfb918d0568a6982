//! A data directory while it is copied or made, and its marks meanwhile.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::leftovers::Program;
use super::{CopyMark, Places, Unfinished, inode, write};
use crate::{blocking, data_dir};

/// How often the directory is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a look that is under way may take when the copy has ended.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Keeps the marks while a data directory is made.
#[derive(Debug)]
pub(crate) struct Making {
    data_dir: PathBuf,
    marks: Marks,
    /// What makes it.
    program: OnceLock<Option<Program>>,
}

/// Which marks there are.
#[derive(Clone, Debug, Default)]
struct Marks {
    /// What the one outside the data directory says.
    outside: Option<CopyMark>,
    /// The one in the data directory has been written. Not twice: whoever removes it (PostgreSQL, a script that empties the directory) is right.
    within: bool,
}

impl Making {
    /// Leaves a mark on disk before anything is done.
    pub(crate) async fn begin(data_dir: &Path) -> Self {
        let mut marks = Marks::default();
        let marked = blocking::at(data_dir, move |data_dir| {
            marks.outside(data_dir, None);
            Ok(marks)
        });
        let marks = marked.await.unwrap_or_default();
        Making { data_dir: data_dir.to_owned(), marks, program: OnceLock::new() }
    }

    /// To be told the process that makes it, the leader of its group.
    pub(crate) fn started(&self, pid: i32) {
        let _ = self.program.set(Program::of(pid));
    }

    /// Does the work, and keeps the marks meanwhile.
    pub(crate) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        // The first look comes before a script that may be about to empty the directory.
        let mut marks = timeout(LOOK_LIMIT, self.look(self.marks.clone())).await.unwrap_or_else(|_| self.marks.clone());
        let mut work = pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = sleep(PAUSE) => {}
            }
            let mut look = pin!(self.look(marks));
            marks = tokio::select! {
                marks = &mut look => marks,
                result = &mut work => {
                    // Nothing is written any more when this has ended.
                    let _ = timeout(LOOK_LIMIT, look).await;
                    return result;
                }
            };
        }
    }

    async fn look(&self, mut marks: Marks) -> Marks {
        let (program, before) = (self.program.get().cloned().flatten(), marks.clone());
        let looked = blocking::at(&self.data_dir, move |data_dir| {
            marks.outside(data_dir, program.clone());
            marks.within(data_dir, program);
            Ok(marks)
        });
        looked.await.unwrap_or(before)
    }
}

impl Marks {
    /// The mark outside the data directory, where what it says has changed. Blocks.
    fn outside(&mut self, data_dir: &Path, program: Option<Program>) {
        let copy = CopyMark { directory: inode(data_dir), program };
        if self.outside.as_ref() != Some(&copy) && Unfinished::Clone(copy.clone()).mark(data_dir).is_ok() {
            self.outside = Some(copy);
        }
    }

    /// The mark in the data directory. Programs that make one want it empty when they begin, and without `pg_control` a mark outside is
    /// enough. Blocks.
    fn within(&mut self, data_dir: &Path, program: Option<Program>) {
        let is_wanted = self.outside.is_none() || data_dir.join("global/pg_control").exists();
        if self.within || !is_wanted || data_dir::has_nothing(data_dir).unwrap_or(true) {
            return;
        }
        self.within = true;
        let mark = Unfinished::Clone(CopyMark { directory: inode(data_dir), program });
        let place = Places::of(data_dir).until_started;
        if let Err(error) = write(&place, &mark.text()) {
            let path = place.display();
            tracing::warn!(
                "should this copy be interrupted, its rest will not be recognized: cannot write {path}: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn is_marked(data_dir: &Path) -> bool {
        Places::of(data_dir).until_started.exists()
    }

    #[tokio::test]
    async fn the_directory_is_marked_when_it_has_what_makes_it_look_whole_and_only_once() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        let making = Making::begin(&data_dir).await;
        assert!(Unfinished::is_half_a_copy(&data_dir));
        making
            .watch(async {
                making.started(std::process::id().cast_signed());
                fs::create_dir_all(data_dir.join("global")).unwrap();
                let known = || Unfinished::all(&data_dir).into_iter().filter_map(Unfinished::into_copy);
                while !known().any(|copy| copy.program.is_some() && copy.directory.is_some()) {
                    sleep(PAUSE).await;
                }
                assert!(!is_marked(&data_dir), "a program may look whether it is empty");
                fs::write(data_dir.join("global/pg_control"), "x").unwrap();
                while !is_marked(&data_dir) {
                    sleep(PAUSE).await;
                }
                assert!(Unfinished::is_half_a_copy(&data_dir));
                fs::remove_file(Places::of(&data_dir).until_started).unwrap();
                sleep(3 * PAUSE).await;
            })
            .await;
        assert!(!is_marked(&data_dir) && !Unfinished::is_half_a_copy(&data_dir), "somebody has started it");
        Unfinished::remove(&data_dir);
    }

    /// The parent directory and the home directory cannot be written.
    #[test]
    fn where_there_is_no_other_place_the_mark_is_in_the_directory_as_soon_as_something_is() {
        let data_dir = tempfile::tempdir().unwrap();
        let mut marks = Marks::default();
        marks.within(data_dir.path(), None);
        assert!(!is_marked(data_dir.path()));
        fs::write(data_dir.path().join("backup_label"), "x").unwrap();
        marks.within(data_dir.path(), None);
        assert!(is_marked(data_dir.path()) && Unfinished::is_half_a_copy(data_dir.path()));
    }
}
