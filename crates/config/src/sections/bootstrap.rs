//! `bootstrap`: how a new cluster is made.

use patroni_core::JsonMap;
use patroni_core::python::scalar_text;
use serde_json::Value;

use crate::section::Section;

/// `bootstrap`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bootstrap {
    /// `dcs`: the first content of the key `/config`.
    pub dcs: JsonMap,
    /// `initdb`: its options.
    pub initdb: Vec<ToolOption>,
    /// `method`, if it is not `initdb` and has a section.
    pub method: Option<CustomMethod>,
    /// `post_bootstrap`, else `post_init`: a command run after the cluster was made.
    pub post_bootstrap: Option<String>,
    /// `users`, which Patroni 4 no longer creates; kept to warn about them.
    pub users: JsonMap,
    /// `pg_hba`: used where `postgresql.pg_hba` is not given.
    pub pg_hba: Vec<String>,
}

/// An option of a tool such as initdb or pg_basebackup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolOption {
    /// `--name`
    Flag(String),
    /// `--name=value`
    Value(String, String),
}

/// A bootstrap method with its section.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomMethod {
    /// The name of the method.
    pub name: String,
    /// `command`
    pub command: String,
    /// `keep_existing_recovery_conf`
    pub keep_existing_recovery_conf: bool,
    /// `no_params`: the command gets no arguments of ours.
    pub no_params: bool,
    /// `recovery_conf`: settings for the first recovery.
    pub recovery_conf: JsonMap,
    /// The whole section; its other keys become arguments.
    pub section: JsonMap,
}

impl Bootstrap {
    pub(crate) fn read(section: &Section<'_>) -> Bootstrap {
        Bootstrap {
            dcs: section.raw("dcs"),
            initdb: tool_options(section, "initdb"),
            method: method(section),
            post_bootstrap: section.filled("post_bootstrap").or_else(|| section.filled("post_init")),
            users: section.raw("users"),
            pg_hba: section.texts("pg_hba"),
        }
    }
}

fn method(bootstrap: &Section<'_>) -> Option<CustomMethod> {
    let name = bootstrap.filled("method").filter(|name| name != "initdb" && bootstrap.value(name).is_some())?;
    let section = bootstrap.section(&name);
    Some(CustomMethod {
        command: section.text("command").unwrap_or_default(),
        keep_existing_recovery_conf: section.flag("keep_existing_recovery_conf").unwrap_or(false),
        no_params: section.flag("no_params").unwrap_or(false),
        recovery_conf: section.scalars("recovery_conf"),
        section: section.map().clone(),
        name,
    })
}

/// Options given as a list of names and one-key mappings, or as one mapping. A mapping's null is a bare option.
pub(super) fn tool_options(section: &Section<'_>, name: &str) -> Vec<ToolOption> {
    let option = |(option, value): (&String, &Value)| match (value, scalar_text(value)) {
        (Value::Null, _) => Some(ToolOption::Flag(option.clone())),
        (_, Some(text)) => Some(ToolOption::Value(option.clone(), text.into_owned())),
        (_, None) => {
            section.refuse(&format!("{name}.{option}"), value, "a text, a number or nothing");
            None
        }
    };
    match section.value(name) {
        None => Vec::new(),
        Some(Value::Object(map)) => map.iter().filter_map(option).collect(),
        Some(value @ Value::Array(items)) => {
            let mut options = Vec::new();
            for item in items {
                match item {
                    Value::String(name) => options.push(ToolOption::Flag(name.clone())),
                    Value::Object(map) if map.len() == 1 => options.extend(map.iter().filter_map(option)),
                    _ => section.refuse(name, value, "a list of names and one-key mappings"),
                }
            }
            options
        }
        Some(value) => {
            section.refuse(name, value, "a list of names and one-key mappings, or a mapping");
            Vec::new()
        }
    }
}
