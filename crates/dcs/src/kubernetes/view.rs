//! What is known of the objects of a cluster: read as a whole, then followed change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use patroni_core::cluster::Version;
use patroni_core::time::Moment;

use super::keys::{MEMBER, Names, RECORD, TTL, identity};
use super::objects::{List, Object, number};
use crate::Key;
use crate::wire::{LEADER, MEMBERS, RawKey, key_name};

/// The two kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Endpoints or ConfigMaps.
    Keys,
    /// Pods.
    Pods,
}

/// How an object came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// By the next change of a watch, or by a change of ours that named the version before: nothing happened in between.
    Next,
    /// By a look at it: what happened in between is not known.
    Look,
}

/// Who holds the lease, by the clock of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    Nobody,
    /// It has not been renewed for as long as it lasts.
    Expired,
    Member(&'a str),
}

pub(super) struct View {
    names: Names,
    kinds: [Known; 2],
    /// By object what its keys say.
    values: BTreeMap<String, Values>,
    record: Record,
}

#[derive(Default)]
struct Known {
    items: BTreeMap<String, Object>,
    /// They are followed change by change, up to this version.
    heard: Option<u64>,
    /// A later version that was seen elsewhere, and when: the change is on its way here, or never comes.
    awaited: Option<(u64, Moment)>,
    /// The latest version that is known.
    version: u64,
    /// Grows with each write: what a read that began before it saw does not replace what the write left.
    writes: u64,
}

/// What the keys in an object say, and since which version of it each has been so.
struct Values {
    version: u64,
    keys: BTreeMap<&'static str, (String, u64)>,
}

/// What the leader key says, and since when.
struct Record {
    said: BTreeMap<&'static str, String>,
    since: Moment,
    /// The store went back in time: this was said before something that this process knows.
    outdated: bool,
}

/// A change that does not arrive for so long never does: its connection is dead, or what is behind it.
const STALLED: Duration = Duration::from_secs(5);

impl Known {
    fn is_followed(&self, now: Moment) -> bool {
        self.heard.is_some() && self.awaited.is_none_or(|(_, since)| now.since(since) < STALLED)
    }

    /// Something of this version exists.
    fn seen(&mut self, version: u64, now: Moment) {
        self.version = self.version.max(version);
        if self.heard.is_some_and(|heard| version > heard) && self.awaited.is_none() {
            self.awaited = Some((version, now));
        }
    }
}

impl View {
    pub(super) fn new(names: Names) -> Self {
        let record = Record { said: BTreeMap::new(), since: Moment(Duration::ZERO), outdated: false };
        View { names, kinds: [Known::default(), Known::default()], values: BTreeMap::new(), record }
    }

    fn known(&mut self, kind: Kind) -> &mut Known {
        &mut self.kinds[usize::from(kind == Kind::Pods)]
    }

    fn items(&self, kind: Kind) -> &BTreeMap<String, Object> {
        &self.kinds[usize::from(kind == Kind::Pods)].items
    }

    pub(super) fn object(&self, name: &str) -> Option<&Object> {
        self.items(Kind::Keys).get(name)
    }

    pub(super) fn pod(&self, name: &str) -> Option<&Object> {
        self.items(Kind::Pods).get(name)
    }

    pub(super) fn leader(&self) -> Option<&Object> {
        self.object(&self.names.leader)
    }

    /// Whether all changes arrive here.
    pub(super) fn is_followed(&self, now: Moment) -> bool {
        self.kinds.iter().all(|known| known.is_followed(now))
    }

    /// The same of one kind.
    pub(super) fn follows(&self, kind: Kind, now: Moment) -> bool {
        self.kinds[usize::from(kind == Kind::Pods)].is_followed(now)
    }

    /// From now on all changes of a kind after this version arrive; `None`: they do so no more.
    pub(super) fn follow(&mut self, kind: Kind, version: Option<&str>) {
        let known = self.known(kind);
        (known.heard, known.awaited) = (version.map(number), None);
    }

