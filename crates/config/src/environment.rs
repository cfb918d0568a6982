//! The `PATRONI_*` variables: one table for those with a fixed name, one for those that begin with the name of a store.

use std::collections::BTreeMap;

use patroni_core::JsonMap;
use patroni_core::units::{parse_bool, parse_int};
use serde_json::Value;

use crate::origin::{Origin, Origins};
use crate::stores::STORES;
use crate::warning::Warning;
use crate::yaml;

/// The prefix of all variables.
pub const PREFIX: &str = "PATRONI_";
/// The variable that holds a whole configuration, used where there is no file.
pub const CONFIGURATION: &str = "PATRONI_CONFIGURATION";

/// The variables of the process, read once at start.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    /// Names only: the values may be passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Environment(variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect())
    }
}

/// What the variables say.
#[derive(Default)]
pub(crate) struct Layer {
    pub(crate) tree: JsonMap,
    pub(crate) origins: Origins,
    pub(crate) warnings: Vec<Warning>,
}

impl Environment {
    /// The variables of this process; those that are not UTF-8 are not ours and are left out.
    pub fn of_process() -> Environment {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(utf8).collect()
    }

    /// The value of `PATRONI_CONFIGURATION`, if it is not empty.
    pub fn configuration(&self) -> Option<&str> {
        self.0.get(CONFIGURATION).map(String::as_str).filter(|text| !text.is_empty())
    }

    pub(crate) fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        for fixed in FIXED {
            for name in fixed.params {
                let path: Vec<&str> = fixed.path.iter().chain([name]).copied().collect();
                self.read_fixed(&mut layer, &fixed.variable(name), &path, kind_of(fixed.path, name));
            }
        }
        for (variable, value) in &self.0 {
            read_store(&mut layer, variable, value);
        }
        self.store_users(&mut layer);
        layer
    }

    fn read_fixed(&self, layer: &mut Layer, variable: &str, path: &[&str], kind: Kind) {
        let old_name = OLD_NAMES.iter().find(|(new, _)| *new == variable).map(|(_, old)| *old);
        let found = self.0.get_key_value(variable).or_else(|| self.0.get_key_value(old_name?));
        if let Some((variable, text)) = found.filter(|(_, text)| !text.is_empty()) {
            let value = kind.parse(variable, text, &mut layer.warnings).filter(is_given);
            layer.put(path, value, variable);
        }
    }

    /// User and password of a store are read only where another variable names it.
    fn store_users(&self, layer: &mut Layer) {
        for store in STORES.iter().filter(|store| store.has_user).map(|store| store.name) {
            for name in ["username", "password"] {
                let variable = format!("{PREFIX}{}_{}", store.to_uppercase(), name.to_uppercase());
                if layer.tree.contains_key(store) {
                    self.read_fixed(layer, &variable, &[store, name], Kind::Text);
                }
            }
        }
    }
}

/// Empty lists and mappings count as not given.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

impl Layer {
    fn put(&mut self, path: &[&str], value: Option<Value>, variable: &str) {
        let (Some(value), Some((last, parents))) = (value, path.split_last()) else { return };
        let mut map = &mut self.tree;
        for parent in parents {
            let entry = map.entry(*parent).or_insert_with(|| Value::Object(JsonMap::new()));
            let Value::Object(inner) = entry else { return };
            map = inner;
        }
        map.insert((*last).to_owned(), value);
        self.origins.set(&path.join("."), Origin::Environment(variable.to_owned()));
    }
}

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Int,
    List,
    Map,
    /// `log.format`: a text if it looks like Python's format, else a list.
    LogFormat,
}

impl Kind {
    fn parse(self, variable: &str, text: &str, warnings: &mut Vec<Warning>) -> Option<Value> {
        match self {
            Kind::Text => Some(text.into()),
            Kind::Bool => parse_bool(text).map(Value::Bool),
            Kind::Int => parse_int(text, None).map(Value::from),
            Kind::List => list(variable, text, warnings),
            Kind::Map => map(variable, text, warnings),
            Kind::LogFormat if has_python_field(text) => Some(text.into()),
            Kind::LogFormat => list(variable, text, warnings).or_else(|| Some(text.into())),
        }
    }
}

