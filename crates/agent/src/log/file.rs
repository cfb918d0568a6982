//! `patroni.log` and the older ones beside it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file that is moved out of the way before it grows too large: `patroni.log.1` is the youngest of the old ones.
#[derive(Debug)]
pub(crate) struct RotatingFile {
    path: PathBuf,
    file: File,
    size: u64,
    limits: Limits,
}

/// How large, how many, and who may read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In bytes; 0 for no limit.
    pub(crate) file_size: u64,
    /// Old ones to keep; 0 for no limit of the size.
    pub(crate) file_num: u32,
    /// Permissions.
    pub(crate) mode: Option<u32>,
}

impl RotatingFile {
    pub(crate) fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        let path = dir.join("patroni.log");
        let (file, size) = open(&path, limits.mode)?;
        Ok(RotatingFile { path, file, size, limits })
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line.
    pub(crate) fn write_line(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        let Limits { file_size, file_num, .. } = self.limits;
        if file_size > 0 && file_num > 0 && self.size > 0 && self.size + length >= file_size {
            self.rotate()?;
        }
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.limits.file_num).rev() {
            move_if_there(&self.numbered(number), &self.numbered(number + 1))?;
        }
        move_if_there(&self.path, &self.numbered(1))?;
        (self.file, self.size) = open(&self.path, self.limits.mode)?;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path, mode: Option<u32>) -> io::Result<(File, u64)> {
    let file = patroni_files::append(path)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_below_the_size_and_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { file_size: 20, file_num: 2, mode: Some(0o640) };
        let mut log = RotatingFile::open(dir.path(), limits).unwrap();
        for number in 0..8 {
            log.write_line(&format!("line {number}")).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("patroni.log").as_deref(), Some("line 6\nline 7\n"));
        assert_eq!(read("patroni.log.1").as_deref(), Some("line 4\nline 5\n"));
        assert_eq!(read("patroni.log.2").as_deref(), Some("line 2\nline 3\n"));
        assert_eq!(read("patroni.log.3"), None);
        let mode = fs::metadata(dir.path().join("patroni.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        drop(log);
        let mut log = RotatingFile::open(dir.path(), limits).unwrap();
        log.write_line("after a restart").unwrap();
        assert_eq!(read("patroni.log").as_deref(), Some("after a restart\n"), "the size of before counts");
    }
}
