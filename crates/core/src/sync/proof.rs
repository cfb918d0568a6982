//! The proof obligation, discharged by walking every state: whatever is wanted next, whichever step is the last one before
//! a crash, whoever is elected then, each set of nodes that can elect holds every acknowledged write.
//!
//! A write is known by who has it besides the leader; only the smallest such sets matter. The world of a state is the
//! family of these sets, as a set of bit masks. PostgreSQL is taken to acknowledge, at any time, with every set of standbys
//! that any setting which may be in force allows.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};

use super::*;

type Mask = u8;

/// Everything that matters at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    leader: usize,
    electorate: Electorate,
    server: StandbyNames,
    settled: bool,
    unsure: bool,
    reached: Names,
    /// Who may have the writes acknowledged before the present setting was settled: bit `m` for the set of nodes `m`.
    past: u32,
}

fn name(node: usize) -> MemberName {
    MemberName::new(format!("n{node}"))
}

fn names(mask: Mask) -> Names {
    (0..8).filter(|node| mask & 1 << node != 0).map(name).collect()
}

fn mask(names: &Names) -> Mask {
    (0..8).filter(|node| names.contains(&name(*node))).map(|node| 1 << node).sum()
}

/// The smallest sets of standbys with which a setting acknowledges.
fn acknowledging(server: &StandbyNames) -> u32 {
    if server.anybody || server.is_empty() {
        return 1;
    }
    let listed = mask(&server.names);
    let number = server.number.min(server.names.len()) as u32;
    (0..32u32).filter(|m| *m as Mask & !listed == 0 && m.count_ones() == number).map(|m| 1 << m).sum()
}

/// The same while a reload reaches the WAL senders one by one, as `syncrep.c` has it: each sender gives its standby a place by the
/// setting that it has, and releases commits by the number and method of its own. Among equal places any comes first.
fn acknowledging_between(old: &StandbyNames, new: &StandbyNames) -> u32 {
    thread_local! {
        static KNOWN: RefCell<HashMap<(StandbyNames, StandbyNames), u32>> = RefCell::default();
    }
    let change = (old.clone(), new.clone());
    let known = KNOWN.with_borrow(|known| known.get(&change).copied());
    known.unwrap_or_else(|| {
        let family = found_between(old, new);
        KNOWN.with_borrow_mut(|known| known.insert(change, family));
        family
    })
}

fn found_between(old: &StandbyNames, new: &StandbyNames) -> u32 {
    let place = |setting: &StandbyNames, node: usize| match setting.method {
        _ if setting.anybody => Some(0),
        Method::Priority => setting.names.iter().position(|listed| *listed == name(node)),
        Method::Quorum => setting.names.contains(&name(node)).then_some(0),
    };
    let mut family = acknowledging(old) | acknowledging(new);
    for reloaded in 0..32u8 {
        let places = |node: usize| place(if reloaded & 1 << node != 0 { new } else { old }, node);
        let candidates: Vec<(usize, usize)> = (0..5).filter_map(|node| Some((node, places(node)?))).collect();
        for by in [old, new].into_iter().filter(|setting| !setting.is_empty()) {
            for confirmed in (0..32u8).filter(|m| m.count_ones() as usize == by.number) {
                let has = |node: usize| confirmed & 1 << node != 0;
                let known = (0..5).filter(|node| has(*node)).all(|node| places(node).is_some());
                let last = candidates.iter().filter(|(node, _)| has(*node)).map(|(_, place)| *place).max();
                let passed_over = candidates.iter().any(|(node, place)| !has(*node) && Some(*place) < last);
                if known && (by.method == Method::Quorum || !passed_over) {
                    family |= 1 << confirmed;
                }
            }
        }
    }
    family
}

fn members(family: u32) -> impl Iterator<Item = Mask> {
    (0..32).filter(move |m| family & 1 << m != 0)
}

