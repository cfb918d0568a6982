//! `patronictl query`: SQL on a member.

use std::io::Read;

use patroni_core::cluster::{Address, Cluster};
use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, Kind, Opt, ROLES, WATCH, WATCH_TWO};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::{CtlError, failed};
use crate::output::rows::{Format, Rows};
use crate::selection::{self, RoleFilter};
use crate::sql::{self, Login};
use crate::watching::{self, Watch};
use crate::{output, prompt, python_value};

pub(crate) const COMMAND: Command = Command {
    name: "query",
    help: "Query a Patroni PostgreSQL member",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt { names: &["--format"], key: "format", kind: Kind::Text, help: "Output format (pretty, tsv, json, yaml)" },
        Opt {
            names: &["--file", "-f"],
            key: "file",
            kind: Kind::File,
            help: "Execute the SQL commands from this file",
        },
        Opt { names: &["--password"], key: "password", kind: Kind::Flag, help: "force password prompt" },
        Opt { names: &["-U", "--username"], key: "username", kind: Kind::Text, help: "database user name" },
        WATCH_TWO,
        WATCH,
        Opt { names: &["--role", "-r"], key: "role", kind: ROLES, help: "The role of the query" },
        Opt { names: &["--member", "-m"], key: "member", kind: Kind::Text, help: "Query a specific member" },
        Opt { names: &["--delimiter"], key: "delimiter", kind: Kind::Text, help: "The column delimiter" },
        Opt { names: &["--command", "-c"], key: "command", kind: Kind::Text, help: "The SQL commands to execute" },
        Opt { names: &["-d", "--dbname"], key: "dbname", kind: Kind::Text, help: "database name to connect to" },
    ],
    examples: &["patronictl query batman -U postgres -d postgres -r replica -c 'SELECT pg_is_in_recovery()'"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let sql = statements(matches)?;
    let format = Format::parse(matches.text("format").unwrap_or("tsv"))?;
    let text = |key| matches.text(key).filter(|value| !value.is_empty()).map(str::to_owned);
    let password = if matches.flag("password") { Some(prompt::password().await?) } else { None };
    let options = sql::options_of_environment();
    let login = Login { user: text("username"), password, dbname: text("dbname"), options };
    let role = matches.text("role").map(str::parse).transpose()?;
    let target = Target { role, role_text: matches.text("role"), member: matches.text("member"), login };
    let cluster = context.open_given(matches)?.load().await?;
    selection::warn_of_strangers(target.member.as_slice(), &cluster);
    let delimiter = matches.text("delimiter").unwrap_or("\t");
    let mut watch = Watch::new(watching::period(matches));
    loop {
        let rows = target.query(&cluster, &sql).await?;
        output::write(&rows.render(format, delimiter));
        if !watch.next().await {
            return Ok(());
        }
    }
}

fn statements(matches: &Matches) -> Result<String, CtlError> {
    match (matches.text("file"), matches.text("command")) {
        (Some(_), Some(_)) => failed("--file and --command are mutually exclusive options"),
        (None, None) => failed("You need to specify either --command or --file"),
        (None, Some(command)) => Ok(command.to_owned()),
        (Some(file), None) => {
            let mut bytes = Vec::new();
            let read = match file {
                "-" => std::io::stdin().read_to_end(&mut bytes).map(|_| ()),
                path => std::fs::read(path).map(|content| bytes = content),
            };
            read.or_else(|error| failed(format!("cannot read {file}: {error}")))?;
            String::from_utf8(bytes).or_else(|_| failed(format!("{file} is not UTF-8")))
        }
    }
}

/// Which member is asked, and as whom.
struct Target<'a> {
    role: Option<RoleFilter>,
    role_text: Option<&'a str>,
    member: Option<&'a str>,
    login: Login,
}

