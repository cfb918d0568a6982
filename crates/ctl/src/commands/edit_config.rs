//! `patronictl edit-config`: the dynamic configuration is changed, by options, a file, or an editor.

use std::io::{IsTerminal, Read};

use patroni_config::yaml::{Data, Node};
use patroni_core::JsonMap;
use patroni_core::cluster::ClusterConfig;
use patroni_dcs::{Expected, Key};
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, FORCE, GROUP, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, Store};
use crate::difflib::unified_diff;
use crate::editor::{self, Kept};
use crate::error::{CtlError, failed};
use crate::output::{self, yaml};
use crate::{interrupts, prompt};

pub(crate) const COMMAND: Command = Command {
    name: "edit-config",
    help: "Edit cluster configuration",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt { names: &["--quiet", "-q"], key: "quiet", kind: Kind::Flag, help: "Do not show changes" },
        Opt {
            names: &["--set", "-s"],
            key: "set",
            kind: Kind::Repeated,
            help: "Set specific configuration value. Can be specified multiple times",
        },
        Opt {
            names: &["--pg", "-p"],
            key: "pg",
            kind: Kind::Repeated,
            help: "Set specific PostgreSQL parameter value. Shorthand for -s postgresql.parameters. Can be specified \
                   multiple times",
        },
        Opt {
            names: &["--apply"],
            key: "apply",
            kind: Kind::Text,
            help: "Apply configuration from file. Use - for stdin.",
        },
        Opt {
            names: &["--replace"],
            key: "replace",
            kind: Kind::Text,
            help: "Apply configuration from file, replacing existing configuration. Use - for stdin.",
        },
        FORCE,
    ],
    examples: &[
        "patronictl edit-config batman",
        "patronictl edit-config batman -s ttl=20 -p max_connections=200 --force",
    ],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let Some(config) = store.load().await?.config else {
        return failed(format!("The config key does not exist in the cluster {}", store.scope));
    };
    let data = config.data.clone().unwrap_or_default();
    let before = yaml::block(&Value::Object(data.clone()));
    match changed_by_options(matches, &data)? {
        Some(changed) => {
            let after = yaml::block(&Value::Object(changed.clone()));
            finish(&store, matches, &config, (&before, &after), changed).await
        }
        None => {
            let kept = editor::edit(&before, &store.scope).await?;
            let result = tokio::select! {
                biased;
                result = edited(&store, matches, &config, &before, &kept) => result,
                () = interrupts::pressed() => Err(CtlError::Abort),
            };
            kept.settle(result)
        }
    }
}

async fn edited(
    store: &Store,
    matches: &Matches,
    config: &ClusterConfig,
    before: &str,
    kept: &Kept,
) -> Result<(), CtlError> {
    let text = kept.read()?;
    let changed = mapping(&text, "what the editor left")?;
    finish(store, matches, config, (before, &text), changed).await
}

/// The configuration as `--replace`, `--apply`, `-s` and `-p` change it; `None` if none of them was given.
fn changed_by_options(matches: &Matches, data: &JsonMap) -> Result<Option<JsonMap>, CtlError> {
    let mut changed = None;
    if let Some(file) = matches.text("replace").filter(|file| !file.is_empty()) {
        changed = Some(patched(JsonMap::new(), &read_mapping(file)?));
    }
    if let Some(file) = matches.text("apply").filter(|file| !file.is_empty()) {
        let base = changed.take().unwrap_or_else(|| data.clone());
        changed = Some(patched(base, &read_mapping(file)?));
    }
    let parameters = matches.many("pg").iter().map(|pair| format!("postgresql.parameters.{}", pair.trim_start()));
    let pairs: Vec<String> = matches.many("set").iter().cloned().chain(parameters).collect();
    if !pairs.is_empty() {
        let mut base = changed.take().unwrap_or_else(|| data.clone());
        for pair in &pairs {
            set(&mut base, pair)?;
        }
        changed = Some(base);
    }
    Ok(changed)
}

fn patched(mut base: JsonMap, changes: &JsonMap) -> JsonMap {
    patroni_config::merge::patch(&mut base, changes);
    base
}

fn read_mapping(file: &str) -> Result<JsonMap, CtlError> {
    let mut text = String::new();
    let read = match file {
        "-" => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        path => std::fs::read_to_string(path).map(|content| text = content),
    };
    match read {
        Ok(()) => mapping(&text, file),
        Err(error) => failed(format!("cannot read {file}: {error}")),
    }
}

fn mapping(text: &str, whence: &str) -> Result<JsonMap, CtlError> {
    let parsed = patroni_config::yaml::parse(text);
    if let Some(number) = parsed.as_ref().ok().and_then(unstorable) {
        return failed(format!("{whence} has a number that cannot be stored: {number}; quote it to store it as text"));
    }
    match parsed.map(|node| node.to_json()) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => failed(format!("{whence} is not a configuration: it must hold a YAML mapping")),
        Err(error) => failed(format!("{whence} is not YAML: {error}")),
    }
}

/// The first number that JSON, or 64 bits, cannot hold. Without this check it would become a text unnoticed.
fn unstorable(node: &Node) -> Option<String> {
    match &node.data {
        Data::Int(_) | Data::Float(_) => node.to_json().as_str().map(str::to_owned),
        Data::List(items) => items.iter().find_map(unstorable),
        Data::Map(entries) => entries.iter().find_map(|entry| unstorable(&entry.value)),
        Data::Null | Data::Bool(_) | Data::Text(_) => None,
    }
}

