//! `patronictl store list`: the keys of a cluster as they are in the store.

use std::collections::BTreeMap;

use patroni_dcs::wire::RawKey;
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, FORMAT, GROUP};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::CtlError;
use crate::output;
use crate::output::rows::{Format, Rows};

/// So much of a value is shown in a table, in characters. `store get` shows all of it.
const SHOWN: usize = 60;

pub(crate) const COMMAND: Command = Command {
    name: "store list",
    help: "Show the keys of a cluster as they are in the store",
    arguments: &[CLUSTER_NAME],
    options: &[GROUP, FORMAT],
    examples: &["patronictl store list batman", "patronictl -d consul://db1:8500 store list batman -f json"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let format = Format::parse(matches.text("format").unwrap_or("pretty"))?;
    let store = context.open_default(matches)?;
    let keys = store.read().await?;
    let title = if format.is_table() {
        format!(" Store: {}, keys below {} ", store.label, store.prefix)
    } else {
        String::new()
    };
    output::write(&rows(&keys, title, format.is_table()).render(format, "\t"));
    Ok(())
}

fn rows(keys: &BTreeMap<String, RawKey>, title: String, shorten: bool) -> Rows {
    let row = |(name, key): (&String, &RawKey)| {
        let value = String::from_utf8_lossy(&key.value).into_owned();
        let value = if shorten { shown(&value) } else { value };
        let session = key.session.as_deref().map_or(Value::Null, Value::from);
        vec![Value::from(name.as_str()), value.into(), key.modified.into(), session]
    };
    Rows {
        columns: Some(["Key", "Value", "Version", "Lease"].map(str::to_owned).to_vec()),
        rows: keys.iter().map(row).collect(),
        right: &["Version"],
        title,
    }
}

/// The beginning, on one line.
fn shown(value: &str) -> String {
    let mut line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if value.chars().count() > SHOWN {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_short_and_the_other_formats_whole() {
        let long = format!("{{\"a\":\n\"{}\"}}", "x".repeat(100));
        let key = |value: &str, session: Option<&str>| RawKey {
            value: value.as_bytes().to_vec(),
            modified: 7,
            created: 1,
            session: session.map(str::to_owned),
        };
        let keys =
            BTreeMap::from([("leader".to_owned(), key("a", Some("42"))), ("config".to_owned(), key(&long, None))]);
        let table = rows(&keys, " Store ".to_owned(), true).render(Format::Pretty, "");
        assert!(table.lines().all(|line| line.chars().count() < 110), "{table}");
        assert!(
            table.contains("| leader | a ") && table.contains("{\"a\": \"xxx") && table.contains("xxx... |"),
            "{table}"
        );
        let json: Value = serde_json::from_str(&rows(&keys, String::new(), false).render(Format::Json, "")).unwrap();
        let expected = serde_json::json!([
            {"Key": "config", "Value": long, "Version": 7, "Lease": null},
            {"Key": "leader", "Value": "a", "Version": 7, "Lease": "42"},
        ]);
        assert_eq!(json, expected);
    }
}