    /// A change of this version has arrived.
    pub(super) fn heard(&mut self, kind: Kind, version: u64) {
        let known = self.known(kind);
        known.heard = known.heard.map(|heard| heard.max(version));
        known.awaited = known.awaited.filter(|(awaited, _)| known.heard.is_some_and(|heard| heard < *awaited));
    }

    /// How many writes there were when a read begins.
    pub(super) fn writes(&self, kind: Kind) -> u64 {
        self.kinds[usize::from(kind == Kind::Pods)].writes
    }

    /// All objects of a kind, as a read saw them that began after this many writes.
    pub(super) fn replace(&mut self, kind: Kind, list: List, writes: u64, now: Moment) {
        let version = number(&list.metadata.resource_version);
        let known = self.known(kind);
        let went_back = version < known.version && known.writes == writes;
        if went_back {
            tracing::warn!(
                "the versions of objects went back from {} to {version}: older data were restored",
                known.version
            );
        }
        if went_back {
            known.version = version;
        }
        known.version = known.version.max(version);
        if let Some(latest) = list.items.iter().map(Object::version).max() {
            known.seen(latest, now);
        }
        let overtaken = known.writes != writes;
        let mut items: BTreeMap<String, Object> =
            list.items.into_iter().map(|object| (object.metadata.name.clone(), object)).collect();
        let old = std::mem::take(&mut known.items);
        if overtaken {
            for (name, object) in old {
                if object.version() > items.get(&name).map_or(version, Object::version) {
                    items.insert(name, object);
                }
            }
        }
        known.items = items;
        if kind == Kind::Keys {
            let mut names: BTreeSet<String> = self.items(kind).keys().chain(self.values.keys()).cloned().collect();
            names.insert(self.names.leader.clone());
            for name in names {
                self.note(&name, How::Look, now);
            }
            self.record.outdated |= went_back;
        }
    }

    /// An object as it is now. One that is older than what is known is ignored: it was overtaken by news.
    pub(super) fn put(&mut self, kind: Kind, object: Object, how: How, now: Moment) {
        let name = object.metadata.name.clone();
        let version = object.version();
        let known = self.known(kind);
        let may_be_overtaken = how == How::Next || known.heard.is_some();
        if known.items.get(&name).is_some_and(|old| may_be_overtaken && version < old.version()) {
            return;
        }
        known.seen(version, now);
        known.items.insert(name.clone(), object);
        if kind == Kind::Keys {
            self.note(&name, how, now);
        }
    }

    /// The same for what a write of ours left.
    pub(super) fn wrote(&mut self, kind: Kind, object: Object, now: Moment) {
        self.known(kind).writes += 1;
        self.put(kind, object, How::Next, now);
    }

    /// An object is gone, since this version; without one it was looked for.
    pub(super) fn remove(&mut self, kind: Kind, name: &str, version: Option<u64>, now: Moment) {
        let known = self.known(kind);
        if known.items.get(name).is_some_and(|old| version.is_some_and(|version| version < old.version())) {
            return;
        }
        known.items.remove(name);
        if kind == Kind::Keys {
            self.note(name, How::Next, now);
        }
    }

    /// Keeps in mind what the keys of an object say, and since when.
    fn note(&mut self, name: &str, how: How, now: Moment) {
        let empty = Object::default();
        let object = self.kinds[0].items.get(name).unwrap_or(&empty);
        let version = object.version();
        let old = self.values.remove(name).filter(|old| how == How::Next || old.version == version);
        let since = |key: &str, text: &String| {
            let kept = old.as_ref().and_then(|old| old.keys.get(key)).filter(|(known, _)| known == text);
            kept.map_or(version, |(_, since)| *since)
        };
        let keys = self.names.keys(name, object).into_iter().map(|(key, text)| {
            let since = since(key, &text);
            (key, (text, since))
        });
        let values = Values { version, keys: keys.collect() };
        if name == self.names.leader {
            let said: BTreeMap<_, _> =
                RECORD.into_iter().filter_map(|key| Some((key, object.annotation(key)?.to_owned()))).collect();
            if said != self.record.said {
                self.record = Record { said, since: now, outdated: false };
            }
        }
        self.values.insert(name.to_owned(), values);
    }