/// `%(name)`
fn has_python_field(text: &str) -> bool {
    text.match_indices("%(").any(|(at, _)| {
        let rest = &text[at + 2..];
        let name = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        name > 0 && rest[name..].starts_with(')')
    })
}

fn list(variable: &str, text: &str, warnings: &mut Vec<Warning>) -> Option<Value> {
    let is_yaml = text.trim().starts_with('-') || text.contains('[');
    let yaml = if is_yaml { text.to_owned() } else { format!("[{text}]") };
    parsed("list", variable, text, &yaml, warnings)
}

fn map(variable: &str, text: &str, warnings: &mut Vec<Warning>) -> Option<Value> {
    let yaml = if text.trim().starts_with('{') { text.to_owned() } else { format!("{{{text}}}") };
    parsed("dict", variable, text, &yaml, warnings)
}

fn parsed(what: &'static str, variable: &str, _text: &str, yaml: &str, warnings: &mut Vec<Warning>) -> Option<Value> {
    match yaml::parse(yaml) {
        Ok(node) => Some(node.to_json()),
        Err(error) => {
            warnings.push(Warning::Environment { variable: variable.to_owned(), what, error: error.text });
            None
        }
    }
}

/// Variables with a fixed name: `PATRONI_` + `prefix` + the name of the setting in upper case.
struct Fixed {
    prefix: &'static str,
    path: &'static [&'static str],
    params: &'static [&'static str],
}

impl Fixed {
    fn variable(&self, param: &str) -> String {
        format!("{PREFIX}{}{}", self.prefix, param.to_uppercase())
    }
}

const CREDENTIALS: &[&str] = &["username", "password"];