/// Only the smallest sets: a set that contains another is as safe as that.
fn smallest(family: u32) -> u32 {
    members(family).filter(|m| !members(family).any(|n| n != *m && n & !*m == 0)).map(|m| 1 << m).sum()
}

impl World {
    fn begin() -> Self {
        World {
            leader: 0,
            electorate: Electorate::default(),
            server: StandbyNames::default(),
            settled: false,
            unsure: false,
            reached: Names::new(),
            past: 1,
        }
    }

    /// Some set of voters that can elect lacks a write.
    fn loses(&self) -> bool {
        let voters = mask(&self.electorate.voters);
        let lacks = |holders: Mask| (voters & !holders).count_ones() as usize > self.electorate.quorum;
        self.electorate.is_electable() && members(self.past | acknowledging(&self.server)).any(lacks)
    }

    fn situation<'a>(&'a self, streaming: &'a Names, wanted: &'a StandbyNames) -> Situation<'a> {
        Situation {
            electorate: &self.electorate,
            foreign: false,
            server: &self.server,
            settled: self.settled,
            unsure: self.unsure,
            reached: &self.reached,
            streaming,
            wanted,
        }
    }

    fn unsettle(&mut self) {
        self.past = smallest(self.past | acknowledging(&self.server));
        self.settled = false;
        self.reached.clear();
    }

    fn apply(&mut self, transition: Transition) {
        match transition {
            Transition::Store(electorate) => self.electorate = electorate,
            Transition::Server(server) => {
                self.unsettle();
                self.past = smallest(self.past | acknowledging_between(&self.server, &server));
                self.server = server;
                self.unsure = false;
                self.unsettle();
            }
        }
    }

    /// The order to change the setting was given and its end is not known: both settings may act.
    fn half_applied(&self, server: &StandbyNames) -> World {
        let mut world = self.clone();
        world.unsettle();
        world.past = smallest(world.past | acknowledging_between(&world.server, server));
        world.unsure = true;
        world
    }

    fn settle(&mut self) {
        if !self.settled && !self.unsure {
            self.past = smallest(self.past | acknowledging(&self.server));
            self.settled = true;
        }
    }

    fn reach(&mut self, node: &MemberName) {
        if self.settled && self.server.names.contains(node) {
            self.reached.insert(node.clone());
            let bit = mask(&Names::from([node.clone()]));
            self.past = smallest(members(self.past).fold(0, |family, m| family | 1 << (m | bit)));
        }
    }

    /// `winner` is promoted. By what [`World::loses`] says it has everything; so does the former leader.
    fn fail_over(&self, winner: usize, kept: bool, promote: Promote) -> World {
        let (server, electorate) = promote(&name(winner), &self.electorate, kept, StandbyNames::default());
        let (old, new) = (1u8 << self.leader, 1u8 << winner);
        let all = self.past | acknowledging(&self.server);
        let past = members(all).fold(0, |family, m| family | 1 << ((m & !new) | old));
        let mut world = World { leader: winner, electorate, server, past: smallest(past), ..World::begin() };
        world.unsettle();
        world
    }
}

