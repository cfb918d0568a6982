//! Making a new cluster: initdb or the custom method, the first start, users, `post_bootstrap`.

use std::path::Path;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::python::PythonText;
use patroni_core::server::{ControlState, Role};
use patroni_core::tags::truthy;
use serde_json::Value;
use tokio::time::sleep;

use crate::cancel::{Cancel, Progress};
use crate::clone::give_password;
use crate::conf::{CustomBootstrap, files};
use crate::control::{Control, Mode, StartOptions, Started, StopOptions};
use crate::controldata::peek_state;
use crate::method_commands::bootstrap_words;
use crate::options::{Credentials, ServerOptions};
use crate::programs::{self, Stderr, command_of, describe, split};
use crate::sql::{Connection, Conninfo, DEFAULT_OPTIONS, SqlError, quote_identifier, quote_literal};
use crate::unfinished::{Making, Unfinished, end_leftovers};
use crate::{Error, Result, data_dir};

/// Options of initdb that would break what is done here.
const INITDB_NOT_ALLOWED: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// How long a failed new server may take to stop before it is killed.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// Functions that pg_rewind calls on its source.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Control {
    /// Makes a new cluster in an empty data directory and leaves it running as primary. When it fails, or is cancelled, the server
    /// is stopped and the data directory renamed to `DIR.failed`, so that it can be tried again.
    ///
    /// # Errors
    /// The data directory is not empty (nothing is touched then); a step failed.
    pub async fn bootstrap(&mut self, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let options = self.options();
        self.put_half_a_cluster_aside(&options).await?;
        if !data_dir::is_empty(&options.data_dir).await? {
            let path = options.data_dir.display();
            return Err(Error::Configuration(format!("cannot bootstrap: data directory {path} is not empty")));
        }
        let result = self.make_cluster(&options, cancel, progress).await;
        if result.is_err() {
            self.clean_up_failed_bootstrap().await;
        }
        result
    }

    /// What an agent left that was killed while it made a new cluster.
    async fn put_half_a_cluster_aside(&mut self, options: &ServerOptions) -> Result<()> {
        if Unfinished::left_half(&options.data_dir).await? {
            end_leftovers(&options.programs(), &options.data_dir).await;
            tracing::warn!("the making of data directory {} was interrupted", options.data_dir.display());
            self.move_data_directory().await?;
        }
        Ok(())
    }

    async fn make_cluster(&mut self, options: &ServerOptions, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let custom = custom_method(options);
        match custom {
            Some((config, command)) => self.run_custom_method(options, config, command, cancel, progress).await?,
            None => initdb(options, cancel, progress).await?,
        }
        self.learn_version().await?;
        self.conf().append_pg_hba(&options.bootstrap.pg_hba).await?;
        self.conf().save_configuration_files().await?;
        self.start_new(options, cancel, progress).await?;
        self.make_users_and_call_script(options, cancel, progress).await?;
        if custom.is_some() {
            self.close_after_custom_method(cancel, progress).await?;
        }
        progress.committed("new cluster is ready");
        Ok(())
    }

    async fn start_new(&mut self, options: &ServerOptions, cancel: &Cancel, progress: &Progress) -> Result<()> {
        let start = StartOptions { role: Role::Primary, follow: None, timeout: None, callback: None };
        let mut started = self.start(start, cancel, progress).await?;
        while started == Started::StillStarting {
            cancel.check()?;
            started = self.wait_for_start(options.pg_ctl_timeout, cancel).await?;
        }
        // A custom method may have restored a backup that is still being recovered.
        let postmaster = self.running().await?;
        while peek_state(&options.data_dir).await != Some(ControlState::InProduction) {
            cancel.check()?;
            progress.committed("waiting for end of recovery after bootstrap");
            tokio::select! {
                () = postmaster.exited() => return Err(Error::StartFailed("it ended during recovery after bootstrap".into())),
                () = sleep(Duration::from_millis(50)) => {}
            }
        }
        Ok(())
    }

    async fn make_users_and_call_script(
        &mut self,
        options: &ServerOptions,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<()> {
        progress.committed("running post_bootstrap");
        let connection = options.connect(None, "Patroni heartbeat", DEFAULT_OPTIONS).await?;
        let superuser = &options.superuser;
        if let (Some(name), Some(_)) = (&superuser.username, &superuser.password) {
            create_or_update_role(&connection, name, superuser, &["SUPERUSER"]).await?;
        }
        self.call_post_bootstrap(options, cancel).await?;
        if let Some(name) = &options.replication.username {
            create_or_update_role(&connection, name, &options.replication, &["REPLICATION"]).await?;
        }
        if let Some(name) = options.rewind.username.as_deref().filter(|_| options.rewind != options.superuser) {
            create_or_update_role(&connection, name, &options.rewind, &[]).await?;
            for function in REWIND_FUNCTIONS {
                let role = quote_identifier(name);
                let grant = format!("GRANT EXECUTE ON function pg_catalog.{function} TO {role};");
                query(&connection, &locally(&grant)).await?;
            }
        }
        Ok(())
    }

    async fn call_post_bootstrap(&mut self, options: &ServerOptions, cancel: &Cancel) -> Result<()> {
        let Some(script) = &options.bootstrap.post_bootstrap else { return Ok(()) };
        let conninfo = options.local_superuser();
        let mut words = split(script)?;
        let version = self.conf().version();
        words.push(without_password(&conninfo).dsn(version));
        let mut command = command_of(&words);
        // libpq looks for `localhost` also where it connects to a socket.
        let mut for_password_file = conninfo.clone();
        if conninfo.get("host").is_none() {
            for_password_file.set("host", "localhost");
        }
        give_password(&mut command, options, &for_password_file).await?;
        command.env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
        let output = programs::run(command, None, Stderr::Log, cancel, None).await?;
        if !output.status.success() {
            tracing::error!("post_init script {script} returned non-zero code {}", describe(output.status));
        }
        output.success().map(|_| ())
    }

    async fn run_custom_method(
        &mut self,
        options: &ServerOptions,
        config: &JsonMap,
        command: &str,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<()> {
        tracing::info!("Running custom bootstrap script: {command}");
        let words = bootstrap_words(command, config, &options.scope, &options.data_dir)?;
        progress.commit(cancel, "running custom bootstrap script")?;
        let making = Making::begin(&options.data_dir).await;
        let started = |pid| making.started(pid);
        let script = programs::run_known(command_of(&words), None, Stderr::Log, cancel, &started);
        making.watch(script).await?.success()?;
        files::remove(options.data_dir.join("promote")).await?;
        self.learn_version().await?;
        let custom = CustomBootstrap {
            keep_existing_recovery_conf: config.get("keep_existing_recovery_conf").is_some_and(truthy),
            recovery_conf: config.get("recovery_conf").and_then(Value::as_object).cloned(),
        };
        self.conf().restore_configuration_files().await?;
        if custom.recovery_conf.is_none() && !custom.keep_existing_recovery_conf {
            self.conf().remove_recovery().await?;
        }
        self.custom_bootstrap = true;
        self.conf().set_custom_bootstrap(Some(custom)).await
    }

    /// The superuser's password is set now: access is as configured again.
    async fn close_after_custom_method(&mut self, cancel: &Cancel, progress: &Progress) -> Result<()> {
        self.custom_bootstrap = false;
        self.conf().set_custom_bootstrap(None).await?;
        if !self.conf().write_pg_hba().await? {
            let path = self.conf().config_dir().join("pg_hba.conf");
            files::remove(path).await?;
            self.conf().restore_configuration_files().await?;
        }
        self.conf().remove_recovery().await?;
        // Where hba_file is elsewhere, only a restart brings it back.
        self.restart(None, None, cancel, progress).await.map(|_| ())
    }

    async fn clean_up_failed_bootstrap(&mut self) {
        self.custom_bootstrap = false;
        if let Err(error) = self.conf().set_custom_bootstrap(None).await {
            tracing::error!("cannot end the custom bootstrap: {error}");
        }
        let stop = StopOptions {
            mode: Mode::Immediate,
            checkpoint: false,
            report_shutdown: false,
            timeout: Some(CLEAN_UP_LIMIT),
            callback: false,
        };
        if let Err(error) = self.stop(stop, &Cancel::new(), &Progress::ignored()).await {
            tracing::error!("cannot stop PostgreSQL after the failed bootstrap: {error}");
        }
        match self.move_data_directory().await {
            Ok(()) => Unfinished::clear(&self.options().data_dir).await,
            Err(error) => tracing::error!("cannot move the data directory of the failed bootstrap away: {error}"),
        }
    }
}

fn custom_method(options: &ServerOptions) -> Option<(&JsonMap, &str)> {
    let name = options.bootstrap.method.as_deref().filter(|m| *m != "initdb")?;
    let config = options.bootstrap.methods.get(name)?;
    Some((config, config.get("command")?.as_str()?))
}

async fn initdb(options: &ServerOptions, cancel: &Cancel, progress: &Progress) -> Result<()> {
    let mut command = options.programs().command("initdb");
    let (arguments, problems) = user_options("initdb", &options.bootstrap.initdb, &INITDB_NOT_ALLOWED);
    if let Some(problem) = problems.into_iter().next() {
        return Err(Error::Configuration(format!("bootstrap.initdb: {problem}")));
    }
    check_wal_directory(&arguments).await?;
    command.args(arguments);
    if let Some(name) = &options.superuser.username {
        command.arg(format!("--username={name}"));
    }
    // Through a pipe: a file would stay if the agent was killed.
    let password = options.superuser.password.as_deref();
    if password.is_some() {
        command.arg("--pwfile=/dev/stdin");
    }
    command.arg(&options.data_dir);
    progress.commit(cancel, "running initdb")?;
    let making = Making::begin(&options.data_dir).await;
    let started = |pid| making.started(pid);
    let output = making.watch(programs::run_known(command, password, Stderr::Log, cancel, &started)).await?;
    for line in output.stdout.lines().filter(|l| !l.trim().is_empty()) {
        tracing::info!("{line}");
    }
    output.success().map(|_| ())
}

/// What lies in a directory for WAL keeps initdb and pg_basebackup from working. It may belong to a server that lives: nothing is removed there.
///
/// # Errors
/// `--waldir` names a directory that is not empty.
pub(crate) async fn check_wal_directory(arguments: &[String]) -> Result<()> {
    let Some(directory) = arguments.iter().find_map(|argument| argument.strip_prefix("--waldir=")) else {
        return Ok(());
    };
    if data_dir::is_empty(Path::new(directory)).await? {
        return Ok(());
    }
    Err(Error::Configuration(format!(
        "the directory for WAL, {directory} (waldir), is not empty, and there is no data directory that it belongs to. If no other server \
         uses it, move it away: mv {directory} {directory}.old"
    )))
}

/// Options as the user wrote them, a map or a list of names and single pairs, in the long form of the command line; and what is
/// wrong with the others.
pub(crate) fn user_options(tool: &str, options: &Value, not_allowed: &[&str]) -> (Vec<String>, Vec<String>) {
    let (mut arguments, mut problems) = (Vec::new(), Vec::new());
    let mut add = |name: &str, argument: String| {
        if not_allowed.contains(&name) {
            problems.push(format!("{name} option for {tool} is not allowed"));
        } else {
            arguments.push(argument);
        }
    };
    let pair = |key: &str, value: &str| format!("--{key}={}", unquote(value));
    let mut wrong = Vec::new();
    match options {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map.iter().filter(|(k, v)| !k.is_empty() && truthy(v)) {
                add(key, pair(key, &value.python_text()));
            }
        }
        Value::Array(list) => {
            for option in list {
                match option {
                    Value::String(name) => add(name, format!("--{name}")),
                    Value::Object(map) => match map.iter().next() {
                        Some((key, Value::String(value))) if map.len() == 1 => add(key, pair(key, value)),
                        Some(_) | None => wrong.push(format!(
                            "Error when parsing {tool} key-value option {option}: only one key-value is allowed and value \
                             should be a string"
                        )),
                    },
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => wrong.push(format!(
                        "Error when parsing {tool} option {option}: value should be string value or a single key-value pair"
                    )),
                }
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            wrong.push(format!("{tool} options must be list or dict"))
        }
    }
    problems.extend(wrong);
    (arguments, problems)
}

/// The value without the quotes that would be meant for a shell.
fn unquote(value: &str) -> String {
    match shlex::split(value) {
        Some(words) if words.len() == 1 => words.into_iter().next().unwrap_or_default(),
        _ => value.to_owned(),
    }
}

/// Statements that keep a password out of the server's log.
const QUIET: [&str; 5] = [
    "SET log_statement TO none",
    "SET log_min_duration_statement TO -1",
    "SET log_min_error_statement TO 'log'",
    "SET pg_stat_statements.track_utility to 'off'",
    "SET pgaudit.log TO none",
];

async fn create_or_update_role(
    connection: &Connection,
    name: &str,
    credentials: &Credentials,
    options: &[&str],
) -> Result<()> {
    let password = credentials.password.as_deref().filter(|p| !p.is_empty());
    let password = password.map(|p| format!("PASSWORD {}", quote_literal(p))).unwrap_or_default();
    let options = format!("{} LOGIN {password}", options.join(" "));
    let (literal, role) = (quote_literal(name), quote_identifier(name));
    let statement = format!(
        "PERFORM * FROM pg_catalog.pg_authid WHERE rolname = {literal}; \
         IF FOUND THEN ALTER ROLE {role} WITH {options}; ELSE CREATE ROLE {role} WITH {options}; END IF;"
    );
    // One by one: the server decides what it logs of a message before it runs any of it.
    for quiet in QUIET {
        query(connection, quiet).await?;
    }
    let result = query(connection, &locally(&statement)).await;
    for setting in QUIET {
        let name = setting.split_whitespace().nth(1).unwrap_or_default();
        query(connection, &format!("RESET {name}")).await?;
    }
    Ok(result?)
}

/// A block that does not wait for synchronous standbys, which are not there yet.
fn locally(statements: &str) -> String {
    let mut tag = "$patroni$".to_owned();
    while statements.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("DO {tag} BEGIN SET LOCAL synchronous_commit = 'local'; {statements} END; {tag}")
}

async fn query(connection: &Connection, sql: &str) -> std::result::Result<(), SqlError> {
    connection.query_within(sql, Duration::from_secs(10)).await.map(|_| ())
}

/// The same connection for somebody who gets the password elsewhere.
pub(crate) fn without_password(conninfo: &Conninfo) -> Conninfo {
    let mut conninfo = conninfo.clone();
    conninfo.remove("password");
    conninfo
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn options_of_users_become_arguments() {
        let rows = [
            (r#"{"foo": "bar"}"#, vec!["--foo=bar"]),
            (r#"["yes"]"#, vec!["--yes"]),
            (r#"["yes", {"foo": "bar baz"}]"#, vec!["--yes", "--foo=bar baz"]),
            (r#"[{"foo": "\"bar baz\""}]"#, vec!["--foo=bar baz"]),
            ("null", vec![]),
        ];
        for (json, arguments) in rows {
            let options = serde_json::from_str(json).expect("JSON");
            assert_eq!(
                user_options("initdb", &options, &[]),
                (arguments.iter().map(|a| a.to_string()).collect(), vec![]),
                "{json}"
            );
        }
    }

    #[test]
    fn options_that_would_break_things_are_refused() {
        for json in
            [r#"["version"]"#, r#"{"pgdata": "x"}"#, r#"[{"a": 1}]"#, r#"[{"a": "b", "c": "d"}]"#, "[1]", "true"]
        {
            let options = serde_json::from_str(json).expect("JSON");
            let (arguments, problems) = user_options("initdb", &options, &INITDB_NOT_ALLOWED);
            assert!(arguments.is_empty() && problems.len() == 1, "{json}: {arguments:?} {problems:?}");
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "blocks")]
    async fn wal_of_others_is_told_of() {
        let parent = tempfile::tempdir().expect("a directory");
        let shown = parent.path().display().to_string();
        async fn check(directory: &str) -> Result<()> {
            check_wal_directory(&["--no-sync".into(), format!("--waldir={directory}")]).await
        }
        assert!(check_wal_directory(&["--no-sync".into()]).await.is_ok());
        assert!(check(&shown).await.is_ok() && check(&format!("{shown}/absent")).await.is_ok());
        std::fs::write(parent.path().join("000000010000000000000001"), "").expect("a file");
        let error = check(&shown).await.expect_err("it is not empty").to_string();
        assert!(error.contains(&format!("mv {shown} {shown}.old")), "{error}");
    }

    #[test]
    fn a_password_cannot_end_the_block() {
        let sql = locally("ALTER ROLE x PASSWORD '$patroni$; DROP'");
        assert!(sql.starts_with("DO $_patroni$"), "{sql}");
    }
}
