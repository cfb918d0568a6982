//! Copies of logical slots: read from the primary, put into the data directory of a standby that is stopped.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use patroni_core::job::UpstreamMember;
use patroni_core::lsn::Lsn;
use patroni_core::server::SlotKind;

use super::snapshot::{self, Snapshot};
use super::state_file;
use crate::conf::primary_as_rewind_user;
use crate::options::ServerOptions;
use crate::sql::{Connection, DEFAULT_OPTIONS, Row, quote_literal};
use crate::{Error, Result};

/// How long the primary may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The state file of a slot, where the WAL begins that it needs, and what decoding from there starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    content: Vec<u8>,
    restart_lsn: Lsn,
    snapshot: Option<Snapshot>,
}

/// Reads the slots from the primary. Those that are not as they should be are left out, and the log says why.
///
/// # Errors
/// The primary does not answer, or does not let its files be read.
pub async fn read(
    options: &ServerOptions,
    primary: &UpstreamMember,
    slots: &BTreeMap<String, SlotKind>,
) -> Result<BTreeMap<String, Copy>> {
    let conninfo = primary_as_rewind_user(options, primary)?;
    let connection = Connection::open(&conninfo, "Patroni slots", DEFAULT_OPTIONS).await?;
    let by_postgresql = if connection.server_version() >= 170_000 { "failover OR synced" } else { "false" };
    let names: Vec<String> = slots.keys().map(|name| quote_literal(name)).collect();
    let sql = format!(
        "SELECT slot_name, plugin, datname, wal_status = 'lost', pg_catalog.encode(pg_catalog.pg_read_binary_file(\
         'pg_replslot/' || slot_name || '/state', 0, 1048576, true), 'hex') \
         FROM pg_catalog.pg_get_replication_slots() JOIN pg_catalog.pg_database ON datoid = oid \
         WHERE NOT ({by_postgresql}) AND NOT pg_catalog.pg_is_in_recovery() AND slot_name IN ({})",
        names.join(", ")
    );
    let rows = match connection.query_within(&sql, LIMIT).await {
        Err(error) if error.code() == Some("42501") => {
            return Err(Error::Configuration(format!(
                "user {} may not read the files of slots on {}; GRANT EXECUTE ON FUNCTION \
                 pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) to it, as pg_rewind needs",
                conninfo.get("user").unwrap_or_default(),
                primary.name
            )));
        }
        other => other?,
    };
    let mut copies = BTreeMap::new();
    for row in &rows {
        let Some((name, wanted)) = row.get(0).and_then(|name| slots.get_key_value(name)) else { continue };
        let copy = match copy_of(row, name, wanted) {
            Ok((content, restart_lsn)) => {
                let found = snapshot::read(&connection, name, restart_lsn, LIMIT).await?;
                found.map(|snapshot| Copy { content, restart_lsn, snapshot })
            }
            Err(why) => Err(why),
        };
        match copy {
            Ok(copy) => drop(copies.insert(name.clone(), copy)),
            Err(why) => tracing::warn!("Will not copy the logical slot \"{name}\" from {}: {why}", primary.name),
        }
    }
    Ok(copies)
}

fn copy_of(row: &Row, name: &str, wanted: &SlotKind) -> std::result::Result<(Vec<u8>, Lsn), String> {
    let text = |column: usize| row.get(column).unwrap_or_default().to_owned();
    let found = SlotKind::Logical { plugin: text(1), database: text(2) };
    if found != *wanted {
        return Err(format!(
            "due to the configuration mismatch: configuration={wanted:?}, slot on the primary={found:?}"
        ));
    }
    if row.flag(3) {
        return Err("it has lost WAL that it needs".to_owned());
    }
    let content = from_hex(&text(4)).ok_or("its state file cannot be read")?;
    let restart_lsn = state_file::restart_lsn(&content, name).map_err(|why| format!("its state file: {why}"))?;
    Ok((content, restart_lsn))
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok();
    let pairs = text.as_bytes().chunks_exact(2);
    if text.is_empty() || !pairs.remainder().is_empty() { None } else { pairs.map(byte).collect() }
}