type Promote = fn(&MemberName, &Electorate, bool, StandbyNames) -> (StandbyNames, Electorate);
type Plan = fn(&Situation<'_>) -> Option<Transition>;

/// All that can be wanted by a leader of a cluster of so many nodes.
fn wishes(nodes: usize, leader: usize) -> Vec<StandbyNames> {
    let others = ((1u16 << nodes) - 1) as Mask & !(1 << leader);
    let mut wishes = vec![StandbyNames::anybody(Method::Priority), StandbyNames::anybody(Method::Quorum)];
    for picked in (0..=others).filter(|m| m & !others == 0) {
        let picked = names(picked);
        wishes.extend((1..=picked.len()).map(|number| StandbyNames::any(number, picked.clone())));
        wishes.push(StandbyNames::all(picked));
    }
    wishes
}

/// Walks all states. `Err`: the first in which a write can be lost, with the way to it.
fn walk(nodes: usize, plan: Plan, promote: Promote) -> Result<Vec<World>, String> {
    let mut from: HashMap<World, Option<World>> = HashMap::from([(World::begin(), None)]);
    let mut queue = VecDeque::from([World::begin()]);
    while let Some(world) = queue.pop_front() {
        for Ordered(next) in successors(&world, nodes, plan, promote) {
            if from.contains_key(&next) {
                continue;
            }
            from.insert(next.clone(), Some(world.clone()));
            if next.loses() {
                let way = std::iter::successors(Some(&next), |world| from[*world].as_ref());
                return Err(way.map(|world| format!("{world:?}\n")).collect());
            }
            queue.push_back(next);
        }
    }
    Ok(from.into_keys().collect())
}

fn successors(world: &World, nodes: usize, plan: Plan, promote: Promote) -> BTreeSet<Ordered> {
    let mut next = BTreeSet::new();
    let mut with = |change: &dyn Fn(&mut World)| {
        let mut changed = world.clone();
        change(&mut changed);
        next.insert(Ordered(changed));
    };
    with(&World::settle);
    with(&|w| {
        // The agent, or the server, was restarted.
        w.unsettle();
        w.unsure = false;
    });
    for node in (0..nodes).filter(|node| *node != world.leader) {
        with(&|w| w.reach(&name(node)));
        if world.electorate.is_electable() {
            with(&|w| *w = world.fail_over(node, true, promote));
            with(&|w| *w = world.fail_over(node, false, promote));
        }
    }
    let everybody = names(((1u16 << nodes) - 1) as Mask & !(1 << world.leader));
    for wanted in wishes(nodes, world.leader) {
        for streaming in [&wanted.names, &(&wanted.names | &world.server.names), &everybody] {
            if let Some(transition) = plan(&world.situation(streaming, &wanted)) {
                if let Transition::Server(server) = &transition {
                    with(&|w| *w = world.half_applied(server));
                }
                with(&|w| w.apply(transition.clone()));
            }
        }
    }
    next
}

/// A world in some order, so that walks are the same each time.
#[derive(Clone, PartialEq, Eq)]
struct Ordered(World);

impl Ordered {
    fn key(&self) -> (usize, &Electorate, &StandbyNames, bool, bool, &Names, u32) {
        let w = &self.0;
        (w.leader, &w.electorate, &w.server, w.settled, w.unsure, &w.reached, w.past)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

fn by_the_rules(situation: &Situation<'_>) -> Option<Transition> {
    let next = situation.next();
    assert!(next.as_ref().is_none_or(|t| situation.allows(t)), "{situation:?} -> {next:?}");
    next
}

#[test]
fn no_write_is_lost_and_the_end_is_always_reached() {
    let worlds = walk(4, by_the_rules, before_promotion).unwrap_or_else(|way| panic!("{way}"));
    assert!(worlds.len() > 5000, "only {} states: the walk did not get anywhere", worlds.len());
    for world in worlds {
        for wanted in wishes(4, world.leader) {
            assert_reaches(world.clone(), &wanted);
        }
    }
}

/// Once nothing happens any more, what is wanted comes about in a few steps.
fn assert_reaches(world: World, wanted: &StandbyNames) {
    let mut now = world.clone();
    for _ in 0..12 {
        let everybody = &wanted.names | &now.server.names;
        let situation = now.situation(&everybody, wanted);
        if situation.is_final() {
            return;
        }
        match situation.next() {
            Some(transition) => now.apply(transition),
            None => {
                now.settle();
                now.server.names.clone().iter().for_each(|node| now.reach(node));
            }
        }
    }
    panic!("{wanted} is never reached from {world:?}; it ends in {now:?}");
}

/// A larger cluster than can be walked through: many long ways through it.
#[test]
fn no_write_is_lost_on_long_ways_among_five() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut pick = move |count: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % count
    };
    for _ in 0..300 {
        let mut world = World::begin();
        let mut wanted = StandbyNames::default();
        for _ in 0..120 {
            let before = world.clone();
            let others: Vec<usize> = (0..5).filter(|node| *node != world.leader).collect();
            match pick(12) {
                0 => {
                    let wishes = wishes(5, world.leader);
                    wanted = wishes[pick(wishes.len())].clone();
                }
                1 if world.electorate.is_electable() => {
                    world = world.fail_over(others[pick(4)], pick(2) == 0, before_promotion);
                    wanted = world.server.clone();
                }
                2 => {
                    world.unsettle();
                    world.unsure = false;
                }
                3 | 4 => world.settle(),
                5 | 6 => world.reach(&name(others[pick(4)])),
                choice => {
                    let streaming = if pick(2) == 0 { names(31) } else { wanted.names.clone() };
                    match by_the_rules(&world.situation(&streaming, &wanted)) {
                        Some(Transition::Server(server)) if choice == 11 => world = world.half_applied(&server),
                        Some(transition) => world.apply(transition),
                        None => {}
                    }
                }
            }
            assert!(!world.loses(), "{before:?}\n-> {world:?}");
        }
    }
}

/// Mistakes that were made, or could be: the walk finds each of them.
#[test]
fn mistakes_are_found() {
    let plans: [(&str, Plan); 6] = [
        ("PostgreSQL before the store, whatever is taken away", |s| {
            let straight = (s.server != s.wanted).then(|| Transition::Server(s.wanted.clone()));
            straight.or_else(|| s.next())
        }),
        ("the store before PostgreSQL, whatever is added", |s| {
            let end = s.final_electorate();
            let straight = (*s.electorate != end).then_some(Transition::Store(end));
            straight.or_else(|| s.next())
        }),
        ("a standby counts as soon as it is named", |s| {
            Situation { reached: &s.server.names.clone(), ..s.clone() }.next()
        }),
        ("a setting counts as soon as it is written", |s| Situation { settled: true, ..s.clone() }.holding_all()),
        ("the leader counts as a vote", |s| match s.next() {
            Some(Transition::Store(Electorate { voters, quorum })) if quorum > 0 => {
                Some(Transition::Store(Electorate { voters, quorum: quorum - 1 }))
            }
            other => other,
        }),
        ("a setting that may still act is forgotten", |s| {
            let blind = Situation { unsure: false, settled: true, reached: &s.server.names.clone(), ..s.clone() };
            if s.unsure { blind.next() } else { s.next() }
        }),
    ];
    for (mistake, plan) in plans {
        assert!(walk(3, plan, before_promotion).is_err(), "not found: {mistake}");
    }
    let promotions: [(&str, Promote); 2] = [
        ("the new leader forgets whom the old one waited for", |me, old, kept, none| {
            let (_, electorate) = before_promotion(me, old, kept, none.clone());
            (none, electorate)
        }),
        ("the winner is still asked for its vote", |me, old, kept, none| {
            let (server, _) = before_promotion(me, old, kept, none);
            (server, old.clone())
        }),
    ];
    for (mistake, promote) in promotions {
        assert!(walk(3, Situation::next_of, promote).is_err(), "not found: {mistake}");
    }
}

impl Situation<'_> {
    fn next_of(situation: &Situation<'_>) -> Option<Transition> {
        situation.next()
    }

    /// Takes everybody named for one who has everything.
    fn holding_all(&self) -> Option<Transition> {
        Situation { reached: self.streaming, ..self.clone() }.next()
    }
}