    /// What a key says, and its version.
    pub(super) fn value(&self, key: Key) -> Option<(&str, Version)> {
        let (text, version) = self.values.get(self.names.of(key))?.keys.get(key_name(key))?;
        Some((text, Version(*version)))
    }

    /// Who holds the lease, of which this is the usual length.
    pub(super) fn holder(&self, ttl: Duration, now: Moment) -> Holder<'_> {
        let record = &self.record;
        let Some(name) = record.said.get(LEADER).filter(|name| !name.is_empty()) else { return Holder::Nobody };
        if now >= self.lease_end(ttl) { Holder::Expired } else { Holder::Member(name) }
    }

    /// When the lease is over, if nothing changes. In the past where nobody holds it.
    pub(super) fn lease_end(&self, ttl: Duration) -> Moment {
        let written = self.record.said.get(TTL).and_then(|text| text.trim().parse::<u64>().ok()).filter(|ttl| *ttl > 0);
        self.record.since + written.map_or(ttl, Duration::from_secs)
    }

    /// What the leader key said last, also of a lease that is over.
    pub(super) fn said(&self, name: &str) -> Option<&str> {
        self.record.said.get(name).map(String::as_str)
    }

    /// Whether what the leader key says was said before something that this process knows: it is no word about who leads now.
    pub(super) fn is_outdated(&self) -> bool {
        self.record.outdated
    }

    /// All keys.
    pub(super) fn keys(&self, ttl: Duration, now: Moment) -> BTreeMap<String, RawKey> {
        let raw = |text: &str, version: u64| RawKey {
            value: text.as_bytes().to_vec(),
            modified: version,
            created: version,
            session: None,
        };
        let values = self.values.values().flat_map(|values| &values.keys);
        let mut keys: BTreeMap<String, RawKey> =
            values.map(|(key, (text, version))| ((*key).to_owned(), raw(text, *version))).collect();
        // A Pod whose agent has not said anything yet is no member yet.
        for (name, pod) in self.items(Kind::Pods) {
            if let Some(text) = pod.annotation(MEMBER) {
                keys.insert(format!("{MEMBERS}{name}"), raw(text, pod.version()));
            }
        }
        if let (Holder::Member(name), Some(object)) = (self.holder(ttl, now), self.leader()) {
            let leader = RawKey { created: identity(object), ..raw(name, object.version()) };
            keys.insert(LEADER.to_owned(), leader);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL_OF_OTHERS: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn object(name: &str, version: u64, annotations: &[(&str, &str)]) -> Object {
        let mut object = Object::default();
        object.metadata.name = name.to_owned();
        object.metadata.resource_version = version.to_string();
        let annotations = annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        object.metadata.annotations = Some(annotations.collect());
        object
    }

    fn list(version: u64, items: Vec<Object>) -> List {
        let mut list = List { items, ..List::default() };
        list.metadata.resource_version = version.to_string();
        list
    }

    fn view() -> View {
        View::new(Names::new("c", true))
    }

    fn leader(version: u64, name: &str, renewed: &str) -> Object {
        object("c", version, &[("leader", name), ("ttl", "10"), ("renewTime", renewed)])
    }

    #[test]
    fn a_lease_ends_when_nothing_changed_for_as_long_as_its_holder_says() {
        let mut view = view();
        assert_eq!(view.holder(TTL_OF_OTHERS, at(1)), Holder::Nobody);
        view.put(Kind::Keys, leader(5, "a", "x"), How::Look, at(100));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(109)), Holder::Member("a"));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(110)), Holder::Expired);
        view.put(Kind::Keys, leader(6, "a", "x"), How::Next, at(109));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(110)), Holder::Expired, "something else changed");
        view.put(Kind::Keys, leader(7, "a", "y"), How::Next, at(111));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(120)), Holder::Member("a"), "it was renewed");
        view.put(Kind::Keys, leader(6, "b", "z"), How::Next, at(112));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(112)), Holder::Member("a"), "late news");
        view.put(Kind::Keys, object("c", 8, &[("leader", "a"), ("ttl", "nonsense")]), How::Next, at(200));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(229)), Holder::Member("a"));
        view.put(Kind::Keys, object("c", 9, &[("leader", "")]), How::Next, at(201));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(201)), Holder::Nobody);
        view.remove(Kind::Keys, "c", Some(10), at(202));
        assert!(view.leader().is_none() && view.said("leader").is_none());
    }

    #[test]
    fn keys_in_one_object_have_versions_of_their_own() {
        let mut view = view();
        let config =
            |version, config, history| object("c-config", version, &[("config", config), ("history", history)]);
        let versions =
            |view: &View| [Key::Config, Key::History].map(|key| view.value(key).map(|(_, version)| version.0));
        view.put(Kind::Keys, config(5, "1", "a"), How::Look, at(1));
        view.put(Kind::Keys, config(6, "1", "b"), How::Next, at(1));
        assert_eq!(versions(&view), [Some(5), Some(6)]);
        view.put(Kind::Keys, config(6, "1", "b"), How::Look, at(1));
        assert_eq!(versions(&view), [Some(5), Some(6)], "the very same object");
        view.put(Kind::Keys, config(9, "1", "b"), How::Look, at(1));
        assert_eq!(versions(&view), [Some(9), Some(9)], "they may have changed and changed back");
        view.replace(Kind::Keys, list(12, vec![config(12, "1", "c")]), 0, at(1));
        assert_eq!(versions(&view), [Some(12), Some(12)]);
        view.replace(Kind::Keys, list(13, vec![]), 0, at(1));
        assert_eq!(versions(&view), [None, None]);
    }

    #[test]
    fn a_read_that_was_overtaken_by_a_write_does_not_undo_it() {
        let mut view = view();
        let before = view.writes(Kind::Keys);
        view.wrote(Kind::Keys, leader(8, "a", "x"), at(1));
        view.replace(Kind::Keys, list(7, vec![leader(6, "b", "w")]), before, at(2));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(3)), Holder::Member("a"));
        assert!(!view.is_outdated());
        let before = view.writes(Kind::Keys);
        view.replace(Kind::Keys, list(9, vec![leader(9, "b", "w")]), before, at(2));
        assert_eq!(view.holder(TTL_OF_OTHERS, at(3)), Holder::Member("b"));
    }

    #[test]
    fn a_watch_that_is_behind_for_long_is_dead() {
        let mut view = view();
        assert!(!view.is_followed(at(1)));
        for kind in [Kind::Keys, Kind::Pods] {
            view.follow(kind, Some("5"));
        }
        view.wrote(Kind::Keys, leader(7, "a", "x"), at(10));
        assert!(view.is_followed(at(14)) && !view.is_followed(at(15)));
        assert!(view.follows(Kind::Pods, at(15)) && !view.follows(Kind::Keys, at(15)));
        view.heard(Kind::Keys, 6);
        assert!(!view.is_followed(at(15)));
        view.heard(Kind::Keys, 7);
        assert!(view.is_followed(at(15)));
        view.follow(Kind::Keys, None);
        assert!(!view.is_followed(at(15)));
    }

    #[test]
    fn older_data_that_were_restored_are_known_as_such() {
        let mut view = view();
        view.replace(Kind::Keys, list(100, vec![leader(99, "a", "x")]), 0, at(1));
        view.replace(Kind::Keys, list(50, vec![leader(40, "b", "w")]), 0, at(2));
        assert!(view.is_outdated());
        view.put(Kind::Keys, leader(51, "b", "y"), How::Next, at(3));
        assert!(!view.is_outdated(), "b lives");
    }
}
