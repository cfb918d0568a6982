//! The configuration in force: immutable, replaced as a whole.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use patroni_core::JsonMap;
use patroni_core::cluster::Version;
use patroni_core::name::MemberName;
use patroni_core::settings::{Dynamic, Unusable};
use patroni_core::tags::truthy;
use serde_json::Value;

use crate::error::{ConfigError, WrongValue};
use crate::local::{Local, Source};
use crate::merge;
use crate::origin::{Origin, Origins};
use crate::precedence::{self, contradictory_tags};
use crate::section::{Context, Section};
use crate::sections::{Bootstrap, Ctl, Etcd, LogConfig, Postgresql, RestApi, Watchdog};
use crate::stores::Store;
use crate::warning::Warning;
use crate::{cache, known, settings};

/// All settings of a node, from defaults, store, files and environment.
#[derive(Clone)]
pub struct Config {
    /// `name`; empty for patronictl where it is not set.
    pub name: MemberName,
    /// `scope`; empty for patronictl where it is not set.
    pub scope: String,
    /// `namespace`
    pub namespace: String,
    /// `log`
    pub log: LogConfig,
    /// `restapi`
    pub restapi: RestApi,
    /// `ctl`
    pub ctl: Ctl,
    /// `etcd3`
    pub etcd3: Option<Etcd>,
    /// `bootstrap`, if this node may make a new cluster.
    pub bootstrap: Option<Bootstrap>,
    /// `postgresql`
    pub postgresql: Postgresql,
    /// `tags`, those without meaning left out.
    pub tags: JsonMap,
    /// `watchdog`
    pub watchdog: Watchdog,
    settings: patroni_core::settings::Settings,
    effective: JsonMap,
    /// The store's configuration as it was last accepted (time-outs adjusted).
    dynamic: JsonMap,
    version: Option<Version>,
    local: Arc<Local>,
    source: Arc<Source>,
    purpose: Purpose,
}

/// Who reads the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The agent: needs a name, a scope, addresses and a data directory.
    Agent,
    /// patronictl: needs nothing.
    Ctl,
}

impl fmt::Debug for Config {
    /// Names only: the trees hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Config");
        out.field("scope", &self.scope)
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A new configuration, and what is to be logged about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Arc<Config>,
    /// To log at level WARNING.
    pub warnings: Vec<Warning>,
    /// Is it different from the one before?
    pub changed: bool,
}

impl Config {
    /// Reads the configuration for the first time. For an agent the dynamic configuration comes from its copy in the data
    /// directory until the store was read.
    pub fn load(source: Source, purpose: Purpose) -> Result<Loaded, ConfigError> {
        let local = match source.read() {
            Err(ConfigError::Empty) if purpose == Purpose::Ctl => Local::default(),
            other => other?,
        };
        let (mut config, mut warnings) = Config::first(local, source, purpose)?;
        if purpose == Purpose::Agent {
            match cache::load(&config.postgresql.data_dir) {
                Ok(Some(dynamic)) => config = config.accept(dynamic, None, &mut warnings),
                Ok(None) => {}
                Err((path, error)) => warnings.push(Warning::Cache { path: path.display().to_string(), error }),
            }
        }
        Ok(Loaded { config: Arc::new(config), warnings, changed: true })
    }

    /// The configuration before anything dynamic is known.
    pub(crate) fn first(local: Local, source: Source, purpose: Purpose) -> Result<(Config, Vec<Warning>), ConfigError> {
        let draft = Draft { local: Arc::new(local), source: Arc::new(source), purpose };
        let mut warnings = draft.local.warnings.clone();
        warnings.extend(known::unknown(&draft.local));
        let config = draft.build(JsonMap::new(), None, &mut warnings)?;
        warnings.extend((purpose == Purpose::Agent).then(|| config.doubts()).into_iter().flatten());
        Ok((config, warnings))
    }

    /// The configuration with what the store says now. A value that cannot be used counts as not given.
    pub fn with_dynamic(&self, version: Version, dynamic: JsonMap) -> Loaded {
        let mut warnings = Vec::new();
        let changed = !merge::same(&self.dynamic, &dynamic);
        let config = if changed {
            self.accept(dynamic, Some(version), &mut warnings)
        } else {
            let mut same = self.clone();
            same.version = Some(version);
            same.settings.config_version = Some(version);
            same
        };
        Loaded { config: Arc::new(config), warnings, changed }
    }

    /// Reads files and environment again. On an error the caller keeps the configuration it has.
    pub fn reload(&self) -> Result<Loaded, ConfigError> {
        let local = match self.source.path() {
            Some(_) => self.source.read()?,
            None => Local::clone(&self.local),
        };
        if merge::same(&local.tree, &self.local.tree) {
            return Ok(Loaded { config: Arc::new(self.clone()), warnings: Vec::new(), changed: false });
        }
        let draft = Draft { local: Arc::new(local), source: self.source.clone(), purpose: self.purpose };
        let mut warnings = draft.local.warnings.clone();
        warnings.extend(known::unknown(&draft.local));
        let config = draft.build(self.dynamic.clone(), self.version, &mut warnings)?;
        warnings.extend(config.doubts());
        Ok(Loaded { config: Arc::new(config), warnings, changed: true })
    }