/// One change of wishes, step by step, with everything well: what users see, and that somebody can be elected throughout,
/// unless some WAL senders may let go of who is to be waited for while others have not heard of it yet.
#[test]
fn changes_take_these_steps() {
    let on = |nodes: &[usize]| StandbyNames::all(nodes.iter().map(|n| name(*n)).collect());
    let any = |number, nodes: &[usize]| StandbyNames::any(number, nodes.iter().map(|n| name(*n)).collect());
    let rows = [
        ("enabling", on(&[]), on(&[1]), vec!["n1", "/sync n1 of 0"]),
        ("a second one", on(&[1]), on(&[1, 2]), vec!["2 (n1,n2)", "/sync n1,n2 of 0"]),
        ("one less", on(&[1, 2]), on(&[1]), vec!["/sync n1 of 0", "n1"]),
        ("another one", on(&[2]), on(&[3]), vec!["2 (n2,n3)", "/sync  of 0", "n3", "/sync n3 of 0"]),
        ("one less of the first", on(&[1, 2]), on(&[2]), vec!["/sync  of 0", "n2", "/sync n2 of 0"]),
        ("a second one that comes first", on(&[2]), on(&[1, 2]), vec!["/sync  of 0", "2 (n1,n2)", "/sync n1,n2 of 0"]),
        (
            "a third one in between",
            on(&[1, 3]),
            on(&[1, 2, 3]),
            vec!["/sync n1 of 0", "3 (n1,n2,n3)", "/sync n1,n2,n3 of 0"],
        ),
        ("none", on(&[1]), on(&[]), vec!["/sync  of 0", ""]),
        ("strictly none", on(&[1]), StandbyNames::anybody(Method::Priority), vec!["/sync  of 0", "*"]),
        ("quorum of three", on(&[]), any(1, &[1, 2, 3]), vec!["ANY 1 (n1,n2,n3)", "/sync n1,n2,n3 of 2"]),
        ("a node joins", any(1, &[1, 2]), any(1, &[1, 2, 3]), vec!["/sync n1,n2,n3 of 2", "ANY 1 (n1,n2,n3)"]),
        ("a node leaves", any(1, &[1, 2, 3]), any(1, &[1, 2]), vec!["ANY 1 (n1,n2)", "/sync n1,n2 of 1"]),
        ("more copies", any(1, &[1, 2, 3]), any(2, &[1, 2, 3]), vec!["ANY 2 (n1,n2,n3)", "/sync n1,n2,n3 of 1"]),
        ("fewer copies", any(2, &[1, 2, 3]), any(1, &[1, 2, 3]), vec!["/sync n1,n2,n3 of 2", "ANY 1 (n1,n2,n3)"]),
        ("on to quorum", on(&[1]), any(1, &[1, 2]), vec!["/sync n1,n2 of 1", "ANY 1 (n1,n2)"]),
        ("quorum to on", any(1, &[1, 2]), on(&[1]), vec!["n1", "/sync n1 of 0"]),
    ];
    for (what, before, wanted, expected) in rows {
        let mut world = World::begin();
        let everybody = names(0b1110);
        let mut steps = Vec::new();
        for goal in [&before, &wanted] {
            steps.clear();
            for _ in 0..12 {
                match by_the_rules(&world.situation(&everybody, goal)) {
                    Some(transition) => {
                        steps.push(described(&transition));
                        world.apply(transition);
                        let ends =
                            before.names.is_empty() || wanted.names.is_empty() || expected.contains(&"/sync  of 0");
                        assert!(ends || world.electorate.is_electable() || goal == &before, "{what}: {steps:?}");
                    }
                    None => {
                        world.settle();
                        world.server.names.clone().iter().for_each(|node| world.reach(node));
                    }
                }
            }
        }
        assert_eq!(steps, expected, "{what}");
    }
}

fn described(transition: &Transition) -> String {
    match transition {
        Transition::Store(Electorate { voters, quorum }) => {
            format!("/sync {} of {quorum}", crate::sync::comma_list(voters).replace(", ", ","))
        }
        Transition::Server(names) => names.to_string(),
    }
}
