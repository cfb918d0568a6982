//! Node and primary on one timeline. PostgreSQL takes for granted that they have the same WAL; a primary that lost the end of its WAL, or two
//! that both wrote (split brain), do not. And WAL that the node still needs may be gone.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use patroni_core::history::LocalPosition;
use patroni_core::lsn::{Lsn, Timeline};

use super::source::{PrimaryTimeline, Source};
use super::{RewindContext, waldump};
use crate::{Result, blocking};

/// How much WAL before the position is compared, in bytes.
const COMPARED: u64 = 16 << 10;

/// The head of a record, with its checksum.
const RECORD_HEAD: u64 = 24;

/// Why node and primary are not the same on the timeline of the node, as far as the primary was on it; `None` if nothing speaks against it.
pub(super) async fn differs(
    context: &RewindContext,
    source: &Source,
    local: &LocalPosition,
    primary: &PrimaryTimeline,
) -> Result<Option<String>> {
    // Asked after the local position was known: the primary was at least there then.
    let end = source.position().await?;
    let (timeline, lsn) = (local.timeline, local.lsn);
    if timeline == primary.timeline && lsn > end {
        let text = format!("it has WAL up to {lsn}, the primary on the same timeline {timeline} only up to {end}");
        return Ok(Some(text));
    }
    let left = primary.history.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.switchpoint);
    let common = match left {
        Some(switchpoint) => lsn.min(switchpoint),
        None if timeline == primary.timeline => lsn,
        // The primary was never on it: its history shows that.
        None => return Ok(None),
    };
    let size = source.segment_size().await?;
    // The checkpoint record of a former primary begins at its position. Where the primary left the timeline nothing follows.
    let limit = left.unwrap_or(end).0;
    let in_record = !local.in_recovery && common == lsn && lsn.0 + RECORD_HEAD <= limit;
    let until = common.0 + if in_record && lsn.0 % size + RECORD_HEAD <= size { RECORD_HEAD } else { 0 };
    let start = until.saturating_sub(1) / size * size;
    let from = until.saturating_sub(COMPARED).max(start);
    let path = context.options.data_dir.join("pg_wal").join(segment(timeline, Lsn(start), size));
    let read = blocking::at(&path, move |path| Ok(read(path, from - start, until - from)));
    let Some(mine) = read.await? else { return Ok(None) };
    // The file in which the primary left the timeline was copied to the next one, and may not be there under its first name.
    let later = primary.history.iter().map(|switch| switch.timeline).filter(|later| *later > timeline);
    for timeline in std::iter::once(timeline).chain(later).chain([primary.timeline]) {
        let name = segment(timeline, Lsn(start), size);
        match source.wal(&name, from - start, until - from).await {
            Ok(Some(theirs)) if theirs.len() == mine.len() => {
                if theirs == mine || !is_here(context, local, Lsn(from), common).await? {
                    return Ok(None);
                }
                return Ok(Some(format!(
                    "it and the primary wrote other WAL on timeline {}, before {common}",
                    local.timeline
                )));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::info!("cannot compare {name}: {error}");
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// A node that was rewound and is not consistent yet counts as far as its primary was, and lacks a part of the WAL up to there: what lies
/// in its place was written by nobody.
async fn is_here(context: &RewindContext, local: &LocalPosition, from: Lsn, until: Lsn) -> Result<bool> {
    Ok(!local.in_recovery || waldump::is_readable(context, local.timeline, from, until).await?)
}

/// The WAL file that a standby needs next, if the primary does not have it any more. What lies in `pg_wal` here is not needed: a standby that
/// replays late reads that first.
pub(super) async fn missing_on(
    context: &RewindContext,
    source: &Source,
    local: &LocalPosition,
) -> Result<Option<String>> {
    let (end, size) = (source.position().await?, source.segment_size().await?);
    let is_missing = async |number: u64| -> Result<Option<String>> {
        let name = segment(local.timeline, Lsn(number * size), size);
        let missing = number < end.0 / size && !source.has_segment(&name).await?;
        Ok(missing.then_some(name))
    };
    let first = local.lsn.0 / size;
    if is_missing(first).await?.is_none() {
        return Ok(None);
    }
    let pg_wal = context.options.data_dir.join("pg_wal");
    let timeline = local.timeline;
    let last = blocking::at(&pg_wal, move |pg_wal| {
        let here = |number: &u64| begins(&pg_wal.join(segment(timeline, Lsn(number * size), size)), number * size);
        Ok((first..=end.0 / size).take_while(here).last())
    });
    let Some(last) = last.await? else { return is_missing(first).await };
    let from = Lsn(local.lsn.0.max(last * size));
    let whole = waldump::is_readable(context, local.timeline, from, Lsn((last + 1) * size)).await?;
    is_missing(if whole { last + 1 } else { last }).await
}

/// The file holds the WAL from this position on, by its first page. One that waits to be used again holds older WAL.
fn begins(path: &Path, at: u64) -> bool {
    const ADDRESS: u64 = 8;
    let mut bytes = [0; 8];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, ADDRESS));
    read.is_ok() && u64::from_ne_bytes(bytes) == at
}

fn segment(timeline: Timeline, lsn: Lsn, size: u64) -> String {
    let (number, per_id) = (lsn.0 / size, (1 << 32) / size);
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_id, number % per_id)
}

/// In hexadecimal, as SQL gives it. `None` where the file is not there or shorter.
fn read(path: &Path, from: u64, length: u64) -> Option<String> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    File::open(path).ok()?.read_exact_at(&mut bytes, from).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_postgresql_does() {
        for (lsn, size, name) in [
            (0x0001_0000_0000, 16 << 20, "0000000A0000000100000000"),
            (0x0001_FFFF_FFFF, 16 << 20, "0000000A00000001000000FF"),
            (0x0002_4000_0001, 1 << 30, "0000000A0000000200000001"),
        ] {
            assert_eq!(segment(Timeline(10), Lsn(lsn), size), name);
        }
    }
}
