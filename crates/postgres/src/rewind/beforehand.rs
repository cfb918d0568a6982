//! Whether pg_rewind can come to its end, before it begins.
//!
//! pg_rewind reads everything that it goes by before it changes anything, but does not look whether it can write. It opens each file that it
//! copies for writing where that is, makes directories, and removes last what the primary has not. Where one of these steps fails it stops
//! half-way, with a data directory that neither starts nor can be rewound again.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use patroni_core::job::RewindSource;
use rustix::fs::{Access, AtFlags, CWD, StatxAttributes, StatxFlags, accessat, statvfs, statx};
use rustix::io::Errno;

use super::RewindContext;
use super::source::{Source, SourceFile};
use crate::cancel::Cancel;
use crate::{Error, Result, blocking};

/// How long looking through all files may take, here and on the primary. pg_rewind itself looks through them once more.
const LIMIT: Duration = Duration::from_secs(600);

/// How many of the files that stand in the way are named.
const NAMED: usize = 5;

/// File systems give room in blocks.
const BLOCK: u64 = 4096;

/// `Some`: pg_rewind would stop half-way; the text says why, and what to do. Nothing is changed here.
///
/// # Errors
/// Cancelled, or the data directory cannot be looked through in time.
pub(super) async fn refusal(context: &RewindContext, source: &RewindSource, cancel: &Cancel) -> Result<Option<String>> {
    let theirs = async {
        match files_of(context, source).await {
            Ok(files) => Some(files),
            Err(error) => {
                // pg_rewind asks for the same, with the same grants, before it changes anything.
                tracing::info!(
                    "{source} did not say which files it has, so that the room they need is not known: {error}"
                );
                None
            }
        }
    };
    let what = format!("looking for files that pg_rewind could not write in {}", context.options.data_dir.display());
    let (data_dir, cancelled) = (context.options.data_dir.clone(), cancel.clone());
    let looked_through = async {
        let theirs = theirs.await;
        let until = Instant::now() + LIMIT;
        blocking::within(LIMIT * 2, what.clone(), move || {
            Target::look(&data_dir, &cancelled, until).map(|target| target.refusal(theirs.as_deref()))
        })
        .await
    };
    tokio::select! {
        result = tokio::time::timeout(LIMIT * 2, looked_through) => {
            result.unwrap_or_else(|_| Err(Error::Timeout { what: what.clone(), limit: LIMIT * 2 }))
        }
        () = cancel.cancelled() => Err(Error::Cancelled),
    }
}

async fn files_of(context: &RewindContext, source: &RewindSource) -> Result<Vec<SourceFile>> {
    Source::connect(context, source).await?.files(LIMIT).await
}

/// What is in the way, by path in the data directory, with the reason.
type Obstacles = Vec<(String, String)>;

/// The data directory of this node, with its tablespaces.
#[derive(Default)]
struct Target {
    /// The sizes of regular files, by path in the data directory.
    sizes: HashMap<String, u64>,
    /// Where what is below these paths is: the data directory itself, `pg_wal/` behind a link, tablespaces, other file systems.
    roots: Vec<(String, PathBuf)>,
    /// Directories in which nothing can be made or removed, and links that lead nowhere.
    closed: Obstacles,
    unwritable: Obstacles,
    unremovable: Obstacles,
}

impl Target {
    fn look(data_dir: &Path, cancel: &Cancel, until: Instant) -> Result<Self> {
        let mut target = Target { roots: vec![(String::new(), data_dir.to_owned())], ..Target::default() };
        let mut left = vec![(String::new(), data_dir.to_owned())];
        while let Some((path, directory)) = left.pop() {
            cancel.check()?;
            if Instant::now() > until {
                let what = format!("looking through {}", data_dir.display());
                return Err(Error::Timeout { what, limit: LIMIT });
            }
            if let Err(why) = target.look_into(&path, &directory, &mut left) {
                target.closed.push((shown(&path), why));
            }
        }
        Ok(target)
    }

