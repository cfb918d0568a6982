//! Room on the disks that the server writes to, looked at all the time in the background.
//!
//! A disk that hangs (a network file system whose server is gone) holds up whoever touches it, and nothing can take such a call back.
//! So each place is looked at by a thread of its own, which nobody waits for longer than for a moment, and which is not joined by a
//! second one while it hangs.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use patroni_core::disk::{Disks, Place, Room};
use rustix::fs::statvfs;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::options::ServerOptions;

/// The pause between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// A disk that does not answer within this time is shown as one that does not. `statvfs` reads no data.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// So long a place is waited for in any case, however long the data directory has taken.
const LEAST_WAIT: Duration = Duration::from_millis(500);

/// What the next file takes where that is not known, in bytes.
const LEAST: u64 = 1 << 20;

/// `wal_segment_size` of most servers, in bytes.
const USUAL_SEGMENT: u64 = 16 << 20;

/// Watches the disks of the server that `options` describe, and follows their changes, until nobody reads the result any more.
/// `changed` is notified when a place becomes full or ceases to be, or stops or begins to answer. Needs a tokio runtime.
pub fn watch(options: watch::Receiver<Arc<ServerOptions>>, changed: Arc<Notify>) -> watch::Receiver<Disks> {
    let (sender, receiver) = watch::channel(Disks::default());
    tokio::spawn(run(options, sender, changed));
    receiver
}

async fn run(options: watch::Receiver<Arc<ServerOptions>>, sender: watch::Sender<Disks>, changed: Arc<Notify>) {
    let mut tablespaces = Probe::default();
    let mut probes: BTreeMap<(Place, PathBuf), Probe<io::Result<Room>>> = BTreeMap::new();
    let mut found = Vec::new();
    while !sender.is_closed() {
        let options = options.borrow().clone();
        let deadline = Instant::now() + ANSWER_LIMIT;
        let links = options.data_dir.join("pg_tblspc");
        // Those known before, as long as the data directory hangs: it may be the only one that does.
        found = tablespaces.answer(move || names(&links), deadline).await.unwrap_or(found);
        let places = places(&options, &found);
        probes.retain(|key, _| places.contains(key));
        let mut looks = tokio::task::JoinSet::new();
        for (place, path) in places {
            let mut probe = probes.remove(&(place.clone(), path.clone())).unwrap_or_default();
            looks.spawn(async move {
                let (wal, looked_at) = (place == Place::Wal, path.clone());
                let answer =
                    probe.answer(move || room(&looked_at, wal), deadline.max(Instant::now() + LEAST_WAIT)).await;
                ((place, path), probe, answer)
            });
        }
        let mut disks = Disks::default();
        while let Some(looked) = looks.join_next().await {
            let Ok((key, probe, answer)) = looked else { continue };
            match answer {
                Some(Ok(room)) => _ = disks.0.insert(key.0.clone(), Ok(room)),
                // It is not there yet, or not any more: the decision hears of that by other ways.
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Some(Err(error)) => _ = disks.0.insert(key.0.clone(), Err(error.to_string())),
                None => _ = disks.0.insert(key.0.clone(), Err("it does not answer".to_owned())),
            }
            probes.insert(key, probe);
        }
        let news = verdicts(&disks) != verdicts(&sender.borrow());
        sender.send_replace(disks);
        if news {
            changed.notify_one();
        }
        sleep(PERIOD).await;
    }
}

/// Which places are full, have room, or do not answer.
fn verdicts(disks: &Disks) -> BTreeMap<Place, Option<bool>> {
    let verdict = |room: &Result<Room, String>| room.as_ref().ok().map(|room| room.free < room.needed);
    disks.0.iter().map(|(place, room)| (place.clone(), verdict(room))).collect()
}

fn places(options: &ServerOptions, tablespaces: &[String]) -> Vec<(Place, PathBuf)> {
    let data_dir = &options.data_dir;
    let mut places = vec![(Place::Data, data_dir.clone()), (Place::Wal, data_dir.join("pg_wal"))];
    let links = tablespaces.iter().map(|name| (Place::Tablespace(name.clone()), data_dir.join("pg_tblspc").join(name)));
    places.extend(links);
    places.extend(options.log_directories.iter().filter(|(_, path)| !path.starts_with(data_dir)).cloned());
    places
}

/// Something that is asked of a disk, by a thread of its own.
struct Probe<T> {
    asked: Option<oneshot::Receiver<T>>,
}

impl<T> Default for Probe<T> {
    fn default() -> Self {
        Probe { asked: None }
    }
}

impl<T: Send + 'static> Probe<T> {
    /// The answer; `None` where there is none until `deadline`. Then it is still being asked, and the next call waits for that answer.
    async fn answer(&mut self, ask: impl FnOnce() -> T + Send + 'static, deadline: Instant) -> Option<T> {
        if self.asked.is_none() {
            let (reply, answer) = oneshot::channel();
            // Not one of the runtime's threads: those are waited for when the agent ends.
            let asker = std::thread::Builder::new().name("disk".to_owned()).spawn(move || _ = reply.send(ask()));
            asker.ok()?;
            self.asked = Some(answer);
        }
        let answer = timeout_at(deadline, self.asked.as_mut()?).await.ok()?;
        self.asked = None;
        answer.ok()
    }
}

/// The tablespaces, by the names of their links. Blocks.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_number(name)).collect()
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The room on the file system of a directory. Blocks.
fn room(path: &Path, wal: bool) -> io::Result<Room> {
    let needed = if wal { segment_size(path) } else { LEAST };
    let stat = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail), needed })
}

/// That of any segment that is there.
fn segment_size(pg_wal: &Path) -> u64 {
    let entries = fs::read_dir(pg_wal).into_iter().flatten().flatten();
    let is_segment = |name: &str| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut segments = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_segment));
    let size = segments.next().and_then(|segment| segment.metadata().ok()).map(|metadata| metadata.len());
    size.filter(|size| *size >= LEAST).unwrap_or(USUAL_SEGMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_for_wal_is_that_for_a_segment() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert_eq!(segment_size(path), USUAL_SEGMENT);
        fs::write(path.join("000000010000000000000001.partial"), "x").expect("a file");
        let segment = fs::File::create(path.join("000000010000000000000001")).expect("a file");
        segment.set_len(64 << 20).expect("its size");
        assert_eq!(segment_size(path), 64 << 20);
        let found = room(path, true).expect("the room");
        assert!(found.needed == 64 << 20 && found.total >= found.free && found.total > 0, "{found:?}");
        assert_eq!(room(&path.join("none"), false).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        for name in ["16384", "pgsql_tmp", ""] {
            fs::create_dir_all(path.join("pg_tblspc").join(name)).expect("a directory");
        }
        assert_eq!(names(&path.join("pg_tblspc")), ["16384"]);
    }

    /// A disk that hangs is asked once, whatever the number of those who want to know, and its answer counts when it comes.
    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let mut probe = Probe::default();
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(probe.answer(move || hangs.recv().is_ok(), soon()).await, None);
        assert_eq!(probe.answer(|| panic!("asked a second time"), soon()).await, None);
        release.send(()).expect("the thread waits");
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(probe.answer(|| panic!("asked a second time"), later).await, Some(true));
        assert_eq!(probe.answer(|| false, later).await, Some(false));
    }
}
