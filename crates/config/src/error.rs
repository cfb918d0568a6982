//! Why a configuration cannot be used.

use std::path::PathBuf;

use patroni_core::settings::Unusable;

use crate::origin::Origin;
use crate::yaml::YamlError;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no file, no `PATRONI_CONFIGURATION` and no variable.
    #[error("Config is empty.")]
    Empty,
    /// The path is neither a file nor a directory.
    #[error("config path {0} is neither directory nor file")]
    NeitherFileNorDirectory(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not YAML.
    #[error("invalid config file {path}: {error}")]
    Yaml {
        /// The file, or `PATRONI_CONFIGURATION`.
        path: PathBuf,
        /// Where and why.
        error: YamlError,
    },
    /// A file holds no mapping.
    #[error("invalid config file {0}: it does not contain a dict")]
    NotAMapping(PathBuf),
    /// A setting that the agent cannot do without.
    #[error("{0} is not defined: set it in the configuration file or by the variable {1}")]
    Missing(&'static str, &'static str),
    /// Settings of the wrong type.
    #[error("{}", joined(.0))]
    Wrong(Vec<WrongValue>),
}

/// A setting with a value that cannot be used, and where it stands.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct WrongValue {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong.
    pub what: Unusable,
}

fn joined(values: &[WrongValue]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