/// `path.to.key=value`, the value in YAML; null removes the key, and with it what becomes empty around it.
fn set(config: &mut JsonMap, pair: &str) -> Result<(), CtlError> {
    let Some((path, value)) = pair.split_once('=') else {
        return failed(format!("Invalid parameter setting {pair}"));
    };
    let value = match patroni_config::yaml::parse(value) {
        Ok(node) => match unstorable(&node) {
            Some(number) => {
                let advice = format!("{number} cannot be stored as a number; quote it to store it as text");
                return failed(format!("Invalid parameter setting {pair}: {advice}"));
            }
            None => node.to_json(),
        },
        Err(error) => return failed(format!("Invalid parameter setting {pair}: the value is not YAML: {error}")),
    };
    let path = path.trim();
    // Names of PostgreSQL's parameters may have dots in them.
    let parts: Vec<&str> = match path.strip_prefix("postgresql.parameters.") {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => path.split('.').collect(),
    };
    set_path(config, &parts, value);
    Ok(())
}

fn set_path(config: &mut JsonMap, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] if value.is_null() => {
            config.shift_remove(*key);
        }
        [key] => {
            config.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let entry = config.entry(*key).or_insert(Value::Null);
            let mut section = match entry.take() {
                Value::Object(map) => map,
                _ => JsonMap::new(),
            };
            set_path(&mut section, rest, value);
            if section.is_empty() {
                config.shift_remove(*key);
            } else {
                config.insert((*key).to_owned(), Value::Object(section));
            }
        }
    }
}

/// Shows the difference, asks, and writes, unless somebody else has changed the configuration meanwhile.
async fn finish(
    store: &Store,
    matches: &Matches,
    config: &ClusterConfig,
    (before, after): (&str, &str),
    changed: JsonMap,
) -> Result<(), CtlError> {
    let quiet = matches.flag("quiet");
    if config.data.as_ref() == Some(&changed) {
        if !quiet {
            output::echo("Not changed");
        }
        return Ok(());
    }
    if !quiet {
        show_diff(before, after);
    }
    let faults = patroni_config::faults_of_change(&config.data.clone().unwrap_or_default(), &changed);
    if !faults.is_empty() {
        return failed(format!("Configuration not changed: {}", faults.join("; ")));
    }
    let force = matches.flag("force");
    let from_stdin = [matches.text("apply"), matches.text("replace")].contains(&Some("-"));
    if from_stdin && !force {
        output::echo("Use --force option to apply changes");
        return Ok(());
    }
    if !force && !prompt::confirm("Apply these changes?").await? {
        return Ok(());
    }
    let value = patroni_core::json::compact(&Value::Object(changed));
    let refused = "Config modification aborted due to concurrent changes";
    store.write_or(Key::Config, &value, Expected::Version(config.version), refused).await?;
    output::echo("Configuration changed");
    Ok(())
}

fn show_diff(before: &str, after: &str) {
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    for line in unified_diff(before, after) {
        match colour(&line).filter(|_| coloured) {
            Some(code) => output::echo(&format!("\x1b[{code}m{line}\x1b[0m")),
            None => output::echo(&line),
        }
    }
}

fn colour(line: &str) -> Option<&'static str> {
    match line {
        _ if line.starts_with("--- ") || line.starts_with("+++ ") => Some("33"),
        _ if line.starts_with("@@") => Some("36"),
        _ if line.starts_with('-') => Some("31"),
        _ if line.starts_with('+') => Some("32"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_by_path() {
        let rows = [
            (json!({}), "ttl=20", json!({"ttl": 20})),
            (json!({"a": {"b": 1}}), "a.c=on", json!({"a": {"b": 1, "c": true}})),
            (json!({"a": {"b": 1}}), "a.b=null", json!({})),
            (json!({"a": 1}), "a.b.c=x", json!({"a": {"b": {"c": "x"}}})),
            (json!({"a": 1}), "b.c=", json!({"a": 1})),
            (
                json!({}),
                "postgresql.parameters.pg_stat.max = 5",
                json!({"postgresql": {"parameters": {"pg_stat.max": 5}}}),
            ),
            (json!({}), "a=b=c", json!({"a": "b=c"})),
        ];
        for (config, pair, expected) in rows {
            let Value::Object(mut map) = config else { panic!("not an object") };
            set(&mut map, pair).expect(pair);
            assert_eq!(Value::Object(map), expected, "{pair}");
        }
        let error = set(&mut JsonMap::new(), "ttl").map_err(|e| e.to_string());
        assert_eq!(error, Err("Invalid parameter setting ttl".to_owned()));
        for number in ["123456789012345678901234567890", ".inf", "[-.inf]", "{a: .nan}"] {
            let error = set(&mut JsonMap::new(), &format!("a={number}")).expect_err(number).to_string();
            assert!(error.contains("quote it to store it as text"), "{error}");
        }
        for number in ["18446744073709551615", "-9223372036854775808", "1e300", "'.inf'"] {
            set(&mut JsonMap::new(), &format!("a={number}")).expect(number);
        }
        let error = mapping("a: {b: .inf}", "x.yaml").map_err(|e| e.to_string());
        let expected = "x.yaml has a number that cannot be stored: .inf; quote it to store it as text";
        assert_eq!(error, Err(expected.to_owned()));
    }
}
