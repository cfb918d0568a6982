//! Whoever reads what `doctor` says finds it in the runbook, by its words; and each alert by its name.

use std::fs;
use std::path::Path;

const RUNBOOK: &str = include_str!("../../../../docs/runbook.md");
const ALERTS: &str = include_str!("../../../../extras/monitoring/rules.yml");

/// The text that stands here in the source.
fn literal(source: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = source.strip_prefix('"')?.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
}

/// The texts in which findings say what is wrong: first arguments of `finding(`, values of `what`, and what a function `Some(format!(`s.
fn texts(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for beginning in ["finding(", "Some(format!("] {
        for (at, _) in source.match_indices(beginning) {
            let rest = source[at + beginning.len()..].trim_start();
            let rest = rest.strip_prefix("format!(").unwrap_or(rest).trim_start();
            found.extend(literal(rest));
        }
    }
    for (at, _) in source.match_indices("let what = ") {
        let value = source[at..].split(";\n").next().unwrap_or_default();
        // Every second quotation mark ends a text.
        found.extend(value.match_indices('"').step_by(2).filter_map(|(at, _)| literal(&value[at..])));
    }
    found
}

/// What of a text is the same in each finding, in one line of small letters.
fn constant_parts(text: &str) -> Vec<String> {
    let parts = text.split('{').enumerate();
    let parts = parts.map(|(index, part)| if index == 0 { part } else { part.split_once('}').map_or("", |end| end.1) });
    parts.map(in_one_line).filter(|part| !part.is_empty()).collect()
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[test]
fn each_finding_has_an_entry() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let doctor = fs::read_dir(sources.join("doctor")).expect("no sources").map(|entry| entry.expect("no entry").path());
    let others = ["embedded/findings.rs", "commands/doctor.rs"].map(|file| sources.join(file));
    let runbook = in_one_line(RUNBOOK);
    let mut count = 0;
    for file in doctor.filter(|file| !file.ends_with("runbook.rs")).chain(others) {
        let source = fs::read_to_string(&file).expect("cannot read");
        for text in texts(&source) {
            let missing: Vec<String> =
                constant_parts(&text).into_iter().filter(|part| !runbook.contains(part.as_str())).collect();
            assert!(missing.is_empty(), "{} says {text:?}, and docs/runbook.md lacks {missing:?}", file.display());
            count += 1;
        }
    }
    assert!(count > 50, "only {count} findings were recognised");
}

#[test]
fn each_alert_has_an_entry() {
    let names: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let row = |line: &str| {
            line.strip_prefix("| ")
                .and_then(|rest| rest.split_once(" |"))
                .is_some_and(|(cell, _)| cell.split(", ").any(|word| word == name))
        };
        assert!(RUNBOOK.lines().any(row), "docs/runbook.md has no row for {name}");
    }
}