    /// What decisions depend on.
    pub fn settings(&self) -> &patroni_core::settings::Settings {
        &self.settings
    }

    /// The merged tree: `config["ttl"]`, sections of stores, settings that have no type here.
    pub fn effective(&self) -> &JsonMap {
        &self.effective
    }

    /// The dynamic configuration in force.
    pub fn dynamic(&self) -> &JsonMap {
        &self.dynamic
    }

    /// The local configuration: files and environment.
    pub fn local(&self) -> &JsonMap {
        &self.local.tree
    }

    /// Where a setting comes from.
    pub fn origin(&self, path: &str) -> &Origin {
        origin_of(&self.local.origins, &self.local.tree, &self.dynamic, path)
    }

    /// The file or directory the configuration was read from.
    pub fn path(&self) -> Option<&Path> {
        self.source.path()
    }

    /// The store that is configured, with its section.
    pub fn store(&self) -> Option<(&'static str, &JsonMap)> {
        let (store, section) = Store::configured(&self.effective)?;
        Some((store.name, section.as_object()?))
    }

    /// The path of the cluster in the store: `/NAMESPACE/SCOPE`.
    pub fn base_path(&self) -> String {
        let parts = format!("/{}/{}", self.namespace, self.scope);
        let trailing = if parts.ends_with('/') { "/" } else { "" };
        let parts: Vec<&str> = parts.split('/').filter(|part| !part.is_empty()).collect();
        format!("/{}{trailing}", parts.join("/"))
    }

    /// The place of the copy of the dynamic configuration.
    pub fn cache_path(&self) -> PathBuf {
        cache::path(&self.postgresql.data_dir)
    }

    /// What contradicts itself or cannot serve for all that it is needed for, in what this node says of itself.
    fn doubts(&self) -> Vec<Warning> {
        let mut doubts =
            self.effective.get("tags").and_then(Value::as_object).map(contradictory_tags).unwrap_or_default();
        if !self.name.fits_in_a_list() {
            doubts.push(Warning::Name {
                origin: self.local.origins.of("name").clone(),
                name: self.name.as_str().to_owned(),
            });
        }
        doubts
    }

    fn accept(&self, dynamic: JsonMap, version: Option<Version>, warnings: &mut Vec<Warning>) -> Config {
        let draft = Draft { local: self.local.clone(), source: self.source.clone(), purpose: self.purpose };
        draft.build(dynamic, version, warnings).unwrap_or_else(|error| {
            warnings.push(Warning::Dynamic(error.to_string()));
            Config { version, ..self.clone() }
        })
    }
}

/// Everything but the dynamic configuration.
pub(crate) struct Draft {
    pub(crate) local: Arc<Local>,
    pub(crate) source: Arc<Source>,
    pub(crate) purpose: Purpose,
}

