//! A file of records, each with a checksum, that is only added to.
//!
//! What was acknowledged must not be lost: a length in the header says how much of the file was on disk for certain.
//! It is written after each flush and not flushed itself, so it may lag behind, but never says too much. A record that
//! cannot be read below it was acknowledged and is damaged; above it, it was never acknowledged and may be torn.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The version of the formats of all files of the store.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"ptrnraft";
const HEADER: u64 = 64;
const DURABLE_AT: u64 = 16;
/// Length and checksum.
const RECORD_HEAD: usize = 8;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It is not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A newer program wrote it.
    #[error("{path} has version {version} of the format, this program knows {FORMAT}: use the newer program")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError::Io { path, source }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> FileError {
        FileError::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}

/// The file, open for adding records.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Records {
    /// Reads all records; `None`: there is no file.
    pub(crate) fn read(path: &Path) -> Result<Option<Vec<Vec<u8>>>, FileError> {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(FileError::io(path))?,
        };
        let durable = durable_length(path, &bytes)?;
        let mut records = Vec::new();
        let mut at = HEADER as usize;
        while at < bytes.len() {
            match record_at(&bytes, at) {
                Some(payload) => {
                    at += RECORD_HEAD + payload.len();
                    records.push(payload.to_vec());
                }
                None if (at as u64) < durable => {
                    return Err(FileError::damaged(path, format!("the record at byte {at} cannot be read")));
                }
                None => {
                    tracing::info!("{}: the end was not written completely, and is cut at byte {at}", path.display());
                    break;
                }
            }
        }
        if (at as u64) < durable {
            return Err(FileError::damaged(path, format!("it ends at byte {at}, and reached to {durable}")));
        }
        Ok(Some(records))
    }

    /// Puts a file with these records in the place of the present one. What was read before is on disk for certain
    /// only now.
    pub(crate) fn replace<'a>(path: &Path, records: impl Iterator<Item = &'a [u8]>) -> Result<Self, FileError> {
        let mut bytes = vec![0; HEADER as usize];
        for payload in records {
            push(&mut bytes, payload);
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        let length = bytes.len() as u64;
        bytes[DURABLE_AT as usize..DURABLE_AT as usize + 12].copy_from_slice(&durable_mark(length));
        let file = patroni_files::replace(path, &bytes, Some(0o600)).map_err(FileError::io(path))?;
        Ok(Records { path: path.to_owned(), file, length })
    }

    /// Adds records. They are on disk when this returns.
    pub(crate) fn add<'a>(&mut self, records: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for payload in records {
            push(&mut bytes, payload);
        }
        let written = self.file.write_all_at(&bytes, self.length).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // The rest of a record must not stand before the next one. Nothing is added after a failure anyway.
            let _ = self.file.set_len(self.length);
            return Err(io::Error::new(error.kind(), format!("{}: {error}", self.path.display())));
        }
        self.length += bytes.len() as u64;
        // Without it less is known about the file, which does no harm.
        let _ = self.file.write_all_at(&durable_mark(self.length), DURABLE_AT);
        Ok(())
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }
}

fn push(bytes: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend(length);
    bytes.extend(checksum(length, payload).to_le_bytes());
    bytes.extend(payload);
}

fn record_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + RECORD_HEAD)?;
    let (length, sum) = head.split_first_chunk::<4>()?;
    let payload = bytes.get(at + RECORD_HEAD..)?.get(..u32::from_le_bytes(*length) as usize)?;
    // A run of zeros must not be taken for empty records.
    (!payload.is_empty() && checksum(*length, payload).to_le_bytes() == sum).then_some(payload)
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

fn durable_mark(length: u64) -> [u8; 12] {
    let length = length.to_le_bytes();
    let mut mark = [0; 12];
    mark[..8].copy_from_slice(&length);
    mark[8..].copy_from_slice(&crc32fast::hash(&length).to_le_bytes());
    mark
}

fn durable_length(path: &Path, bytes: &[u8]) -> Result<u64, FileError> {
    let field = |range: std::ops::Range<usize>| bytes.get(range);
    let number = |field: &[u8]| field.try_into().map(u32::from_le_bytes).unwrap_or(0);
    let head = field(0..12).zip(field(12..16)).filter(|(head, sum)| crc32fast::hash(head) == number(sum));
    let Some((head, _)) = head.filter(|(head, _)| head.starts_with(MAGIC)) else {
        return Err(FileError::damaged(path, "its header cannot be read"));
    };
    let version = number(&head[8..12]);
    if version != FORMAT {
        return Err(FileError::Version { path: path.to_owned(), version });
    }
    let mark = field(16..24).zip(field(24..28)).filter(|(length, sum)| crc32fast::hash(length) == number(sum));
    let Some((length, _)) = mark else {
        return Err(FileError::damaged(path, "the length in its header cannot be read"));
    };
    Ok(length.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::fs::OpenOptions;

    use super::*;

    fn written(records: &[&[u8]]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("no temporary directory");
        let path = directory.path().join("log");
        let mut file = Records::replace(&path, records[..1].iter().copied()).expect("cannot write");
        for record in &records[1..] {
            file.add(std::iter::once(*record)).expect("cannot add");
        }
        (directory, path)
    }

    /// As after a crash of the machine: the mark in the header is from before the last records.
    fn mark_durable(path: &Path, length: u64) {
        let file = OpenOptions::new().write(true).open(path).expect("cannot open");
        file.write_all_at(&durable_mark(length), DURABLE_AT).expect("cannot write");
    }

    #[test]
    fn a_torn_end_is_cut_and_damage_is_told() {
        let records: [&[u8]; 3] = [b"first", b"second", b"third"];
        let (_directory, path) = written(&records);
        let whole = std::fs::read(&path).expect("cannot read");
        let second_ends = whole.len() - RECORD_HEAD - records[2].len();
        for length in second_ends..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("cannot write");
            assert!(matches!(Records::read(&path), Err(FileError::Damaged { .. })), "it was acknowledged");
            mark_durable(&path, second_ends as u64);
            assert_eq!(Records::read(&path).expect("torn").expect("there"), records[..2], "at {length}");
        }
        let mut zeros = whole[..second_ends].to_vec();
        zeros.resize(whole.len() + 500, 0);
        std::fs::write(&path, &zeros).expect("cannot write");
        mark_durable(&path, second_ends as u64);
        assert_eq!(Records::read(&path).expect("zeros").expect("there"), records[..2]);
    }

    #[test]
    fn a_newer_format_is_left_alone() {
        let (_directory, path) = written(&[b"first"]);
        let mut bytes = std::fs::read(&path).expect("cannot read");
        bytes[8] = 2;
        let sum = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&path, &bytes).expect("cannot write");
        assert!(matches!(Records::read(&path), Err(FileError::Version { version: 2, .. })));
    }

    proptest! {
        /// Whatever byte of an acknowledged file changes: it is told, never taken for truth.
        #[test]
        fn each_changed_byte_is_noticed(at in 0..200_usize, change in 1..=255_u8) {
            let (_directory, path) = written(&[b"the first record", b"the second record", b"the third"]);
            let mut bytes = std::fs::read(&path).expect("cannot read");
            let at = at % bytes.len();
            bytes[at] ^= change;
            std::fs::write(&path, &bytes).expect("cannot write");
            let unused = (28..HEADER as usize).contains(&at);
            prop_assert_eq!(Records::read(&path).is_ok(), unused, "byte {}", at);
        }
    }
}
