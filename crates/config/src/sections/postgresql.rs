//! `postgresql`: the local server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::tags::truthy;
use serde_json::Value;

use super::bootstrap::{ToolOption, tool_options};
use crate::secret::Secret;
use crate::section::Section;

/// `postgresql`
#[derive(Clone, Debug, PartialEq)]
pub struct Postgresql {
    /// `listen`: hosts separated by commas, and the port.
    pub listen: String,
    /// `connect_address`
    pub connect_address: Option<String>,
    /// `proxy_address`
    pub proxy_address: Option<String>,
    /// `data_dir`
    pub data_dir: PathBuf,
    /// `config_dir`, else the data directory.
    pub config_dir: PathBuf,
    /// `config_base_name`: the name of the main configuration file without `.conf`.
    pub config_base_name: String,
    /// `bin_dir`; without it programs are looked for in PATH.
    pub bin_dir: Option<PathBuf>,
    /// `bin_name`: other names for programs.
    pub bin_name: BTreeMap<String, String>,
    /// `pgpass`; the file with passwords for replication.
    pub pgpass: Option<PathBuf>,
    /// `custom_conf`: a file that is included instead of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,
    /// `database` to connect to.
    pub database: String,
    /// `krbsrvname`
    pub krbsrvname: Option<String>,
    /// `parameters`: of the store and of the local files, those of the command line included.
    pub parameters: JsonMap,
    /// `pg_hba`; `None` if the file is not managed.
    pub pg_hba: Option<Vec<String>>,
    /// `pg_ident`; `None` if the file is not managed.
    pub pg_ident: Option<Vec<String>>,
    /// `authentication`
    pub authentication: Authentication,
    /// `recovery_conf`
    pub recovery_conf: JsonMap,
    /// `basebackup`: options of pg_basebackup.
    pub basebackup: Vec<ToolOption>,
    /// `create_replica_methods`, also `create_replica_method`, as written; empty means pg_basebackup.
    pub create_replica_methods: Vec<String>,
    /// `callbacks`: commands by the name of the event.
    pub callbacks: BTreeMap<String, String>,
    /// `use_unix_socket`
    pub use_unix_socket: bool,
    /// `use_unix_socket_repl`
    pub use_unix_socket_repl: bool,
    /// `use_pg_rewind`
    pub use_pg_rewind: bool,
    /// `remove_data_directory_on_rewind_failure`
    pub remove_data_directory_on_rewind_failure: bool,
    /// `remove_data_directory_on_missing_wal` (not in Patroni)
    pub remove_data_directory_on_missing_wal: bool,
    /// `remove_data_directory_on_diverged_timelines`
    pub remove_data_directory_on_diverged_timelines: bool,
    /// `pg_ctl_timeout`
    pub pg_ctl_timeout: Duration,
    /// `before_stop`: a command run before PostgreSQL is stopped.
    pub before_stop: Option<String>,
    /// `pre_promote`: a command that can prevent a promotion.
    pub pre_promote: Option<String>,
    /// The whole section, for the sections of replica methods.
    raw: Raw,
}

/// A section as written; it holds passwords and does not print.
#[derive(Clone, PartialEq)]
struct Raw(JsonMap);

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{...}")
    }
}

/// `postgresql.authentication`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// `superuser`
    pub superuser: UserSettings,
    /// `replication`
    pub replication: UserSettings,
    /// `rewind`; the superuser does it where it is not given.
    pub rewind: Option<UserSettings>,
}

/// A user of PostgreSQL and how it connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<Secret>,
    /// `sslpassword`
    pub sslpassword: Option<Secret>,
    /// The options of libpq: sslmode, sslcert, sslkey, sslrootcert, sslcrl, sslcrldir, gssencmode, channel_binding,
    /// sslnegotiation.
    pub options: BTreeMap<&'static str, String>,
}

const LIBPQ_OPTIONS: &[&str] = &[
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

impl Postgresql {
    pub(crate) fn read(section: &Section<'_>) -> Postgresql {
        let data_dir = section.path("data_dir").unwrap_or_default();
        let flag = |name| section.flag(name).unwrap_or(false);
        Postgresql {
            listen: section.filled("listen").unwrap_or_default(),
            connect_address: section.filled("connect_address"),
            proxy_address: section.filled("proxy_address"),
            config_dir: section.path("config_dir").unwrap_or_else(|| data_dir.clone()),
            data_dir,
            config_base_name: section.filled("config_base_name").unwrap_or_else(|| "postgresql".to_owned()),
            bin_dir: section.path("bin_dir"),
            bin_name: section.text_map("bin_name"),
            pgpass: section.path("pgpass"),
            custom_conf: section.path("custom_conf"),
            database: section.filled("database").unwrap_or_else(|| "postgres".to_owned()),
            krbsrvname: section.filled("krbsrvname"),
            parameters: section.scalars("parameters"),
            pg_hba: lines(section, "pg_hba"),
            pg_ident: lines(section, "pg_ident"),
            authentication: authentication(&section.section("authentication")),
            recovery_conf: section.scalars("recovery_conf"),
            basebackup: tool_options(section, "basebackup"),
            create_replica_methods: methods(section),
            callbacks: section.text_map("callbacks"),
            use_unix_socket: flag("use_unix_socket"),
            use_unix_socket_repl: flag("use_unix_socket_repl"),
            use_pg_rewind: flag("use_pg_rewind"),
            remove_data_directory_on_rewind_failure: flag("remove_data_directory_on_rewind_failure"),
            remove_data_directory_on_missing_wal: flag("remove_data_directory_on_missing_wal"),
            remove_data_directory_on_diverged_timelines: flag("remove_data_directory_on_diverged_timelines"),
            pg_ctl_timeout: Duration::from_secs(section.int("pg_ctl_timeout", None, 0).map_or(60, i64::unsigned_abs)),
            before_stop: section.filled("before_stop"),
            pre_promote: section.filled("pre_promote"),
            raw: Raw(section.map().clone()),
        }
    }

    /// The section of a replica method.
    pub fn method(&self, name: &str) -> Option<&JsonMap> {
        self.raw.0.get(name).and_then(Value::as_object).filter(|map| !map.is_empty())
    }

    /// Can this method make a replica without a leader (`no_leader`)?
    pub fn works_without_leader(&self, method: &str) -> bool {
        method != "basebackup" && self.method(method).and_then(|m| m.get("no_leader")).is_some_and(truthy)
    }
}

fn lines(section: &Section<'_>, name: &str) -> Option<Vec<String>> {
    section.value(name).filter(|value| truthy(value)).map(|_| section.texts(name))
}

fn methods(section: &Section<'_>) -> Vec<String> {
    let methods = section.words("create_replica_methods");
    if methods.is_empty() { section.words("create_replica_method") } else { methods }
}

fn authentication(section: &Section<'_>) -> Authentication {
    Authentication {
        superuser: user(&section.section("superuser")),
        replication: user(&section.section("replication")),
        rewind: section.value("rewind").map(|_| user(&section.section("rewind"))),
    }
}

fn user(section: &Section<'_>) -> UserSettings {
    UserSettings {
        username: section.filled("username"),
        password: section.secret("password"),
        sslpassword: section.secret("sslpassword"),
        options: LIBPQ_OPTIONS.iter().filter_map(|name| Some((*name, section.filled(name)?))).collect(),
    }
}