impl Draft {
    pub(crate) fn build(
        self,
        mut dynamic: JsonMap,
        version: Option<Version>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Config, ConfigError> {
        let reading = Dynamic::read(&dynamic);
        reading.timing.write_back(&mut dynamic);
        warnings.extend(reading.adjusted.into_iter().map(Warning::Adjusted));
        let wrong = |what| Warning::Value(WrongValue { origin: Origin::Dynamic, what });
        let mut of_store: Vec<Warning> = reading.unusable.into_iter().map(wrong).collect();
        let effective =
            precedence::effective(&dynamic, reading.timing, &self.local.tree, &mut of_store).map_err(|what| {
                ConfigError::Wrong(vec![WrongValue { origin: self.local.origins.of(&what.path).clone(), what }])
            })?;
        let context = Context { origins: &self.local.origins, wrong: Vec::new().into() };
        let mut config = self.typed(&Section::root(&effective, &context));
        let is_dynamic = |wrong: &WrongValue| {
            *origin_of(&self.local.origins, &self.local.tree, &dynamic, &wrong.what.path) == Origin::Dynamic
        };
        let (theirs, ours): (Vec<_>, Vec<_>) = context.wrong.into_inner().into_iter().partition(is_dynamic);
        if !ours.is_empty() && self.purpose == Purpose::Agent {
            return Err(ConfigError::Wrong(ours));
        }
        of_store.extend(theirs.into_iter().map(|found| wrong(found.what)));
        if self.purpose == Purpose::Agent {
            required(&config)?;
            self.check_name(&config.name)?;
        }
        let unusable = of_store.iter().map(ToString::to_string).collect();
        config.settings = settings::settings(&config, reading.dynamic, version, unusable);
        config.effective = effective;
        config.dynamic = dynamic;
        config.version = version;
        warnings.extend(of_store);
        warnings.extend(ours.into_iter().map(Warning::Value));
        Ok(config)
    }

    /// Whoever reads the store takes a key that has a slash in the place of the name for something else.
    fn check_name(&self, name: &MemberName) -> Result<(), ConfigError> {
        if !name.as_str().contains('/') {
            return Ok(());
        }
        let allowed = "a text without a slash, because a key of the store has this name".to_owned();
        let what = Unusable { path: "name".to_owned(), found: format!("{:?}", name.as_str()), allowed };
        Err(ConfigError::Wrong(vec![WrongValue { origin: self.local.origins.of("name").clone(), what }]))
    }

    fn typed(&self, root: &Section<'_>) -> Config {
        let restapi = RestApi::read(&root.section("restapi"));
        Config {
            name: MemberName::new(root.text("name").unwrap_or_default()),
            scope: root.text("scope").unwrap_or_default(),
            namespace: root.text("namespace").unwrap_or_else(|| "service".to_owned()),
            log: LogConfig::read(&root.section("log")),
            ctl: Ctl::read(&root.section("ctl"), &restapi),
            restapi,
            etcd3: root.value("etcd3").map(|_| Etcd::read(&root.section("etcd3"))),
            bootstrap: root.value("bootstrap").map(|_| Bootstrap::read(&root.section("bootstrap"))),
            postgresql: Postgresql::read(&root.section("postgresql")),
            tags: meaningful_tags(root.section("tags").map()),
            watchdog: Watchdog::read(&root.section("watchdog")),
            settings: settings::initial(),
            effective: JsonMap::new(),
            dynamic: JsonMap::new(),
            version: None,
            local: self.local.clone(),
            source: self.source.clone(),
            purpose: self.purpose,
        }
    }
}

fn required(config: &Config) -> Result<(), ConfigError> {
    let rows = [
        (config.name.as_str().is_empty(), "name", "PATRONI_NAME"),
        (config.scope.is_empty(), "scope", "PATRONI_SCOPE"),
        (config.restapi.listen.is_empty(), "restapi.listen", "PATRONI_RESTAPI_LISTEN"),
        (config.postgresql.listen.is_empty(), "postgresql.listen", "PATRONI_POSTGRESQL_LISTEN"),
        (config.postgresql.data_dir.as_os_str().is_empty(), "postgresql.data_dir", "PATRONI_POSTGRESQL_DATA_DIR"),
    ];
    match rows.into_iter().find(|(missing, ..)| *missing) {
        Some((_, path, variable)) => Err(ConfigError::Missing(path, variable)),
        None => Ok(()),
    }
}

/// A flag that is not set is the same as none, unless a priority is set too, which it overrides.
fn meaningful_tags(tags: &JsonMap) -> JsonMap {
    let keep = |name: &str, value: &Value| match name {
        "nofailover" => truthy(value) || tags.contains_key("failover_priority"),
        "nosync" => truthy(value) || tags.contains_key("sync_priority"),
        "clonefrom" | "noloadbalance" | "nostream" => truthy(value),
        _ => true,
    };
    tags.iter().filter(|(name, value)| keep(name, value)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

fn origin_of<'a>(origins: &'a Origins, local: &JsonMap, dynamic: &JsonMap, path: &str) -> &'a Origin {
    let ours = origins.of(path);
    let names: Vec<&str> = path.split('.').collect();
    let layer = match names.as_slice() {
        ["postgresql", name, ..] => precedence::layers_of(&format!("postgresql.{name}")),
        [name, ..] => precedence::layers_of(name),
        [] => precedence::Layers::LocalOnly,
    };
    // A mapping of `postgresql` is taken as a whole from one layer; parameters one by one.
    let depth = if matches!(names.as_slice(), ["postgresql", "parameters", ..]) { 3 } else { 2 };
    let has = |tree: &JsonMap| {
        let mut names = names.iter().take(depth);
        let first = names.next().and_then(|name| tree.get(*name));
        names.fold(first, |value, name| value.and_then(|v| v.get(name))).is_some()
    };
    use precedence::Layers;
    match layer {
        Layers::LocalOnly => ours,
        Layers::DynamicOnly | Layers::DynamicFlag if has(dynamic) => &Origin::Dynamic,
        Layers::DynamicOnly | Layers::DynamicFlag => &Origin::Default,
        Layers::LocalOverDynamic | Layers::LocalOverDynamicByName if !has(local) && has(dynamic) => &Origin::Dynamic,
        Layers::LocalOverDynamic | Layers::LocalOverDynamicByName if has(local) => ours,
        Layers::LocalOverDynamic | Layers::LocalOverDynamicByName => &Origin::Default,
    }
}
