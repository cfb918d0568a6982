//! What a node shows after a tick: state and role, the health checks that pass, and whether its key is written.
//!
//! Rows as in `rows`: what the row says; a scene, and what is known of the member's key; behind `->` state and role,
//! the checks that pass, and the key.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::facts::Outcome;
use patroni_core::health::{Query, Status, checks};
use patroni_core::lsn::Lsn;
use patroni_core::plan::Plan;
use patroni_core::time::Moment;

use crate::scene::Scene;

const ROWS: &str = include_str!("rows/shown.rows");

const CHECKS: [&str; 5] = ["/primary", "/leader", "/replica", "/read-only", "/health"];

struct Row {
    number: usize,
    scene: Scene,
    key: Vec<&'static str>,
    expected: &'static str,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut scene = None;
    for (number, line) in ROWS.lines().map(str::trim).enumerate() {
        if let Some(expected) = line.strip_prefix("->") {
            let (scene, key) = scene.take().unwrap_or_else(|| panic!("shown.rows:{}: nothing before it", number + 1));
            rows.push(Row { number: number + 1, scene, key, expected: expected.trim() });
            continue;
        }
        let mut parts = line.split(';').map(str::trim);
        let Some(mut begun) = parts.next().and_then(Scene::baseline) else { continue };
        let (key, others): (Vec<&str>, Vec<&str>) = parts.partition(|part| part.starts_with("key "));
        others.iter().for_each(|part| begun.apply(part));
        scene = Some((begun, key));
    }
    rows
}

/// What is known of the key. It says what it should, unless the row has it otherwise.
fn know_key(scene: &mut Scene, words: &[&str]) {
    let wanted = scene.play().1.member.expect("a key that was never written is due");
    let now = scene.facts.now.boot;
    for word in words {
        let (what, seconds) = word["key ".len()..].rsplit_once(' ').expect("what, and how many seconds ago");
        let at = Moment(now.0 - Duration::from_millis((seconds.parse::<f64>().expect("seconds") * 1000.0) as u64));
        let mut data = (*wanted).clone();
        match what {
            "written" | "failed" | "unknown" | "ordered" => {}
            "moved-written" => data.xlog_location = Some(Lsn(1)),
            "otherwise-written" | "otherwise-ordered" => data.state = Some("starting".into()),
            _ => panic!("no words {word:?}"),
        }
        let data = Arc::new(data);
        scene.facts.member_key.order(Arc::clone(&data));
        let outcome = match what {
            "failed" => Outcome::Failed("no".into()),
            "unknown" => Outcome::Unknown("no answer".into()),
            "ordered" | "otherwise-ordered" => continue,
            _ => Outcome::Done(()),
        };
        scene.facts.member_key.ended(&data, &outcome, at, at);
    }
}

fn shown(scene: &Scene, plan: &Plan) -> String {
    let status = Status::of_view(&plan.view, scene.facts.now);
    let state = status.state().map_or_else(|| "unknown".into(), |state| state.to_string());
    let passing: Vec<&str> =
        CHECKS.into_iter().filter(|check| checks::passes(check, &Query::default(), &status)).collect();
    let unlocked = if status.is_unlocked() { " unlocked" } else { "" };
    let key = match (&plan.member, scene.facts.cluster.is_ok()) {
        (_, false) => "not now".into(),
        (Some(_), true) => "written".into(),
        (None, true) => format!("again in {} s", plan.wake_after.as_secs_f64()),
    };
    format!("{state} {}{unlocked} | {} | {key}", status.role(), passing.join(" "))
}

#[test]
fn every_row_comes_out_as_written() {
    let wrong = wrong_rows();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// The rows that do not come out as written.
pub(crate) fn wrong_rows() -> Vec<String> {
    let mut wrong = Vec::new();
    for Row { number, mut scene, key, expected } in rows() {
        if !key.is_empty() {
            know_key(&mut scene, &key);
        }
        let plan = scene.play().1;
        let got = shown(&scene, &plan);
        if got != expected {
            wrong.push(format!("shown.rows:{number}\n  written {expected}\n  got     {got}"));
        }
    }
    wrong
}

/// `/patroni`, `list` and `doctor` say what an operator has to take out of the way.
#[test]
fn what_keeps_postgresql_from_coming_up_is_shown() {
    let failure = |line: &str| {
        let mut parts = line.split(';').map(str::trim);
        let mut scene = Scene::baseline(parts.next().expect("a baseline")).expect("a baseline");
        parts.for_each(|part| scene.apply(part));
        scene.play().1.view.failure.clone()
    };
    let refused = failure("stopped; ended rewind refused; use-pg-rewind").expect("a reason");
    assert!(refused.starts_with("pg_rewind would stop half-way and was not begun: "), "{refused}");
    assert_eq!(failure("stopped; divergence refused; use-pg-rewind"), Some(refused), "as long as it lasts");
    assert_eq!(failure("stopped; use-pg-rewind"), None);
    let unreadable = failure("stopped; data-dir inaccessible").expect("a reason");
    assert_eq!(unreadable, "data directory is not accessible: Input/output error");
}
