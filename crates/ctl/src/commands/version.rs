//! `patronictl version`: versions of this tool, of the agents and of PostgreSQL.

use http::Method;
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, MEMBER_NAMES};
use crate::cli::parse::Matches;
use crate::context::{Context, SHORT};
use crate::error::CtlError;
use crate::{output, selection};

pub(crate) const COMMAND: Command = Command {
    name: "version",
    help: "Output version of patronictl command or a running Patroni instance",
    arguments: &[CLUSTER_NAME, MEMBER_NAMES],
    options: &[GROUP],
    examples: &["patronictl version batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    output::echo(&format!("patronictl version {}", patroni_core::COMPATIBLE_VERSION));
    let Some(scope) = matches.text("cluster_name") else { return Ok(()) };
    output::echo("");
    let cluster = context.open(scope, matches.integer("group"))?.load().await?;
    let names = matches.many("member_names");
    selection::warn_of_strangers(names, &cluster);
    for member in cluster.members.values().filter(|member| member.data.api_url.is_some()) {
        let name = member.name.as_str();
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let answer = context.request(member, Method::GET, None, None, SHORT).await;
        let status = answer.map_err(|e| e.to_string()).and_then(|answer| {
            serde_json::from_str::<Value>(&answer.body).map_err(|e| format!("the answer is not JSON: {e}"))
        });
        match status {
            Ok(status) => output::echo(&line(name, &status)),
            Err(error) => output::echo(&format!("{name}: failed to get version: {error}")),
        }
    }
    Ok(())
}

fn line(name: &str, status: &Value) -> String {
    let patroni = status.pointer("/patroni/version").and_then(Value::as_str).unwrap_or("None");
    let postgresql = status.get("server_version").and_then(Value::as_u64).filter(|number| *number > 0);
    let postgresql = postgresql.map(|number| format!(" PostgreSQL {}", version_text(number))).unwrap_or_default();
    format!("{name}: Patroni {patroni}{postgresql}")
}

/// 90624 is 9.6.24, 140008 is 14.8.
fn version_text(number: u64) -> String {
    if number < 100_000 {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    } else {
        format!("{}.{}", number / 10_000, number % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions() {
        let rows = [
            (json!({"patroni": {"version": "4.1.5"}, "server_version": 150018}), "a: Patroni 4.1.5 PostgreSQL 15.18"),
            (json!({"patroni": {"version": "1.0"}, "server_version": 90624}), "a: Patroni 1.0 PostgreSQL 9.6.24"),
            (json!({}), "a: Patroni None"),
        ];
        for (status, expected) in rows {
            assert_eq!(line("a", &status), expected);
        }
    }
}
