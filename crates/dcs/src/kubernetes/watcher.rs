//! Following the objects of a cluster, each kind by a connection of its own, and telling the agent what matters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::time::Moment;
use patroni_http::{Method, Streamed};
use tokio::sync::watch;
use tokio::time::Instant;

use super::objects::{Event, Object, Status};
use super::store::Store;
use super::view::{Holder, How, Kind};
use crate::attempts::jittered;
use crate::boot_time::boot_time;
use crate::noticed::Filter;
use crate::wire::{LEADER, MEMBERS, RawKey};

/// How often it is looked whether changes that are known of elsewhere arrive.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// A longer line is none that tells of a change of these objects.
const LONGEST_LINE: usize = 4 << 20;

/// Counts the changes that matter. Runs until it is dropped.
pub(super) async fn watch_changes(store: Arc<Store>, changes: watch::Sender<u64>) {
    tokio::join!(follow(&store, Kind::Keys), follow(&store, Kind::Pods), tell(&store, &changes));
}

/// Reads all objects of a kind and follows their changes, again and again.
async fn follow(store: &Store, kind: Kind) {
    const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);
    let mut pause = SHORTEST_PAUSE;
    loop {
        let begun = Instant::now();
        let ended = follow_once(store, kind).await;
        store.view().follow(kind, None);
        match ended {
            Ok(()) => tracing::debug!("the watch of {kind:?} is over, begun {:?} ago", begun.elapsed()),
            Err(why) => tracing::debug!("cannot watch {kind:?} of the {}: {why}", super::requests::NAME),
        }
        if begun.elapsed() > LONGEST_PAUSE {
            pause = SHORTEST_PAUSE;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow_once(store: &Store, kind: Kind) -> Result<(), String> {
    let patience = store.patience();
    let version = store.list(kind, Instant::now() + patience).await.map_err(|failure| format!("{failure:?}"))?;
    let request = store.all(Method::GET, kind).query("watch", "true").query("resourceVersion", version.as_str());
    let mut answer = store.api.watch(&request.query("allowWatchBookmarks", "true"), patience).await?;
    store.change_view(|view, _| view.follow(kind, Some(&version)));
    let mut lines = Lines::default();
    loop {
        match tokio::time::timeout(LOOK_AFTER, lines.next(&mut answer)).await {
            Ok(Ok(Some(line))) => event(store, kind, &line)?,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(why)) => return Err(why),
            Err(_) if store.view().follows(kind, boot_time()) => {}
            Err(_) => return Err("changes do not arrive".to_owned()),
        }
    }
}

/// Takes over what a line of a watch says.
fn event(store: &Store, kind: Kind, line: &[u8]) -> Result<(), String> {
    let event: Event = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if !matches!(event.kind.as_str(), "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK") {
        // 410: what happened since the list is not known any more.
        let status: Status = serde_json::from_value(event.object).unwrap_or_default();
        return Err(format!("{} ({}): {}", event.kind, status.reason, status.message));
    }
    let object: Object = serde_json::from_value(event.object).map_err(|error| error.to_string())?;
    let version = object.version();
    store.change_view(|view, now| {
        view.heard(kind, version);
        match event.kind.as_str() {
            "DELETED" => view.remove(kind, &object.metadata.name, Some(version), now),
            "BOOKMARK" => {}
            _ => view.put(kind, object, How::Next, now),
        }
    });
    Ok(())
}

/// What has come of a line so far.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The next line; `None`: the answer is over.
    async fn next(&mut self, answer: &mut Streamed) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                let line = std::mem::replace(&mut self.begun, rest);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(line));
            }
            if self.begun.len() > LONGEST_LINE {
                return Err(format!("a line of more than {LONGEST_LINE} bytes"));
            }
            match answer.chunk().await.map_err(|error| error.to_string())? {
                Some(chunk) => self.begun.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// Tells the agent of changes that matter, and of the end of a lease, which nobody else tells of.
async fn tell(store: &Store, changes: &watch::Sender<u64>) {
    let mut news = store.news.subscribe();
    let mut filter = Filter::new(&format!("{MEMBERS}{}", store.name));
    let mut old: Option<BTreeMap<String, RawKey>> = None;
    loop {
        let (keys, lease_end) = look(store);
        let is_known = old.is_some() || store.view().is_followed(boot_time());
        if is_known {
            let before = old.take();
            // Every difference has to be looked at, because the filter remembers them.
            let matters = |(name, value): &(&str, Option<&[u8]>)| filter.matters("", name, *value);
            let count =
                differences(before.as_ref().unwrap_or(&BTreeMap::new()), &keys).into_iter().filter(matters).count();
            if count > 0 || before.is_none() {
                changes.send_modify(|count| *count += 1);
            }
            old = Some(keys);
        }
        let until = lease_end.map_or(Duration::MAX, |end| end.since(boot_time()));
        // It ends when nobody is there to drop what is sent.
        let _ = tokio::time::timeout(until, news.changed()).await;
    }
}

/// All keys, and when the lease is over, if it is another member's.
fn look(store: &Store) -> (BTreeMap<String, RawKey>, Option<Moment>) {
    let (view, ttl, now) = (store.view(), store.timing().ttl, boot_time());
    let is_others = matches!(view.holder(ttl, now), Holder::Member(name) if name != store.name.as_str());
    (view.keys(ttl, now), is_others.then(|| view.lease_end(ttl)))
}

/// Names of keys that say something else now, with what they say.
fn differences<'a>(
    old: &'a BTreeMap<String, RawKey>,
    new: &'a BTreeMap<String, RawKey>,
) -> Vec<(&'a str, Option<&'a [u8]>)> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.as_str(), None));
    let is_other = |(name, raw): &(&String, &RawKey)| {
        old.get(*name).is_none_or(|old| old.value != raw.value || (*name == LEADER && old.created != raw.created))
    };
    let changed = new.iter().filter(is_other).map(|(name, raw)| (name.as_str(), Some(raw.value.as_slice())));
    gone.chain(changed).collect()
}
