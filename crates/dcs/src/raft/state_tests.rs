//! Rows and properties of the state.

use proptest::prelude::*;

use super::*;

/// A state, driven by steps that are written down.
#[derive(Default)]
struct Story {
    state: State,
    number: u64,
    events: Vec<Event>,
}

fn put(key: &str, value: &str, lease: Option<u64>) -> Change {
    Change::Put { key: key.into(), value: value.into(), lease: lease.map(LeaseId) }
}

fn keep(lease: u64, ttl: u64) -> Option<Keep> {
    Some(Keep { lease: LeaseId(lease), ttl })
}

impl Story {
    fn at(&mut self, time: u64) -> &mut Self {
        self.events.clear();
        self.state.advance(Time(time), &mut self.events);
        self
    }

    fn id(&mut self) -> RequestId {
        self.number += 1;
        RequestId { client: 1, number: self.number }
    }

    fn run(&mut self, keep: Option<Keep>, when: Vec<Condition>, then: Vec<Change>) -> Reply {
        let id = self.id();
        self.events.clear();
        self.state.transact(id, &Transaction { keep, when, then }, &mut self.events)
    }

    fn keys(&self) -> Vec<String> {
        self.state.range("").into_keys().collect()
    }

    fn key(&self, key: &str) -> Content {
        self.state.range(key).remove(key).expect("it exists")
    }
}

fn deleted(key: &str) -> Event {
    Event { key: key.into(), value: None }
}

#[test]
fn a_key_lives_as_long_as_its_lease() {
    let mut story = Story::default();
    story.at(100).run(keep(1, 30), vec![], vec![put("leader", "a", Some(1))]);
    assert_eq!(story.state.next_end(), Some(Time(130)));
    assert!(story.at(129).events.is_empty());
    story.run(keep(1, 30), vec![], vec![]);
    assert!(story.at(158).events.is_empty(), "it was prolonged");
    assert_eq!(story.at(159).events, [deleted("leader")]);
    assert_eq!((story.keys(), story.state.next_end()), (vec![], None));
}

#[test]
fn a_new_leader_of_the_store_can_only_lengthen_leases() {
    let mut story = Story::default();
    story.at(1000).run(keep(1, 30), vec![], vec![put("leader", "a", Some(1))]);
    // Its clock lags behind.
    story.at(900).run(keep(1, 30), vec![], vec![]);
    assert_eq!(story.state.now(), Time(1000));
    assert!(story.at(1029).events.is_empty());
    assert_eq!(story.at(1030).events, [deleted("leader")]);
}

#[test]
fn conditions() {
    let mut story = Story::default();
    story.at(10).run(keep(1, 30), vec![], vec![put("a", "1", None), put("b", "1", Some(1))]);
    story.run(None, vec![], vec![put("a", "2", None)]);
    let (a, created, modified) = ("a".to_owned(), Revision(1), Revision(3));
    assert_eq!(
        (story.key("a").created, story.key("a").modified, story.state.revision()),
        (created, modified, modified)
    );
    for (condition, expected) in [
        (Condition::Absent("x".into()), true),
        (Condition::Absent(a.clone()), false),
        (Condition::Modified(a.clone(), modified), true),
        (Condition::Modified(a.clone(), created), false),
        (Condition::Modified("x".into(), Revision(0)), false),
        (Condition::Created(a.clone(), created), true),
        (Condition::Created(a.clone(), modified), false),
        (Condition::Value(a.clone(), b"2".to_vec()), true),
        (Condition::Value(a.clone(), b"1".to_vec()), false),
        (Condition::Alive(LeaseId(1)), true),
        (Condition::Alive(LeaseId(2)), false),
    ] {
        let before = story.state.clone();
        let reply = story.run(None, vec![condition.clone()], vec![]);
        match reply {
            Reply::Done(revision) => assert!(expected && revision == modified, "{condition:?}"),
            Reply::Refused(present) => {
                assert!(!expected, "{condition:?}");
                assert!(present.iter().all(|(key, content)| *content == story.key(key)));
                assert_eq!(story.state, before, "nothing changes where a condition is not true");
            }
            Reply::Full(why) => panic!("{why}"),
        }
    }
}

