//! The file `pg_logical/snapshots/LSN.snap`: what decoding from this position starts with.
//!
//! A server writes one wherever a slot may have to start again, and keeps it as long as the slot stays there. Without it decoding has to wait
//! until all transactions that ran at this position have ended, and what is committed meanwhile is left out, without a word. All of it comes
//! from WAL, so the file of the primary is as good on a standby. In the byte order of the machine: magic number, checksum of what
//! follows, version, length of what has no fixed length; then what differs between versions.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use patroni_core::lsn::Lsn;

use super::copy::{from_hex, sync};
use super::state_file::crc32c;
use crate::sql::{Connection, SqlError, quote_literal};

const MAGIC: u32 = 0x51A1_E001;
const CHECKSUMMED_FROM: usize = 8;
/// Such a file has some hundred bytes, and four more for each transaction that changed the catalog of late.
const MAX_BYTES: usize = 4 << 20;
const DIRECTORY: &str = "pg_logical/snapshots";

/// A whole file of this kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    name: String,
    content: Vec<u8>,
}

/// Reads from the primary what the slot's decoding starts with. `None`: it starts as it did when the slot was made, which needs no file.
/// The inner error says why the slot should not be copied now.
///
/// # Errors
/// The primary does not answer.
pub(super) async fn read(
    connection: &Connection,
    slot: &str,
    restart_lsn: Lsn,
    limit: Duration,
) -> Result<Result<Option<Snapshot>, String>, SqlError> {
    let name = file_name(restart_lsn);
    let file = format!(
        "SELECT pg_catalog.encode(pg_catalog.pg_read_binary_file({}, 0, {}, true), 'hex')",
        quote_literal(&format!("{DIRECTORY}/{name}")),
        MAX_BYTES + 1
    );
    let rows = connection.query_within(&file, limit).await?;
    if let Some(text) = rows.first().and_then(|row| row.get(0)) {
        return Ok(match from_hex(text).filter(|content| is_whole(content)) {
            Some(content) => Ok(Some(Snapshot { name, content })),
            None => Err(format!("{DIRECTORY}/{name} on the primary is not whole, or larger than {MAX_BYTES} bytes")),
        });
    }
    // Files are removed behind slots only: if the slot is still there, the file never was. Asked after the look at the file.
    let position = format!(
        "SELECT restart_lsn FROM pg_catalog.pg_get_replication_slots() WHERE slot_name = {}",
        quote_literal(slot)
    );
    let rows = connection.query_within(&position, limit).await?;
    let stays = rows.first().and_then(|row| row.parse::<Lsn>(0)) == Some(restart_lsn);
    Ok(if stays { Ok(None) } else { Err("it has just moved on".to_owned()) })
}

fn file_name(lsn: Lsn) -> String {
    format!("{:X}-{:X}.snap", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF)
}

fn is_whole(content: &[u8]) -> bool {
    let number = |at: usize| content.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let Some(checked) = content.get(CHECKSUMMED_FROM..) else { return false };
    content.len() <= MAX_BYTES && number(0) == Some(MAGIC) && number(4) == Some(crc32c(checked))
}

impl Snapshot {
    /// Puts it in its place, durably. PostgreSQL removes it once no slot needs it.
    pub(super) fn install(&self, data_dir: &Path, mode: u32) -> io::Result<()> {
        let directory = data_dir.join(DIRECTORY);
        // PostgreSQL removes what is left under such a name.
        let temporary = directory.join(format!("{}.0.tmp", self.name));
        patroni_files::write_new(&temporary, &self.content, mode)?;
        fs::rename(&temporary, directory.join(&self.name))?;
        sync(&directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_positions() {
        assert_eq!(file_name(Lsn(0x1_0300_00A8)), "1-30000A8.snap");
        assert_eq!(file_name(Lsn(0x3000)), "0-3000.snap");
    }

    #[test]
    fn only_whole_files_are_taken() {
        let checked: Vec<u8> = (0..120).collect();
        let content = [&MAGIC.to_ne_bytes()[..], &crc32c(&checked).to_ne_bytes(), &checked].concat();
        assert!(is_whole(&content));
        for length in 0..content.len() {
            assert!(!is_whole(&content[..length]), "cut after {length} bytes");
        }
        for at in 0..content.len() {
            let mut bad = content.clone();
            bad[at] ^= 1;
            assert!(!is_whole(&bad), "byte {at} changed");
        }
    }
}