impl Target<'_> {
    /// The rows; errors are rows too, so that a watch goes on.
    async fn query(&self, cluster: &Cluster, sql: &str) -> Result<Rows, CtlError> {
        let member = selection::one(cluster, self.role, self.member)?;
        let Some(address) = member.and_then(|member| Address::of(&member.data)) else {
            return Ok(message(&self.unavailable()));
        };
        let client = match sql::connect(&address, &self.login).await {
            Ok(client) => client,
            Err(reason) => return Ok(message(&format!("ERROR, SQLSTATE: {}", reason.replace('\n', " ")))),
        };
        match self.execute(&client, sql).await {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => Ok(message(&self.unavailable())),
            Err(error) => {
                let state = error.code().map_or_else(|| no_state(&error), |code| code.code().to_owned());
                Ok(message(&format!("ERROR, SQLSTATE: {}", state.replace('\n', " "))))
            }
        }
    }

    /// `None` if the server does not have the role that the store says.
    async fn execute(&self, client: &Client, sql: &str) -> Result<Option<Rows>, tokio_postgres::Error> {
        let wants_recovery = match self.role {
            None | Some(RoleFilter::Any | RoleFilter::Leader) => None,
            Some(RoleFilter::Primary) => Some(false),
            Some(RoleFilter::Replica | RoleFilter::Standby | RoleFilter::StandbyLeader) => Some(true),
        };
        if let Some(wanted) = wants_recovery {
            let row = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
            if row.get::<_, bool>(0) != wanted {
                return Ok(None);
            }
        }
        // The types of the columns are told only for a prepared statement; several statements have none.
        let types: Vec<Type> = match client.prepare(sql).await {
            Ok(statement) => statement.columns().iter().map(|column| column.type_().clone()).collect(),
            Err(_) => Vec::new(),
        };
        if says_nothing(sql) {
            return Ok(Some(message(
                "ERROR, SQLSTATE: the last operation didn't produce records (result status: EMPTY_QUERY)",
            )));
        }
        Ok(Some(first_result(&client.simple_query(sql).await?, &types)))
    }

    fn unavailable(&self) -> String {
        match (self.member, self.role_text) {
            (Some(member), _) => format!("No connection to member {member} is available"),
            (None, Some(role)) => format!("No connection to role '{role}' is available"),
            (None, None) => "No connection is available".to_owned(),
        }
    }
}

/// What is wrong where PostgreSQL reports no error. Its answer to `COPY` from or to the client is one that a query
/// does not expect.
fn no_state(error: &tokio_postgres::Error) -> String {
    match sql::describe(error).as_str() {
        "unexpected message from server" => "COPY cannot be used with this method; use copy() instead".to_owned(),
        other => other.to_owned(),
    }
}

/// Whether there is no statement, only blanks, semicolons and comments.
fn says_nothing(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_ascii_whitespace());
        rest = if rest.starts_with("--") {
            rest.split_once(['\n', '\r']).map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            after_comment(comment)
        } else {
            return rest.is_empty();
        };
    }
}

/// What follows a comment whose `/*` was read; comments are nested.
fn after_comment(mut rest: &str) -> &str {
    let mut depth = 1;
    while depth > 0 && !rest.is_empty() {
        let mut characters = rest.chars();
        rest = match rest.get(..2) {
            Some(mark @ ("/*" | "*/")) => {
                depth += if mark == "/*" { 1 } else { -1 };
                &rest[2..]
            }
            Some(_) | None => {
                characters.next();
                characters.as_str()
            }
        };
    }
    rest
}

/// The rows of the first statement.
fn first_result(messages: &[SimpleQueryMessage], types: &[Type]) -> Rows {
    let mut rows = Rows::default();
    for part in messages {
        match part {
            SimpleQueryMessage::RowDescription(columns) => {
                rows.columns = Some(columns.iter().map(|column| column.name().to_owned()).collect());
            }
            SimpleQueryMessage::Row(row) => {
                let value = |index| python_value::of_text(row.get(index), types.get(index));
                rows.rows.push((0..row.len()).map(value).collect());
            }
            SimpleQueryMessage::CommandComplete(_) if rows.columns.is_some() => return rows,
            SimpleQueryMessage::CommandComplete(_) => {
                return message("ERROR, SQLSTATE: the last operation didn't produce records");
            }
            _ => {}
        }
    }
    rows
}

fn message(text: &str) -> Rows {
    let row = vec![Value::from(output::timestamp_seconds()), Value::from(text)];
    Rows { rows: vec![row], ..Rows::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_statement() {
        for sql in ["", " \n", ";", "-- hi", "--a\n;;--b", "/* a /* ü */ b */ ;", "/**/"] {
            assert!(says_nothing(sql), "{sql}");
        }
        for sql in ["select", "-- hi\nselect 1", "/* a */ select", "/* /* */ */ /", "; select", "-1", "/ 2"] {
            assert!(!says_nothing(sql), "{sql}");
        }
    }
}