#[test]
fn a_refusal_keeps_the_lease_and_tells_what_is_there() {
    let mut story = Story::default();
    story.at(10).run(keep(1, 30), vec![], vec![put("leader", "a", Some(1)), put("members/b", "", Some(1))]);
    story.at(30);
    let reply = story.run(keep(1, 30), vec![Condition::Absent("leader".into())], vec![put("leader", "b", Some(1))]);
    let Reply::Refused(present) = reply else { panic!("{reply:?}") };
    assert_eq!(present["leader"].value, b"a");
    assert!(story.at(59).events.is_empty(), "the lease was prolonged all the same");
}

#[test]
fn nothing_is_attached_to_a_lease_that_has_ended() {
    let mut story = Story::default();
    assert_eq!(story.run(None, vec![], vec![put("a", "", Some(7))]), Reply::Refused(BTreeMap::new()));
    assert!(story.keys().is_empty() && story.events.is_empty());
}

#[test]
fn deleting() {
    let mut story = Story::default();
    let all = ["/s/a/leader", "/s/a/members/x", "/s/ab/leader"];
    story.at(1).run(keep(1, 30), vec![], vec![put(all[0], "", Some(1)), put(all[1], "", None), put(all[2], "", None)]);
    let before = story.state.revision();
    story.run(None, vec![], vec![Change::Delete("nothing".into())]);
    assert_eq!((story.state.revision(), story.events.len()), (before, 0), "nothing was there");
    story.run(None, vec![], vec![Change::Delete(all[0].into())]);
    assert_eq!(story.events, [deleted(all[0])]);
    story.run(None, vec![], vec![put(all[0], "", None), Change::DeletePrefix("/s/a/".into())]);
    assert_eq!(story.keys(), [all[2]]);
    assert!(story.state.revision() > before);
}

#[test]
fn the_same_request_is_carried_out_once() {
    let mut story = Story::default();
    story.at(10);
    let (id, mut events) = (story.id(), Vec::new());
    let create = Transaction { when: vec![Condition::Absent("a".into())], then: vec![put("a", "", None)], keep: None };
    let first = story.state.transact(id, &create, &mut events);
    story.run(None, vec![], vec![put("b", "", None)]);
    story.at(10 + REMEMBERED);
    let again = story.state.transact(id, &create, &mut events);
    assert_eq!((again, events.len()), (first, 1), "the answer to the first attempt, and nothing done");
    story.at(11 + REMEMBERED);
    assert!(matches!(story.state.transact(id, &create, &mut events), Reply::Refused(_)), "forgotten by now");
}

#[test]
fn what_is_too_much_is_refused() {
    let mut story = Story::default();
    let large = "x".repeat(LARGEST_VALUE);
    assert!(matches!(story.run(None, vec![], vec![put("a", &format!("{large}x"), None)]), Reply::Full(_)));
    assert!(matches!(story.run(None, vec![], vec![put(&large, "", None)]), Reply::Full(_)));
    let fits = MOST_BYTES / LARGEST_VALUE;
    let refused = (0..=fits)
        .find(|i| matches!(story.run(keep(1, 30), vec![], vec![put(&format!("k{i}"), &large, None)]), Reply::Full(_)));
    assert_eq!(refused, Some(fits - 1), "with the names of the keys it is one less");
    let renewed = story.run(keep(1, 30), vec![], vec![put("k0", &large, None)]);
    assert!(matches!(renewed, Reply::Done(_)), "what takes no more room than before is not refused: {renewed:?}");
    assert!(matches!(story.run(None, vec![], vec![Change::Delete("k0".into())]), Reply::Done(_)), "deleting helps");
    assert!(matches!(story.run(None, vec![], vec![put("k0", &large, None)]), Reply::Done(_)));

    let mut story = Story::default();
    story.at(10);
    let refused = (0..=MOST_REQUESTS).find(|_| matches!(story.run(None, vec![], vec![]), Reply::Full(_)));
    assert_eq!(refused, Some(MOST_REQUESTS));
    let kept = (0..=MOST_KEPT)
        .find(|_| matches!(story.run(keep(1, 30), vec![], vec![put("leader", "a", Some(1))]), Reply::Full(_)));
    assert_eq!(kept, Some(MOST_KEPT), "leases have room of their own");
    story.at(11 + REMEMBERED);
    assert!(matches!(story.run(None, vec![], vec![]), Reply::Done(_)), "later there is room again");
}