    /// `path` ends with a slash, unless it is empty.
    fn look_into(
        &mut self,
        path: &str,
        directory: &Path,
        left: &mut Vec<(String, PathBuf)>,
    ) -> std::result::Result<(), String> {
        let own = fs::metadata(directory).map_err(|error| error.to_string())?;
        let entries = fs::read_dir(directory).map_err(|error| reason(&own, &error.to_string()))?;
        let access = Access::WRITE_OK | Access::EXEC_OK;
        may(directory, access).map_err(|error| reason(&own, &error))?;
        if attributes(directory).contains(StatxAttributes::APPEND) {
            return Err("append-only".to_owned());
        }
        let me = rustix::process::geteuid().as_raw();
        let is_sticky = own.permissions().mode() & 0o1000 != 0 && own.uid() != me;
        for entry in entries {
            let entry = entry.map_err(|error| error.to_string())?;
            let (name, place) = (format!("{path}{}", entry.file_name().to_string_lossy()), entry.path());
            // One that is gone by now is in nobody's way.
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                if found.dev() != own.dev() {
                    self.roots.push((format!("{name}/"), place.clone()));
                }
                left.push((format!("{name}/"), place.clone()));
            } else if found.is_symlink() {
                self.look_behind(&name, &place, left);
            } else if found.is_file() {
                self.sizes.insert(name.clone(), found.len());
                let fixed = fixed(&place);
                let unwritable = fixed.clone().or_else(|| may(&place, Access::WRITE_OK).err());
                self.unwritable.extend(unwritable.map(|why| (name.clone(), reason(&found, &why))));
                let not_mine = || (is_sticky && found.uid() != me).then(|| "in a sticky directory".to_owned());
                self.unremovable.extend(fixed.or_else(not_mine).map(|why| (name, reason(&found, &why))));
            }
        }
        Ok(())
    }

    /// pg_rewind follows only these links.
    fn look_behind(&mut self, name: &str, place: &Path, left: &mut Vec<(String, PathBuf)>) {
        if name != "pg_wal" && name.strip_prefix("pg_tblspc/").is_none_or(|rest| rest.contains('/')) {
            return;
        }
        match fs::canonicalize(place) {
            Ok(directory) => {
                self.roots.push((format!("{name}/"), directory.clone()));
                left.push((format!("{name}/"), directory));
            }
            Err(error) => {
                let to = fs::read_link(place).map(|to| to.display().to_string()).unwrap_or_default();
                self.closed.push((name.to_owned(), format!("a link to {to}: {error}")));
            }
        }
    }

    /// Without the files of the primary each file might be copied, or removed.
    fn refusal(mut self, theirs: Option<&[SourceFile]>) -> Option<String> {
        let mut obstacles = std::mem::take(&mut self.closed);
        for file in theirs.unwrap_or_default() {
            obstacles.extend(self.place_of_new_tablespace(file));
        }
        let copied: Option<HashMap<&str, u64>> = theirs.map(|files| files.iter().filter_map(copied).collect());
        let is_copied = |path: &str| copied.as_ref().is_none_or(|copied| copied.contains_key(path));
        let is_removed = |path: &str| copied.as_ref().is_none_or(|copied| !copied.contains_key(path));
        let never_written = |path: &str| path.rsplit('/').next() == Some("PG_VERSION");
        obstacles.extend(self.unwritable.drain(..).filter(|(path, _)| is_copied(path) && !never_written(path)));
        obstacles.extend(self.unremovable.drain(..).filter(|(path, _)| is_removed(path)));
        obstacles.sort();
        obstacles.dedup_by(|a, b| a.0 == b.0);
        if let Some(text) = in_the_way(&obstacles, &self.roots[0].1) {
            return Some(text);
        }
        copied.and_then(|copied| self.lack_of_room(&copied))
    }

    /// A tablespace that only the primary has: pg_rewind makes the link, and not the directory it leads to.
    fn place_of_new_tablespace(&mut self, file: &SourceFile) -> Option<(String, String)> {
        let location = file.location.as_deref().map(Path::new).filter(|location| location.is_absolute())?;
        let path = format!("{}/", file.path);
        if self.roots.iter().any(|(root, _)| *root == path) {
            return None;
        }
        let found = fs::metadata(location)
            .map_err(|error| error.to_string())
            .and_then(|own| may(location, Access::WRITE_OK | Access::EXEC_OK).map_err(|why| reason(&own, &why)));
        self.roots.push((path, location.to_owned()));
        found.err().map(|why| (location.display().to_string(), format!("a tablespace of the primary: {why}")))
    }

    /// For each file system: what grows, and what is new, before anything is removed.
    fn lack_of_room(&self, copied: &HashMap<&str, u64>) -> Option<String> {
        let mut needed: HashMap<u64, (&Path, u64)> = HashMap::new();
        let roots: Vec<(&str, &Path, u64)> = self
            .roots
            .iter()
            .filter_map(|(path, place)| Some((path.as_str(), place.as_path(), fs::metadata(place).ok()?.dev())))
            .collect();
        for (path, size) in copied {
            let here = self.sizes.get(*path).copied().unwrap_or(0);
            let within = roots.iter().filter(|(root, ..)| path.starts_with(root)).max_by_key(|(root, ..)| root.len());
            let Some((_, place, device)) = within else { continue };
            needed.entry(*device).or_insert((place, 0)).1 += size.saturating_sub(here).div_ceil(BLOCK) * BLOCK;
        }
        let mut lacks: Vec<String> = needed.into_values().filter_map(|(place, needed)| lack(place, needed)).collect();
        lacks.sort();
        (!lacks.is_empty()).then(|| lacks.join("; "))
    }
}

