//! `patroni --validate-config`: all findings about a configuration, in Patroni's words.

mod checks;
pub(crate) mod schema;

use patroni_core::JsonMap;
use patroni_core::cluster::Version;
use patroni_core::python::{PythonText, quoted};
use patroni_core::units::parse_int;
use serde_json::Value;

use crate::config::{Config, Purpose};
use crate::error::ConfigError;
use crate::local::Source;
use crate::stores::{STORES, StoreKind};

/// How to validate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `--ignore-listen-port`: addresses to listen on may be in use.
    pub ignore_listen_port: bool,
    /// What the embedded store has to say against the configuration, asked where it is the one that is used.
    pub embedded: Option<fn(&JsonMap) -> Option<String>>,
}

/// The whole of `--validate-config`: `Ok` is for stdout (the local configuration with `print`, else nothing) and exit
/// code 0; `Err` is for stderr and exit code 1.
pub fn report(source: &Source, options: Options, print: bool) -> Result<String, String> {
    let mut tree = match source.read() {
        Ok(local) => local.tree,
        // Then everything is missing, which is what the findings tell.
        Err(ConfigError::Empty) => JsonMap::new(),
        Err(error) => return Err(error.to_string()),
    };
    let mut findings = validate(&mut tree, options);
    let refused = warnings(source).err().unwrap_or_default();
    // What is missing is among the findings already.
    findings.extend(refused.into_iter().filter(|line| !line.contains(" is not defined")));
    if !findings.is_empty() {
        return Err(findings.join("\n"));
    }
    Ok(if print { crate::yaml::dump(&Value::Object(tree)) } else { String::new() })
}

/// What a start with this configuration would warn of, one line each.
///
/// # Errors
/// It would be refused; one line each.
pub fn warnings(source: &Source) -> Result<Vec<String>, Vec<String>> {
    let lines = |error: ConfigError| error.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    let local = source.read().map_err(lines)?;
    let (config, warnings) = Config::first(local, source.clone(), Purpose::Agent).map_err(lines)?;
    let dcs = config.bootstrap.as_ref().map(|bootstrap| bootstrap.dcs.clone()).unwrap_or_default();
    let of_dcs =
        config.with_dynamic(Version(0), dcs).warnings.into_iter().map(|warning| format!("bootstrap.dcs: {warning}"));
    Ok(warnings.iter().map(ToString::to_string).chain(of_dcs).collect())
}

/// Validates the local configuration and gives one line per finding; none if it is valid. Looks at files, runs
/// `postgres --version` and connects to the addresses named. Defaults are filled in, as `--print` shows them. Blocks:
/// not for the runtime's threads.
pub fn validate(config: &mut JsonMap, options: Options) -> Vec<String> {
    let root = config.clone();
    let validation = Validation { root: &root, options };
    let mut results = Vec::new();
    validation.map(schema::ROOT, &root, &mut results);
    if let Some(Value::Object(postgresql)) = config.get_mut("postgresql") {
        postgresql.entry("bin_dir").or_insert_with(|| "".into());
    }
    let mut lines: Vec<String> = results.iter().filter(|result| result.error.is_some()).map(Finding::line).collect();
    if uses_embedded(&root) && !lines.iter().any(|line| line.starts_with("raft")) {
        lines.extend(options.embedded.and_then(|findings| findings(&root)));
    }
    lines
}

/// It is the default.
fn uses_embedded(config: &JsonMap) -> bool {
    STORES.iter().all(|store| store.kind == StoreKind::Raft || !config.contains_key(store.name))
}

