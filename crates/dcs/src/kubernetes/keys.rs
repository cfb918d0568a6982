//! Which keys are in which objects, and how: between Patroni's keys and annotations.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use patroni_core::JsonMap;
use patroni_core::json::{compact, spaced};
use serde_json::{Value, json};

use super::objects::Object;
use crate::wire::{FAILSAFE, LEADER, key_name};
use crate::{Key, LeaderUpdate};

/// The names of the objects of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) leader: String,
    pub(super) config: String,
    failover: String,
    sync: String,
}

/// What annotations are to be; `None` removes one.
pub(super) type Annotations = BTreeMap<&'static str, Option<String>>;

/// The annotation of a Pod with the key of its member.
pub(super) const MEMBER: &str = "status";
pub(super) const TTL: &str = "ttl";
pub(super) const RENEWED: &str = "renewTime";
pub(super) const ACQUIRED: &str = "acquireTime";
pub(super) const TRANSITIONS: &str = "transitions";
/// Annotations that belong to the leader key; whoever sees none of them change for `ttl` knows that its lease is over.
pub(super) const RECORD: [&str; 5] = [LEADER, TTL, RENEWED, ACQUIRED, TRANSITIONS];
pub(super) const OPTIME: &str = "optime";
const SLOTS: &str = "slots";
const RETAIN_SLOTS: &str = "retain_slots";

impl Names {
    pub(super) fn new(scope: &str, use_endpoints: bool) -> Self {
        let scope = scope.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        Names {
            // Endpoints have the name of the Service, so that its address leads to the leader.
            leader: if use_endpoints { scope.clone() } else { format!("{scope}-leader") },
            config: format!("{scope}-config"),
            failover: format!("{scope}-failover"),
            sync: format!("{scope}-sync"),
        }
    }

    /// The object that holds a key.
    pub(super) fn of(&self, key: Key) -> &str {
        match key {
            Key::Config | Key::History | Key::Initialize => &self.config,
            Key::Failover => &self.failover,
            Key::Status => &self.leader,
            Key::Sync => &self.sync,
        }
    }

    /// The keys in an object, but for the leader key.
    pub(super) fn keys(&self, name: &str, object: &Object) -> Vec<(&'static str, String)> {
        let all = [Key::Config, Key::Failover, Key::History, Key::Initialize, Key::Status, Key::Sync];
        let present = all.into_iter().filter(|key| self.of(*key) == name);
        let mut keys: Vec<_> = present.filter_map(|key| Some((key_name(key), value(key, object)?))).collect();
        if name == self.leader {
            keys.extend(object.annotation(FAILSAFE).map(|text| (FAILSAFE, text.to_owned())));
        }
        keys
    }
}

/// What a key says, as other stores have it; `None`: it is absent.
pub(super) fn value(key: Key, object: &Object) -> Option<String> {
    let text = |name| object.annotation(name).map(Value::from);
    match key {
        Key::Config | Key::History | Key::Initialize => object.annotation(key_name(key)).map(str::to_owned),
        Key::Failover => {
            let given = ["leader", "member", "scheduled_at"].map(|name| (name.to_owned(), text(name)));
            let map: JsonMap = given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            (!map.is_empty()).then(|| compact(&Value::Object(map)))
        }
        Key::Sync => {
            let [leader, quorum, standby] = ["leader", "quorum", "sync_standby"].map(text);
            let is_there = leader.is_some() || quorum.is_some() || standby.is_some();
            is_there.then(|| compact(&json!({"leader": leader, "quorum": quorum.map(number), "sync_standby": standby})))
        }
        Key::Status => {
            let nested = |name| object.annotation(name).map(|text| (name.to_owned(), parsed(text)));
            let optime = object.annotation(OPTIME).map(|text| (OPTIME.to_owned(), number(text.into())));
            let map: JsonMap = optime.into_iter().chain([SLOTS, RETAIN_SLOTS].into_iter().filter_map(nested)).collect();
            (!map.is_empty()).then(|| compact(&Value::Object(map)))
        }
    }
}