fn lack(place: &Path, needed: u64) -> Option<String> {
    let room = statvfs(place).ok()?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    (free < needed).then(|| {
        format!(
            "the files that are new or larger on the primary need {} MB on the file system of {}, where {} MB are free. Make room there",
            needed.div_ceil(1 << 20),
            place.display(),
            free >> 20
        )
    })
}

/// A regular file that pg_rewind copies, in whole or in parts, and its size.
fn copied(file: &SourceFile) -> Option<(&str, u64)> {
    let path = file.path.as_str();
    (!is_left_out(path)).then_some((path, file.size?))
}

/// What pg_rewind never takes from the primary, and removes from this node.
fn is_left_out(path: &str) -> bool {
    const DIRECTORIES: [&str; 7] =
        ["pg_dynshmem/", "pg_notify/", "pg_replslot/", "pg_serial/", "pg_snapshots/", "pg_stat_tmp/", "pg_subtrans/"];
    const FILES: [&str; 7] = [
        "backup_label",
        "backup_manifest",
        "current_logfiles.tmp",
        "postgresql.auto.conf.tmp",
        "postmaster.opts",
        "postmaster.pid",
        "tablespace_map",
    ];
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || FILES.contains(&name)
        || DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

fn in_the_way(obstacles: &[(String, String)], data_dir: &Path) -> Option<String> {
    if obstacles.is_empty() {
        return None;
    }
    let named: Vec<String> = obstacles.iter().take(NAMED).map(|(path, why)| format!("{path} ({why})")).collect();
    let more = obstacles.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!(
        "it could not write or remove in {}: {}{more}. Make the user of PostgreSQL (uid {}) the owner, with permission to write (chown, chmod \
         u+rwX); take away immutable flags (chattr -i -a); let links lead to directories that are there",
        data_dir.display(),
        named.join(", "),
        rustix::process::geteuid().as_raw()
    ))
}

fn shown(path: &str) -> String {
    if path.is_empty() { ".".to_owned() } else { path.to_owned() }
}

fn reason(found: &Metadata, why: &str) -> String {
    format!("{why}; owner {}, mode {:04o}", found.uid(), found.permissions().mode() & 0o7777)
}

/// Asked of the kernel, which knows about access control lists and read-only file systems.
fn may(path: &Path, access: Access) -> std::result::Result<(), String> {
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).to_string()),
    }
}

/// Neither to be overwritten nor to be removed, whoever owns it.
fn fixed(path: &Path) -> Option<String> {
    let attributes = attributes(path);
    let flags = [(StatxAttributes::IMMUTABLE, "immutable"), (StatxAttributes::APPEND, "append-only")];
    flags.into_iter().find(|(flag, _)| attributes.contains(*flag)).map(|(_, name)| name.to_owned())
}

/// None where the kernel, or the file system, does not say.
fn attributes(path: &Path) -> StatxAttributes {
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MODE)
        .map_or(StatxAttributes::empty(), |found| found.stx_attributes)
}

#[cfg(test)]
#[path = "beforehand_tests.rs"]
mod tests;