/// What a value has to be.
pub(crate) enum Rule {
    Text,
    Bool,
    Int,
    /// Any mapping.
    Dict,
    /// A number between limits.
    Range(Range),
    /// One of these words; the flag tells whether case matters.
    OneOf(&'static [&'static str], bool),
    /// Something that a function decides, asked only for texts or lists where the type is given.
    Check(Option<Type>, fn(&Validation<'_>, &Value) -> Result<(), String>),
    Map(&'static [Key]),
    List(&'static Rule),
    Or(&'static [Rule]),
    /// The directory with PostgreSQL's programs.
    Programs,
}

/// The limits of a number.
pub(crate) struct Range {
    min: Option<i64>,
    max: Option<i64>,
    unit: Option<&'static str>,
    aligned: Option<i64>,
    /// Texts are refused.
    typed: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Type {
    Text,
    List,
}

/// A key of a mapping, or several that belong together.
pub(crate) enum Key {
    Required(&'static str, Rule),
    Optional(&'static str, Rule),
    /// Absent counts as an empty text.
    OrEmpty(&'static str, Rule),
    /// The sections of stores, any number of them.
    Stores,
    /// At least one.
    AnyOf(&'static [(&'static str, Rule)]),
    AtMostOne(&'static [(&'static str, Rule)]),
}

/// The outcome for one value.
struct Finding {
    path: String,
    data: String,
    error: Option<String>,
    /// Where several rules fail, those of the lowest level are told.
    level: u8,
}

impl Finding {
    fn passed() -> Finding {
        Finding { path: String::new(), data: String::new(), error: None, level: 0 }
    }

    fn failed(error: impl Into<String>) -> Finding {
        Finding { error: Some(error.into()), ..Finding::passed() }
    }

    fn about(self, data: &Value) -> Finding {
        Finding { data: data.python_text().into_owned(), ..self }
    }

    fn below(self, parent: &str) -> Finding {
        let path = if self.path.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.path) };
        Finding { path, ..self }
    }

    fn line(&self) -> String {
        format!("{} {} {}", self.path, self.data, self.error.as_deref().unwrap_or_default())
    }
}

/// What rules may need to know beside the value.
pub(crate) struct Validation<'a> {
    root: &'a JsonMap,
    options: Options,
}

impl Validation<'_> {
    fn rule(&self, rule: &Rule, data: &Value, out: &mut Vec<Finding>) {
        match rule {
            Rule::Text => out.push(of_type(data.is_string(), "is not a string", data)),
            Rule::Bool => out.push(of_type(data.is_boolean(), "is not a boolean", data)),
            Rule::Int => out.push(of_type(is_int(data), "is not an integer", data)),
            Rule::Dict => out.push(of_type(data.is_object(), "is not a dictionary", data)),
            Rule::Range(range) if range.typed && !is_int(data) => out.push(of_type(false, "is not an integer", data)),
            Rule::Range(range) => out.push(checked(if range.holds(data) { Ok(()) } else { wrong_value() }, data)),
            Rule::OneOf(words, exact) => {
                let same = |word: &&str| {
                    data.as_str().is_some_and(|d| if *exact { d == *word } else { d.eq_ignore_ascii_case(word) })
                };
                out.push(checked(if words.iter().any(same) { Ok(()) } else { wrong_value() }, data));
            }
            Rule::Check(Some(Type::Text), _) if !data.is_string() => out.push(of_type(false, "is not a string", data)),
            Rule::Check(Some(Type::List), _) if !data.is_array() => out.push(of_type(false, "is not an array", data)),
            Rule::Check(_, check) => out.push(checked(check(self, data), data)),
            Rule::Map(keys) => match data {
                Value::Object(map) => self.map(keys, map, out),
                _ => out.push(of_type(false, "is not a dictionary", data)),
            },
            Rule::List(item) => match data {
                Value::Array(items) => self.list(item, items, data, out),
                _ => out.push(of_type(false, "is not a list", data)),
            },
            Rule::Or(rules) => self.or(rules, data, out),
            Rule::Programs => {
                if let Value::String(dir) = data {
                    out.extend(checks::programs(self.root, dir).into_iter().map(Finding::failed));
                }
            }
        }
    }

    fn map(&self, keys: &[Key], data: &JsonMap, out: &mut Vec<Finding>) {
        for key in keys {
            match key {
                Key::Required(name, rule) => self.entry(name, rule, data, out),
                Key::Optional(name, rule) if data.contains_key(*name) => self.entry(name, rule, data, out),
                Key::Optional(..) => {}
                Key::OrEmpty(name, rule) => {
                    let mut found = Vec::new();
                    self.rule(rule, data.get(*name).unwrap_or(&"".into()), &mut found);
                    out.extend(found.into_iter().map(|f| f.below(name)));
                }
                Key::Stores => {
                    for store in STORES.iter().filter(|store| data.contains_key(store.name)) {
                        self.entry(store.name, &store.rule, data, out);
                    }
                }
                Key::AnyOf(entries) => {
                    let none = !entries.iter().any(|(name, _)| data.contains_key(*name));
                    for (name, rule) in entries.iter().filter(|(name, _)| none || data.contains_key(*name)) {
                        self.entry(name, rule, data, out);
                    }
                }
                Key::AtMostOne(entries) => self.at_most_one(entries, data, out),
            }
        }
    }

    fn at_most_one(&self, entries: &[(&'static str, Rule)], data: &JsonMap, out: &mut Vec<Finding>) {
        let given: Vec<_> = entries.iter().filter(|(name, _)| data.contains_key(*name)).collect();
        if given.len() > 1 {
            let names: Vec<String> = entries.iter().map(|(name, _)| quoted(name)).collect();
            out.push(Finding::failed(format!("Multiple of ({}) provided", names.join(", "))));
            return;
        }
        for (name, rule) in given {
            self.entry(name, rule, data, out);
        }
    }

    fn entry(&self, name: &str, rule: &Rule, data: &JsonMap, out: &mut Vec<Finding>) {
        let mut found = Vec::new();
        match data.get(name) {
            None => found.push(Finding::failed("is not defined.")),
            Some(value) => self.rule(rule, value, &mut found),
        }
        out.extend(found.into_iter().map(|f| f.below(name)));
    }

    fn list(&self, rule: &Rule, items: &[Value], data: &Value, out: &mut Vec<Finding>) {
        if items.is_empty() {
            out.push(Finding::failed("is an empty list").about(data));
        }
        for (i, item) in items.iter().enumerate() {
            let mut found = Vec::new();
            self.rule(rule, item, &mut found);
            out.extend(found.into_iter().map(|f| f.below(&i.to_string()).about(item)));
        }
    }

    fn or(&self, rules: &[Rule], data: &Value, out: &mut Vec<Finding>) {
        let mut all = Vec::new();
        for rule in rules {
            let mut found = Vec::new();
            self.rule(rule, data, &mut found);
            // A rule that holds for some items only does not hold.
            if found.iter().any(|f| f.error.is_some()) {
                found.retain(|f| f.error.is_some());
            }
            all.extend(found);
        }
        if all.iter().any(|f| f.error.is_none()) {
            return;
        }
        let lowest = all.iter().map(|f| f.level).min().unwrap_or_default();
        out.extend(all.into_iter().filter(|f| f.level == lowest));
    }
}

impl Range {
    fn holds(&self, data: &Value) -> bool {
        parse_int(data, self.unit).is_some_and(|n| {
            self.min.is_none_or(|min| n >= min)
                && self.max.is_none_or(|max| n <= max)
                && self.aligned.is_none_or(|size| n % size == 0)
        })
    }
}

/// Python's booleans are integers.
fn is_int(data: &Value) -> bool {
    data.is_i64() || data.is_u64() || data.is_boolean()
}

fn of_type(right: bool, error: &str, data: &Value) -> Finding {
    if right { Finding::passed() } else { Finding { level: 1, ..Finding::failed(error).about(data) } }
}

fn checked(result: Result<(), String>, data: &Value) -> Finding {
    match result {
        Ok(()) => Finding::passed(),
        Err(error) => Finding::failed(format!("didn't pass validation: {error}")).about(data),
    }
}

fn wrong_value() -> Result<(), String> {
    Err("Wrong value".to_owned())
}
