//! YAML is read and written as PyYAML does it: on recorded rows, and on generated values where the reference's Python
//! is installed.
#![allow(clippy::unwrap_used, reason = "helper functions of tests may panic too")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use patroni_config::yaml::{Data, Node, Style, dump, dump_with, parse};
use patroni_core::python::float_text;
use serde_json::{Map, Value};

const PYTHON: &str = "/opt/ref/venv/bin/python";

fn rows(text: &str) -> Vec<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn shown(node: &Node) -> String {
    let Data::Map(entries) = &node.data else { panic!("{node:?}") };
    match &entries[0].value.data {
        Data::Null => "null".to_owned(),
        Data::Bool(b) => b.to_string(),
        Data::Int(n) => format!("int {n}"),
        Data::Float(f) => format!("float {}", float_text(*f)),
        Data::Text(text) => format!("text {text}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn scalars() {
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/pyyaml-scalars.jsonl")) {
        let (text, expected) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        let found = parse(&format!("k: {text}")).map_or("error".to_owned(), |node| shown(&node));
        let is_date = expected == "text *date*" && found == format!("text {}", text.trim());
        if found != expected && !is_date {
            wrong.push(format!("{text}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn documents() {
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/pyyaml-docs.jsonl")) {
        let text = row[0].as_str().unwrap();
        let expected: Option<Value> = row[1].as_str().map(|json| serde_json::from_str(json).unwrap());
        let found = parse(text).map(|node| node.to_json());
        let same = match (&found, &expected) {
            // As texts, because the order of keys counts.
            (Ok(found), Some(expected)) => format!("{found}") == format!("{expected}"),
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            wrong.push(format!("{text:?}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dumps() {
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/pyyaml-dumps.jsonl")) {
        let style = Style { width: row[1].as_u64().unwrap() as usize, sort_keys: row[2].as_bool().unwrap() };
        let (found, expected) = (dump_with(&row[0], style), row[3].as_str().unwrap());
        if found != expected {
            wrong.push(format!("{}\n--- found\n{found}--- expected\n{expected}", row[0]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn places() {
    let node = parse("a: 1\nb:\n  - x\n  - c: 2\n").unwrap();
    let Data::Map(entries) = &node.data else { panic!() };
    assert_eq!((entries[1].mark.line, entries[1].mark.column), (2, 1));
    let Data::List(items) = &entries[1].value.data else { panic!() };
    assert_eq!((items[1].mark.line, items[1].mark.column), (4, 5));
    let error = parse("a: 1\nb: [\n").unwrap_err();
    assert!(error.mark.line >= 2, "{error}");
}

#[test]
fn a_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = format!("*a{}, ", i - 1).repeat(10);
        text += &format!("a{i}: &a{i} [{before}]\n");
    }
    assert!(parse(&text).unwrap_err().text.contains("more than"));
    assert!(parse(&"[".repeat(100_000)).is_err());
}

/// A small generator of values; the same seed gives the same values.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit) as usize
    }

    fn text(&mut self) -> String {
        const PARTS: &[&str] = &[
            "a",
            "on",
            "no",
            "1",
            "0",
            ":",
            " ",
            " ",
            "-",
            "#",
            "'",
            "\"",
            "\n",
            "word",
            "é",
            "\\",
            "%",
            "@",
            "[",
            "]",
            "{",
            ",",
            "?",
            "!",
            "&",
            "*",
            "|",
            ">",
            "=",
            "<<",
            ".",
            "_",
            "e+3",
            "0x",
            "\t",
            "~",
            "null",
            "\u{85}",
            "\u{feff}",
            "much longer words than before ",
            "2001-12-14",
            "\u{1f600}",
            "\u{7f}",
            "\r",
        ];
        (0..self.below(12)).map(|_| PARTS[self.below(PARTS.len() as u64)]).collect()
    }

    fn value(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 1),
            2 => Value::from(self.below(1 << 30) as i64 - (1 << 29)),
            3 => Value::from((self.below(1 << 30) as f64 - 1e8) * 10f64.powi(self.below(40) as i32 - 20)),
            4 | 5 => Value::String(self.text()),
            6 => Value::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
            _ => Value::Object((0..self.below(5)).map(|_| (self.text(), self.value(depth - 1))).collect::<Map<_, _>>()),
        }
    }
}

/// Dumps of generated values are those of PyYAML, and what it reads from them is what we read.
#[test]
fn generated_values() {
    if !Path::new(PYTHON).exists() {
        return;
    }
    const SCRIPT: &str = "import sys, json, yaml\nfor line in sys.stdin:\n v = json.loads(line)\n \
        print(json.dumps(yaml.safe_dump(v, default_flow_style=False, allow_unicode=True)))\n";
    let mut random = Random(7);
    let values: Vec<Value> = (0..3000).map(|_| random.value(3)).collect();
    let input: String = values.iter().map(|value| format!("{value}\n")).collect();
    let mut child =
        Command::new(PYTHON).args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let texts = String::from_utf8(output.stdout).unwrap();
    let mut count = 0;
    for (value, line) in values.iter().zip(texts.lines()) {
        let expected: String = serde_json::from_str(line).unwrap();
        assert_eq!(dump(value), expected, "{value}");
        count += 1;
    }
    assert_eq!(count, values.len());
}
