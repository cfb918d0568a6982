//! The local configuration: a file or a directory of files with the environment laid over it, or
//! `PATRONI_CONFIGURATION` alone, or the environment alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use patroni_core::JsonMap;
use serde_json::Value;

use crate::environment::{CONFIGURATION, Environment};
use crate::error::ConfigError;
use crate::merge;
use crate::origin::{Origin, Origins};
use crate::warning::Warning;
use crate::yaml;

/// Where the configuration is read from.
#[derive(Clone, Debug)]
pub struct Source {
    path: Option<PathBuf>,
    environment: Environment,
}

/// The local configuration, untyped. It holds passwords and therefore has no `Debug`.
#[derive(Clone, Default)]
pub struct Local {
    /// The settings.
    pub tree: JsonMap,
    /// Where each comes from.
    pub origins: Origins,
    /// What was odd about the variables.
    pub(crate) warnings: Vec<Warning>,
}

impl Source {
    /// A source for the path given on the command line. A path that does not exist is passed over, as Patroni does.
    pub fn new(path: Option<&Path>, environment: Environment) -> Source {
        let path = path.filter(|p| !p.as_os_str().is_empty() && p.exists()).map(Path::to_owned);
        Source { path, environment }
    }

    /// The file or directory, if the configuration comes from one; only then it can be read again.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the local configuration.
    pub fn read(&self) -> Result<Local, ConfigError> {
        let environment = self.environment.layer();
        let environment =
            Local { tree: environment.tree, origins: environment.origins, warnings: environment.warnings };
        let local = match (&self.path, self.environment.configuration()) {
            (Some(path), _) => over(files(path)?, environment),
            (None, Some(text)) => match inline(text)? {
                Some(local) => local,
                None => environment,
            },
            (None, None) => environment,
        };
        if local.tree.is_empty() { Err(ConfigError::Empty) } else { Ok(local) }
    }
}

fn over(mut below: Local, above: Local) -> Local {
    merge::patch(&mut below.tree, &above.tree);
    below.origins.extend(above.origins);
    below.warnings.extend(above.warnings);
    below
}

/// `PATRONI_CONFIGURATION`: no variable is laid over it. An empty document counts as none.
fn inline(text: &str) -> Result<Option<Local>, ConfigError> {
    let path = || PathBuf::from(CONFIGURATION);
    let node = yaml::parse(text).map_err(|error| ConfigError::Yaml { path: path(), error })?;
    let mut origins = Origins::default();
    origins.add_document(&node, &Origin::Inline);
    match node.to_json() {
        Value::Object(tree) => Ok((!tree.is_empty()).then_some(Local { tree, origins, warnings: Vec::new() })),
        other if !patroni_core::tags::truthy(&other) => Ok(None),
        _ => Err(ConfigError::NotAMapping(path())),
    }
}

/// One file, or the `*.yml` and `*.yaml` of a directory in the order of their names, the last winning.
fn files(path: &Path) -> Result<Local, ConfigError> {
    let mut local = Local::default();
    for file in names(path)? {
        let text = std::fs::read_to_string(&file).map_err(|error| ConfigError::Read { path: file.clone(), error })?;
        let node = yaml::parse(&text).map_err(|error| ConfigError::Yaml { path: file.clone(), error })?;
        let Value::Object(tree) = node.to_json() else { return Err(ConfigError::NotAMapping(file)) };
        merge::patch(&mut local.tree, &tree);
        let name = Arc::new(file);
        local.origins.add_document(&node, &|mark| Origin::File(name.clone(), mark));
    }
    Ok(local)
}

fn names(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !path.is_dir() {
        return Err(ConfigError::NeitherFileNorDirectory(path.to_owned()));
    }
    let failed = |error| ConfigError::Read { path: path.to_owned(), error };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if (name.ends_with(".yml") || name.ends_with(".yaml")) && file.is_file() {
            names.push(file);
        }
    }
    names.sort();
    Ok(names)
}