/// The settings of a user of PostgreSQL that can be given.
pub(crate) const AUTHENTICATION: &[&str] = &[
    "username",
    "password",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

const FIXED: &[Fixed] = &[
    Fixed { prefix: "", path: &[], params: &["name", "namespace", "scope", "thread_pool_size", "thread_stack_size"] },
    Fixed {
        prefix: "RESTAPI_",
        path: &["restapi"],
        params: &[
            "listen",
            "connect_address",
            "certfile",
            "keyfile",
            "keyfile_password",
            "cafile",
            "ciphers",
            "verify_client",
            "http_extra_headers",
            "https_extra_headers",
            "allowlist",
            "allowlist_include_members",
            "request_queue_size",
            "server_tokens",
            "compatibility",
        ],
    },
    Fixed {
        prefix: "CTL_",
        path: &["ctl"],
        params: &["insecure", "cacert", "certfile", "keyfile", "keyfile_password"],
    },
    Fixed {
        prefix: "POSTGRESQL_",
        path: &["postgresql"],
        params: &["listen", "connect_address", "proxy_address", "config_dir", "data_dir", "pgpass", "bin_dir"],
    },
    Fixed {
        prefix: "LOG_",
        path: &["log"],
        params: &[
            "type",
            "level",
            "traceback_level",
            "format",
            "dateformat",
            "static_fields",
            "max_queue_size",
            "dir",
            "mode",
            "file_size",
            "file_num",
            "loggers",
            "deduplicate_heartbeat_logs",
        ],
    },
    Fixed {
        prefix: "RAFT_",
        path: &["raft"],
        params: &[
            "data_dir",
            "self_addr",
            "partner_addrs",
            "password",
            "bind_addr",
            "cacert",
            "cert",
            "key",
            "key_password",
        ],
    },
    Fixed {
        prefix: "POSTGRESQL_BIN_",
        path: &["postgresql", "bin_name"],
        params: &["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"],
    },
    Fixed { prefix: "CTL_", path: &["ctl", "authentication"], params: CREDENTIALS },
    Fixed { prefix: "RESTAPI_", path: &["restapi", "authentication"], params: CREDENTIALS },
    Fixed { prefix: "REPLICATION_", path: &["postgresql", "authentication", "replication"], params: AUTHENTICATION },
    Fixed { prefix: "SUPERUSER_", path: &["postgresql", "authentication", "superuser"], params: AUTHENTICATION },
    Fixed { prefix: "REWIND_", path: &["postgresql", "authentication", "rewind"], params: AUTHENTICATION },
];

/// Variables that had another name once. The new one wins.
const OLD_NAMES: &[(&str, &str)] = &[
    ("PATRONI_LOG_LEVEL", "PATRONI_LOGLEVEL"),
    ("PATRONI_LOG_FORMAT", "PATRONI_LOGFORMAT"),
    ("PATRONI_LOG_DATEFORMAT", "PATRONI_LOG_DATEFMT"),
];

fn kind_of(path: &[&str], param: &str) -> Kind {
    match (path, param) {
        (["restapi"], "allowlist_include_members")
        | (["ctl"], "insecure")
        | (["log"], "deduplicate_heartbeat_logs") => Kind::Bool,
        (["restapi"], "request_queue_size") | (["log"], "max_queue_size" | "file_size" | "file_num" | "mode") => {
            Kind::Int
        }
        (["raft"], "partner_addrs") | (["restapi"], "allowlist") => Kind::List,
        (["restapi"], "http_extra_headers" | "https_extra_headers") | (["log"], "static_fields" | "loggers") => {
            Kind::Map
        }
        (["log"], "format") => Kind::LogFormat,
        _ => Kind::Text,
    }
}

/// What may follow `PATRONI_` + the name of a store + `_`.
const STORE: &[(Kind, &[&str])] = &[
    (
        Kind::Text,
        &[
            "HOST",
            "PROTOCOL",
            "SRV",
            "SRV_SUFFIX",
            "URL",
            "PROXY",
            "CACERT",
            "CERT",
            "KEY",
            "TOKEN",
            "DC",
            "CONSISTENCY",
            "SERVICE_CHECK_INTERVAL",
            "SERVICE_CHECK_TLS_SERVER_NAME",
            "NAMESPACE",
            "CONTEXT",
            "SCOPE_LABEL",
            "ROLE_LABEL",
            "POD_IP",
            "KEY_PASSWORD",
            "USE_SSL",
            "GROUP",
            "DATABASE",
            "LEADER_LABEL_VALUE",
            "FOLLOWER_LABEL_VALUE",
            "STANDBY_LEADER_LABEL_VALUE",
            "TMP_ROLE_LABEL",
        ],
    ),
    (Kind::Int, &["PORT"]),
    (Kind::List, &["HOSTS", "PORTS", "CHECKS", "SERVICE_TAGS", "RETRIABLE_HTTP_CODES"]),
    (Kind::Map, &["LABELS", "SET_ACLS", "AUTH_DATA", "BOOTSTRAP_LABELS"]),
    (Kind::Bool, &["USE_PROXIES", "REGISTER_SERVICE", "USE_ENDPOINTS", "BYPASS_API_SERVICE", "VERIFY"]),
];

fn read_store(layer: &mut Layer, variable: &str, text: &str) {
    let Some((name, suffix)) = variable.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else { return };
    let Some((kind, _)) = STORE.iter().find(|(_, suffixes)| suffixes.contains(&suffix)) else { return };
    let is_fixed = FIXED.iter().any(|fixed| fixed.params.iter().any(|param| fixed.variable(param) == variable));
    if name.is_empty() || is_fixed {
        return;
    }
    let value = match (name, suffix, kind) {
        ("CITUS", "GROUP", _) => Kind::Int.parse(variable, text, &mut layer.warnings),
        ("CITUS", "DATABASE", _) => Some(text.into()),
        ("CITUS", _, _) => None,
        (_, _, Kind::Int | Kind::List) if text.is_empty() => Some("".into()),
        (_, _, kind) => kind.parse(variable, text, &mut layer.warnings),
    };
    let (section, key) = (name.to_lowercase(), suffix.to_lowercase());
    layer.put(&[&section, &key], value.filter(|v| !v.is_null()), variable);
}
