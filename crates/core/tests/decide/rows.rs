//! The table: each row is a scene, and what has to come out of it.
//!
//! A row has three lines: what the rule says; the baseline, differences and answers, separated by `;`; and behind
//! `->` the operations in their order, the order for the job, and the verdict in the words of the log, separated by
//! `|`. A line in brackets names the function of `decide` that the rows below it are about.

use std::collections::BTreeSet;

use patroni_core::effects::{Effect, OnServer};
use patroni_core::verdict::Level;

use crate::scene::{Scene, op_word, order_words};

const FILES: [(&str, &str); 11] = [
    ("leading.rows", include_str!("rows/leading.rows")),
    ("racing.rows", include_str!("rows/racing.rows")),
    ("failsafe.rows", include_str!("rows/failsafe.rows")),
    ("following.rows", include_str!("rows/following.rows")),
    ("kept_out.rows", include_str!("rows/kept_out.rows")),
    ("working.rows", include_str!("rows/working.rows")),
    ("creating.rows", include_str!("rows/creating.rows")),
    ("synchronous.rows", include_str!("rows/synchronous.rows")),
    ("standby.rows", include_str!("rows/standby.rows")),
    ("slots.rows", include_str!("rows/slots.rows")),
    ("disks.rows", include_str!("rows/disks.rows")),
];

/// Verdicts whose rules come with a later issue. The check fails as soon as one of them has a row.
const NOT_YET: [&str; 1] = ["StoreRetrying"];

struct Row<'a> {
    place: String,
    rule: &'a str,
    scene: Scene,
    expected: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for (file, text) in FILES {
        let mut rule = "";
        let mut scene = None;
        for (number, line) in text.lines().map(str::trim).enumerate() {
            let place = format!("{file}:{}", number + 1);
            if let Some(name) = line.strip_prefix('[') {
                rule = name.trim_end_matches(']');
            } else if let Some(expected) = line.strip_prefix("->") {
                let scene = scene.take().unwrap_or_else(|| panic!("{place}: nothing before it"));
                rows.push(Row { place, rule, scene, expected: expected.trim() });
            } else {
                scene = read_scene(line).or(scene);
            }
        }
    }
    rows
}

/// A line that begins with a baseline is a scene; any other is for people.
fn read_scene(line: &str) -> Option<Scene> {
    let mut parts = line.split(';').map(str::trim);
    let mut scene = Scene::baseline(parts.next()?)?;
    parts.for_each(|part| scene.apply(part));
    Some(scene)
}

#[test]
fn every_row_comes_out_as_written() {
    let wrong = wrong_rows();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// What people have to do once is told once.
#[test]
fn that_pg_rewind_was_given_up_is_told_once() {
    let mut scene = read_scene("stopped; divergence failed-often; use-pg-rewind").expect("a scene");
    let told = |scene: &Scene| {
        let plan = scene.play().1;
        (plan.notes.iter().filter(|note| note.level == Level::Error).count(), plan.memory)
    };
    let (first, memory) = told(&scene);
    scene.memory = memory;
    assert_eq!((first, told(&scene).0), (1, 0));
}

/// What is in the way of pg_rewind is an error once, however often that is tried again.
#[test]
fn that_pg_rewind_was_refused_is_told_once() {
    let mut scene = read_scene("stopped; ended rewind refused; use-pg-rewind").expect("a scene");
    let told = |scene: &Scene| {
        let plan = scene.play().1;
        (plan.notes.iter().filter(|note| note.level == Level::Error).count(), plan.memory)
    };
    let (first, memory) = told(&scene);
    assert_eq!(memory.rewind_refusal.as_ref().map(|refusal| refusal.times), Some(1));
    scene.memory = memory;
    let (second, memory) = told(&scene);
    assert_eq!((first, second), (1, 0));
    assert_eq!(memory.rewind_refusal.map(|refusal| refusal.times), Some(2), "the pause grows");
}

/// The role of a node that is demoted is told after the stop: `on_stop` is called in the role that the server had.
#[test]
fn a_stop_is_told_in_the_role_of_the_server() {
    let tells = |line| {
        let plan = read_scene(line).expect("a scene").play().1;
        plan.effects.iter().any(|effect| matches!(effect, Effect::Server(OnServer::TellRole(_))))
    };
    assert!(tells("leader"));
    assert!(!tells("leader; renew refused"));
}

/// The rows that do not come out as written.
pub(crate) fn wrong_rows() -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows() {
        let (ops, plan) = row.scene.play();
        let ops: Vec<String> = ops.iter().map(op_word).collect();
        let exit = plan.exit.map(|exit| format!(" | exit {exit:?}").to_lowercase()).unwrap_or_default();
        let replies: String = plan.replies.values().map(|reply| format!(" | {reply:?}")).collect();
        let got = format!("{} | {} | {}{exit}{replies}", ops.join(", "), order_words(&plan.job), plan.verdict);
        if got.trim() != row.expected {
            wrong.push(format!("{} [{}]\n  written {}\n  got     {}", row.place, row.rule, row.expected, got.trim()));
        }
    }
    wrong
}

#[test]
fn every_verdict_has_a_row() {
    let text = include_str!("../../src/verdict.rs");
    let body = text.split("pub enum Verdict {").nth(1).and_then(|rest| rest.split("\n}").next());
    let variants: BTreeSet<&str> = body
        .expect("the enum Verdict")
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(variant_name)
        .collect();
    assert!(variants.len() > 50, "the list of verdicts was not found");
    let said: BTreeSet<String> =
        rows().iter().map(|row| variant_name(&format!("{:?}", row.scene.play().1.verdict)).to_owned()).collect();
    let missing: Vec<&&str> =
        variants.iter().filter(|name| !said.contains(**name) && !NOT_YET.contains(name)).collect();
    assert!(missing.is_empty(), "no row for the verdicts {missing:?}");
    let arrived: Vec<&str> = NOT_YET.into_iter().filter(|name| said.contains(*name)).collect();
    assert!(arrived.is_empty(), "{arrived:?} have rows now: take them from the list");
}

fn variant_name(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(text)
}

/// A rule is a function of the decision that comes to a verdict or a claim, or says what the cluster is.
#[test]
fn every_rule_has_a_row() {
    let named: BTreeSet<&str> = rows().iter().map(|row| row.rule).collect();
    let mut rules = BTreeSet::new();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/decide");
    for entry in std::fs::read_dir(directory).expect("the sources of decide") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            rules.extend(rules_in(&std::fs::read_to_string(path).expect("a source file")));
        }
    }
    assert!(rules.len() > 30, "the rules were not found");
    let missing: Vec<&String> = rules.iter().filter(|rule| !named.contains(rule.as_str())).collect();
    assert!(missing.is_empty(), "no row for the rules {missing:?}");
    let gone: Vec<&&str> = named.iter().filter(|name| !rules.contains(**name)).collect();
    assert!(gone.is_empty(), "rows for rules that do not exist: {gone:?}");
}

fn rules_in(source: &str) -> Vec<String> {
    let mut rules = Vec::new();
    for (start, _) in source.match_indices("fn ") {
        let signature = source[start..].split('{').next().unwrap_or_default();
        let Some((name, result)) = signature[3..].split_once('(') else { continue };
        let result = result.rsplit_once("->").map_or("", |(_, result)| result);
        let decides = ["Verdict", "Claim", "Arc<Cluster>"].iter().any(|what| result.contains(what));
        if decides && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            rules.push(name.to_owned());
        }
    }
    rules
}
