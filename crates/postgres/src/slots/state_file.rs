//! The file `pg_replslot/NAME/state`, in which a server keeps a slot.
//!
//! A server that finds a broken one when it starts does not start: what comes from elsewhere is looked at first. In the byte order of the
//! machine: magic number, checksum of what follows, version, length; then the slot: name (64 bytes), database, persistency, `xmin`,
//! `catalog_xmin` (4 bytes each), `restart_lsn` (8), and more that differs between versions.

use patroni_core::lsn::Lsn;

const MAGIC: u32 = 0x0105_1CA1;
/// What the checksum and the length do not cover.
const HEAD: usize = 16;
const CHECKSUMMED_FROM: usize = 8;
const NAME: std::ops::Range<usize> = HEAD..HEAD + 64;
const PERSISTENCY: usize = 84;
const RESTART_LSN: std::ops::Range<usize> = 96..104;
/// `RS_PERSISTENT`: neither temporary nor half made.
const PERSISTENT: u32 = 0;

/// Where the WAL begins that the slot with this name needs, by its state file.
///
/// # Errors
/// It is not the whole file of such a slot; the text says what is wrong.
pub(super) fn restart_lsn(content: &[u8], name: &str) -> Result<Lsn, &'static str> {
    let number = |at: usize| Some(u32::from_ne_bytes(content.get(at..at + 4)?.try_into().ok()?));
    let whole = "it is not whole";
    if number(0) != Some(MAGIC) {
        return Err("it is no state file");
    }
    let length = number(12).ok_or(whole)? as usize;
    if content.len() != HEAD + length || number(4) != content.get(CHECKSUMMED_FROM..).map(crc32c) {
        return Err(whole);
    }
    let stored = content.get(NAME).ok_or(whole)?;
    if stored.split(|byte| *byte == 0).next() != Some(name.as_bytes()) {
        return Err("it is that of another slot");
    }
    if number(PERSISTENCY) != Some(PERSISTENT) {
        return Err("the slot is temporary, or still being created");
    }
    let lsn = content.get(RESTART_LSN).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    match lsn.ok_or(whole)? {
        0 => Err("the slot keeps no WAL"),
        lsn => Ok(Lsn(lsn)),
    }
}

/// CRC-32C, as PostgreSQL computes it. The files are small: a table would not pay.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, persistency: u32, restart: u64) -> Vec<u8> {
        let mut slot = vec![0; 64];
        slot[..name.len()].copy_from_slice(name.as_bytes());
        for field in [5, persistency, 0, 700] {
            slot.extend(field.to_ne_bytes());
        }
        slot.extend(restart.to_ne_bytes());
        slot.extend([0; 88]);
        let mut checked = 3u32.to_ne_bytes().to_vec();
        checked.extend((slot.len() as u32).to_ne_bytes());
        checked.extend(slot);
        let mut file = MAGIC.to_ne_bytes().to_vec();
        file.extend(crc32c(&checked).to_ne_bytes());
        file.extend(checked);
        file
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn only_the_whole_file_of_the_slot_is_taken() {
        let good = file("s", 0, 7);
        assert_eq!(restart_lsn(&good, "s"), Ok(Lsn(7)));
        for length in 0..good.len() {
            assert!(restart_lsn(&good[..length], "s").is_err(), "cut after {length} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(restart_lsn(&bad, "s").is_err(), "byte {at} changed");
        }
        assert_eq!(restart_lsn(&good, "t"), Err("it is that of another slot"));
        assert_eq!(restart_lsn(&file("s2", 0, 7), "s"), Err("it is that of another slot"));
        assert_eq!(restart_lsn(&file("s", 1, 7), "s"), Err("the slot is temporary, or still being created"));
        assert_eq!(restart_lsn(&file("s", 0, 0), "s"), Err("the slot keeps no WAL"));
    }
}
