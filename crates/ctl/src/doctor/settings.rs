//! Parameters of PostgreSQL that the store holds, and that are not in force on a member.

use patroni_config::precedence::CommandLineParameter;
use patroni_core::JsonMap;
use patroni_core::python::PythonText;
use patroni_core::units::{compare_values, maybe_convert_from_base_unit};
use serde_json::Value;

use super::{Finding, finding};

/// A parameter as the view `pg_settings` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its name.
    pub(crate) name: String,
    /// What a session begins with.
    pub(crate) value: String,
    /// `bool`, `integer`, `enum`, ...
    pub(crate) vartype: String,
    /// The unit of a number; empty where there is none.
    pub(crate) unit: String,
    /// The values of an `enum` that are shown: others mean the same as one of them.
    pub(crate) values: Vec<String>,
    /// Where the value comes from: `default`, `configuration file`, ...
    pub(crate) source: String,
    /// The file, where it is one.
    pub(crate) file: String,
    /// It waits for a restart, which is told elsewhere.
    pub(crate) waits: bool,
}

/// The columns of [`Setting`], in this order.
pub(crate) const SETTINGS: &str = "SELECT name, reset_val, vartype, unit, to_json(enumvals), source, sourcefile, pending_restart FROM \
                                   pg_settings";

/// Seen by superusers only: who sees it sees all.
const SEEN_BY_FEW: &str = "data_directory";

/// The parameters of a member's server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfMember {
    /// The member.
    pub(crate) name: String,
    /// Its parameters; none where it could not be asked.
    pub(crate) settings: Vec<Setting>,
}

/// What is found. `stored`: the dynamic configuration.
pub(crate) fn findings(stored: &JsonMap, members: &[OfMember], scope: &str) -> Vec<Finding> {
    let parameters = stored.get("postgresql").and_then(|section| section.get("parameters")?.as_object());
    let given = parameters.into_iter().flatten().filter(|(name, value)| is_looked_at(name, value));
    given.flat_map(|(name, value)| of_parameter(name, value, members, scope)).collect()
}

fn of_parameter(name: &str, value: &Value, members: &[OfMember], scope: &str) -> Vec<Finding> {
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for member in members {
        match member.settings.iter().find(|setting| setting.name.eq_ignore_ascii_case(name)) {
            Some(setting) => found.extend(not_in_force(setting, value, &member.name)),
            None if member.sees_all() && !name.contains('.') => without.push(member.name.as_str()),
            None => {}
        }
    }
    if !without.is_empty() {
        let of = without.join(", ");
        found.push(finding(
            format!(
                "the parameter {name} is in the store, and PostgreSQL of {of} does not know it: it has no effect there"
            ),
            format!("patronictl edit-config {scope} -p {name}=null, or correct its name"),
        ));
    }
    found
}

impl OfMember {
    fn sees_all(&self) -> bool {
        self.settings.iter().any(|setting| setting.name == SEEN_BY_FEW)
    }
}

/// Those of the command line wait for a restart where they differ, and the last one is Patroni's own.
fn is_looked_at(name: &str, value: &Value) -> bool {
    !value.is_null() && CommandLineParameter::named(name).is_none() && name != "synchronous_standby_names"
}

fn not_in_force(setting: &Setting, stored: &Value, member: &str) -> Option<Finding> {
    let Setting { name, value, vartype, file, .. } = setting;
    let unit = Some(setting.unit.as_str()).filter(|unit| !unit.is_empty());
    let by_system = file.ends_with("postgresql.auto.conf");
    let by_default = setting.source == "default";
    let comparable = match vartype.as_str() {
        "enum" => setting.values.iter().any(|known| known.eq_ignore_ascii_case(&stored.python_text())),
        // PostgreSQL writes many a text anew (`iso` becomes `ISO, MDY`).
        "string" => by_system || by_default,
        _ => true,
    };
    let certain = by_system || by_default || setting.source == "configuration file";
    if setting.waits || !certain || !comparable || compare_values(vartype, unit, value.as_str(), stored) {
        return None;
    }
    let (from, remedy) = if by_system {
        (" by ALTER SYSTEM", format!("on {member}: ALTER SYSTEM RESET {name}, then SELECT pg_reload_conf()"))
    } else if by_default {
        (
            ", the default",
            format!("look into the log of the agent of {member} for {name}: a value that cannot be used is left out"),
        )
    } else {
        (
            "",
            format!(
                "look for {name} in the configuration file of the agent of {member}, which counts more than the store"
            ),
        )
    };
    let shown = maybe_convert_from_base_unit(value, vartype, unit);
    Some(finding(
        format!("{name} is {} in the store, and {} on {member}{from}", quoted(&stored.python_text()), quoted(&shown)),
        remedy,
    ))
}

fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains(' ') { format!("'{text}'") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn setting(name: &str, value: &str, vartype: &str, source: &str, file: &str) -> Setting {
        let text = str::to_owned;
        Setting {
            name: text(name),
            value: text(value),
            vartype: text(vartype),
            source: text(source),
            file: text(file),
            ..Setting::default()
        }
    }

    #[test]
    fn what_the_store_says_and_a_member_does_not_do() {
        let own = "/data/postgresql.conf";
        let system = "/data/postgresql.auto.conf";
        let file = "configuration file";
        let kb = |setting: Setting| Setting { unit: "kB".to_owned(), ..setting };
        let levels = |setting: Setting| Setting { values: vec!["on".to_owned(), "off".to_owned()], ..setting };
        let settings = [
            setting("data_directory", "/data", "string", "override", ""),
            kb(setting("work_mem", "8192", "integer", file, system)),
            kb(setting("maintenance_work_mem", "65536", "integer", "default", "")),
            kb(setting("temp_buffers", "1024", "integer", file, own)),
            Setting { waits: true, ..setting("shared_buffers", "1", "integer", file, own) },
            setting("DateStyle", "ISO, MDY", "string", file, own),
            setting("log_line_prefix", "%m ", "string", file, system),
            levels(setting("synchronous_commit", "off", "enum", file, own)),
            levels(setting("archive_mode", "on", "enum", file, own)),
            setting("jit", "on", "bool", "user", ""),
        ];
        let stored = json!({"postgresql": {"parameters": {
            "work_mem": "4MB", "maintenance_work_mem": "1 apple", "temp_buffers": "1MB", "shared_buffers": 2, "datestyle": "iso",
            "log_line_prefix": "%t ", "synchronous_commit": "on", "archive_mode": true, "jit": "off", "wrok_mem": "4MB",
            "my.own": 1, "max_connections": 5, "log_statement": null,
        }}});
        let stored = stored.as_object().expect("an object");
        let of = |name: &str, settings: &[Setting]| OfMember { name: name.to_owned(), settings: settings.to_vec() };
        let texts = |found: Vec<Finding>| found.into_iter().map(|one| one.what).collect::<Vec<String>>();
        let found = texts(findings(stored, &[of("a", &settings)], "batman"));
        assert_eq!(
            found,
            [
                "work_mem is 4MB in the store, and 8MB on a by ALTER SYSTEM",
                "maintenance_work_mem is '1 apple' in the store, and 64MB on a, the default",
                "log_line_prefix is '%t ' in the store, and '%m ' on a by ALTER SYSTEM",
                "synchronous_commit is on in the store, and off on a",
                "the parameter wrok_mem is in the store, and PostgreSQL of a does not know it: it has no effect there",
            ]
        );
        assert_eq!(findings(stored, &[of("a", &settings[9..])], "batman"), [], "who does not see all does not know");
        // Another member has a value of its own for one parameter, and of the leader nothing is known.
        let other = [settings[0].clone(), setting("jit", "on", "bool", file, system)];
        let only = json!({"postgresql": {"parameters": {"jit": "off", "wrok_mem": "4MB"}}});
        let only = only.as_object().expect("an object");
        assert_eq!(
            texts(findings(only, &[of("a", &[]), of("b", &other), of("c", &settings)], "batman")),
            [
                "jit is off in the store, and on on b by ALTER SYSTEM",
                "the parameter wrok_mem is in the store, and PostgreSQL of b, c does not know it: it has no effect there",
            ]
        );
    }
}