/// Leaves out the copies whose WAL this standby does not have: they would be of no use. `segment_size` is that of WAL files.
///
/// # Errors
/// `pg_wal` cannot be read.
pub(crate) fn retain_usable(data_dir: &Path, segment_size: u64, copies: &mut BTreeMap<String, Copy>) -> Result<()> {
    let pg_wal = data_dir.join("pg_wal");
    let mut present = Vec::new();
    for entry in fs::read_dir(&pg_wal).map_err(|e| Error::file("read", &pg_wal, e))? {
        let entry = entry.map_err(|e| Error::file("read", &pg_wal, e))?;
        present.extend(entry.file_name().into_string());
    }
    copies.retain(|name, copy| {
        let segment = copy.restart_lsn.0 / segment_size.max(1);
        let per_file = (1u64 << 32) / segment_size.max(1);
        let suffix = format!("{:08X}{:08X}", segment / per_file.max(1), segment % per_file.max(1));
        let kept = present.iter().any(|file| file.len() == 24 && file.ends_with(&suffix));
        if !kept {
            tracing::warn!(
                "Will not copy the logical slot \"{name}\": this standby no longer has the WAL from {} on that it \
                 needs. It is copied once its consumer has moved on",
                copy.restart_lsn
            );
        }
        kept
    });
    Ok(())
}

/// Puts the copies in their places, durably, over what is there. PostgreSQL must not run.
///
/// # Errors
/// A file cannot be written; what was put there before is removed again.
pub(crate) fn install(data_dir: &Path, copies: &BTreeMap<String, Copy>) -> Result<()> {
    let mode = fs::metadata(data_dir).map_err(|e| Error::file("read", data_dir, e))?.permissions().mode() & 0o750;
    for (name, copy) in copies {
        let place = place(data_dir, name);
        let snapshot = copy.snapshot.as_ref().map_or(Ok(()), |snapshot| snapshot.install(data_dir, mode & 0o640));
        if let Err(error) = snapshot.and_then(|()| install_one(mode, &place, &copy.content)) {
            uninstall(data_dir, copies);
            return Err(Error::file("write", place, error));
        }
    }
    let directory = data_dir.join("pg_replslot");
    sync(&directory).map_err(|e| Error::file("sync", directory, e))
}

/// Takes the copies away again. The originals are on the primary.
pub(crate) fn uninstall(data_dir: &Path, copies: &BTreeMap<String, Copy>) {
    for name in copies.keys() {
        for directory in [place(data_dir, name), temporary(&place(data_dir, name))] {
            match fs::remove_dir_all(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!("{} cannot be removed: {error}", directory.display()),
            }
        }
    }
}

fn place(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join("pg_replslot").join(name)
}

/// PostgreSQL removes what is left under such a name.
fn temporary(place: &Path) -> PathBuf {
    place.with_extension("tmp")
}

fn install_one(mode: u32, place: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(place);
    for old in [&temporary, place] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::create_dir(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
    patroni_files::write_new(&temporary.join("state"), content, mode & 0o640)?;
    sync(&temporary)?;
    fs::rename(&temporary, place)?;
    sync(place)
}

pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(restart_lsn: u64) -> BTreeMap<String, Copy> {
        BTreeMap::from([("s".to_owned(), Copy { content: vec![1, 2], restart_lsn: Lsn(restart_lsn), snapshot: None })])
    }

    #[test]
    fn a_copy_needs_its_wal() {
        let dir = tempfile::tempdir().expect("directory");
        let wal = dir.path().join("pg_wal");
        fs::create_dir(&wal).expect("pg_wal");
        for name in ["000000020000000100000003", "000000020000000100000004.partial", "00000002.history"] {
            fs::write(wal.join(name), "").expect("a file");
        }
        let segment = 16 << 20;
        for (lsn, usable) in [
            (0x1_0300_0000, true),
            (0x1_03FF_FFFF, true),
            (0x1_02FF_FFFF, false),
            (0x1_0400_0000, false),
            (0x0_0300_0000, false),
        ] {
            let mut copies = copies(lsn);
            retain_usable(dir.path(), segment, &mut copies).expect("read");
            assert_eq!(!copies.is_empty(), usable, "{lsn:X}");
        }
    }

    #[test]
    fn copies_take_the_place_of_what_is_there_and_can_be_taken_away() {
        let dir = tempfile::tempdir().expect("directory");
        let place = dir.path().join("pg_replslot/s");
        fs::create_dir_all(&place).expect("an old slot");
        fs::write(place.join("xid-1-lsn-0-0.spill"), "").expect("a file");
        install(dir.path(), &copies(1)).expect("install");
        assert_eq!(fs::read(place.join("state")).expect("the state"), [1, 2]);
        assert_eq!(fs::read_dir(&place).expect("the slot").count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("pg_replslot")).expect("slots").count(), 1);
        uninstall(dir.path(), &copies(1));
        uninstall(dir.path(), &copies(1));
        assert!(!place.exists());
    }
}