#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    Transact(u64, Transaction),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("ab".to_owned())];
    let change = prop_oneof![
        4 => (key(), any::<u8>(), proptest::option::of(0..3_u64))
            .prop_map(|(key, value, lease)| Change::Put { key, value: vec![value], lease: lease.map(LeaseId) }),
        1 => key().prop_map(Change::Delete),
        1 => key().prop_map(Change::DeletePrefix),
    ];
    let condition = prop_oneof![
        key().prop_map(Condition::Absent),
        (key(), 0..9_u64).prop_map(|(key, revision)| Condition::Modified(key, Revision(revision))),
        (key(), any::<u8>()).prop_map(|(key, value)| Condition::Value(key, vec![value])),
        (0..3_u64).prop_map(|lease| Condition::Alive(LeaseId(lease))),
    ];
    let kept = (0..3_u64, 1..20_u64).prop_map(|(lease, ttl)| Keep { lease: LeaseId(lease), ttl });
    let transaction = (
        proptest::option::of(kept),
        proptest::collection::vec(condition, 0..2),
        proptest::collection::vec(change, 0..3),
    )
        .prop_map(|(keep, when, then)| Transaction { keep, when, then });
    let step = prop_oneof![
        (0..40_u64).prop_map(Step::Advance),
        (0..12_u64, transaction).prop_map(|(number, transaction)| Step::Transact(number, transaction)),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever happens: versions grow, time does not go back, each key's lease lives, and events tell all changes.
    #[test]
    fn the_state_stays_sound(steps in steps()) {
        let mut state = State::default();
        let mut heard = BTreeMap::new();
        for step in steps {
            let (before, mut events) = (state.clone(), Vec::new());
            match &step {
                Step::Advance(time) => state.advance(Time(*time), &mut events),
                Step::Transact(number, transaction) => {
                    let reply = state.transact(RequestId { client: 0, number: *number }, transaction, &mut events);
                    if matches!(reply, Reply::Refused(_)) {
                        prop_assert!(state.keys == before.keys && state.revision == before.revision);
                    }
                }
            }
            prop_assert!(state.now >= before.now && state.revision >= before.revision);
            prop_assert_eq!(state.revision.0 - before.revision.0, events.len() as u64);
            for Event { key, value } in events {
                match value {
                    Some(value) => heard.insert(key, value),
                    None => heard.remove(&key),
                };
            }
            let values: BTreeMap<_, _> = state.keys.iter().map(|(key, content)| (key.clone(), content.value.clone())).collect();
            prop_assert_eq!(&values, &heard, "who listens knows all values");
            for content in state.keys.values() {
                prop_assert!(content.created <= content.modified && content.modified <= state.revision);
                prop_assert!(content.lease.is_none_or(|lease| state.leases.contains_key(&lease)));
            }
            prop_assert!(state.leases.values().all(|lease| state.now < lease.until));
            prop_assert_eq!(state.recent.len(), state.recent_ids.len());
        }
    }

    /// A snapshot is the state.
    #[test]
    fn a_state_survives_being_written_down(steps in steps()) {
        let mut state = State::default();
        for step in steps {
            match step {
                Step::Advance(time) => state.advance(Time(time), &mut Vec::new()),
                Step::Transact(number, transaction) => {
                    state.transact(RequestId { client: 0, number }, &transaction, &mut Vec::new());
                }
            }
        }
        let bytes = rmp_serde::to_vec_named(&state).expect("it can be written");
        prop_assert_eq!(rmp_serde::from_slice::<State>(&bytes).expect("it can be read"), state);
    }
}