/// Annotations that say what this value of a key says; of a key that is `None`, all of its annotations go. A value that is no JSON
/// where Patroni has several annotations stays as a whole in the first of them.
pub(super) fn annotations(key: Key, value: Option<&str>) -> Annotations {
    let names: &[&'static str] = match key {
        Key::Config | Key::History | Key::Initialize => {
            return Annotations::from([(key_name(key), value.map(str::to_owned))]);
        }
        Key::Failover => &["leader", "member", "scheduled_at"],
        Key::Sync => &["leader", "quorum", "sync_standby"],
        Key::Status => &[OPTIME, SLOTS, RETAIN_SLOTS],
    };
    let map: JsonMap = match value.map(serde_json::from_str::<Value>) {
        Some(Ok(Value::Object(map))) => map,
        Some(_) => [(names[0].to_owned(), value.into())].into_iter().collect(),
        None => JsonMap::new(),
    };
    let text = |name: &str| match (name, map.get(name)?) {
        (_, Value::Null) => None,
        (_, Value::String(text)) => Some(text.clone()),
        (RETAIN_SLOTS, other) => Some(spaced(other)),
        (_, other) => Some(compact(other)),
    };
    names.iter().map(|name| (*name, text(name))).collect()
}

/// What is written with a renewal of the lease, beside the leader key.
pub(super) fn of_update(update: &LeaderUpdate) -> Annotations {
    let mut annotations = match crate::wire::status(update) {
        Some(status) if update.last_lsn.is_some_and(|lsn| lsn.0 > 0) => annotations(Key::Status, Some(&status)),
        Some(_) | None => Annotations::new(),
    };
    if let Some(members) = &update.failsafe {
        annotations.insert(FAILSAFE, (!members.is_empty()).then(|| crate::wire::failsafe(members)));
    }
    annotations
}

/// A number of the time at which this lease was won, whatever is written while it lasts.
pub(super) fn identity(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in [LEADER, ACQUIRED, TRANSITIONS] {
        object.annotation(name).hash(&mut hasher);
    }
    hasher.finish()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// A number where it is one.
fn number(value: Value) -> Value {
    let number = value.as_str().and_then(|text| text.trim().parse::<u64>().ok());
    number.map_or(value, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(annotations: &[(&str, &str)]) -> Object {
        let mut object = Object::default();
        let annotations = annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        object.metadata.annotations = Some(annotations.collect());
        object
    }

    fn texts(annotations: &Annotations) -> Vec<(&str, &str)> {
        annotations.iter().filter_map(|(name, text)| Some((*name, text.as_deref()?))).collect()
    }

    #[test]
    fn keys_are_annotations_and_the_reverse() {
        for (key, text, expected) in [
            (Key::Config, "{\"ttl\":30}", vec![("config", "{\"ttl\":30}")]),
            (Key::Failover, "{\"leader\":\"a\",\"member\":\"b\"}", vec![("leader", "a"), ("member", "b")]),
            (
                Key::Sync,
                "{\"leader\":\"a\",\"quorum\":1,\"sync_standby\":\"b,c\"}",
                vec![("leader", "a"), ("quorum", "1"), ("sync_standby", "b,c")],
            ),
            (Key::Sync, "{\"leader\":null,\"quorum\":0,\"sync_standby\":null}", vec![("quorum", "0")]),
            (
                Key::Status,
                "{\"optime\":5,\"slots\":{\"b\":5},\"retain_slots\":[\"b\",\"c\"]}",
                vec![("optime", "5"), ("retain_slots", "[\"b\", \"c\"]"), ("slots", "{\"b\":5}")],
            ),
        ] {
            let written = annotations(key, Some(text));
            assert_eq!(texts(&written), expected, "{key:?}");
            assert_eq!(value(key, &object(&texts(&written))).as_deref(), Some(text), "{key:?}");
            let gone = annotations(key, None);
            assert!(gone.keys().eq(written.keys()) && gone.values().all(Option::is_none), "{key:?}");
            assert_eq!(value(key, &object(&[])), None, "{key:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_reference() {
        let names = Names::new("batman", true);
        assert_eq!((names.leader.as_str(), names.of(Key::Sync)), ("batman", "batman-sync"));
        assert_eq!(Names::new("a/b", false).leader, "a-b-leader");
        let keys = names.keys("batman-config", &object(&[("initialize", "1"), ("history", "[]"), ("other", "x")]));
        assert_eq!(keys, [("history", "[]".to_owned()), ("initialize", "1".to_owned())]);
    }

    #[test]
    fn what_is_not_told_stays() {
        assert!(of_update(&LeaderUpdate::default()).is_empty());
        let nobody = LeaderUpdate { failsafe: Some(BTreeMap::new()), ..LeaderUpdate::default() };
        assert_eq!(of_update(&nobody), Annotations::from([(FAILSAFE, None)]), "as the reference");
        let position = LeaderUpdate { last_lsn: Some(patroni_core::lsn::Lsn(7)), ..LeaderUpdate::default() };
        assert_eq!(texts(&of_update(&position)), [(OPTIME, "7")]);
        assert!(of_update(&position).contains_key(SLOTS), "slots that are gone are removed");
    }
}
