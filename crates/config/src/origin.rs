//! Where a setting comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::yaml::{Data, Mark, Node};

/// The source of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a configuration file.
    File(Arc<PathBuf>, Mark),
    /// A line of `PATRONI_CONFIGURATION`.
    Inline(Mark),
    /// An environment variable.
    Environment(String),
    /// The key `/config` of the store (or its local copy).
    Dynamic,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, mark) => write!(f, "{}:{}", path.display(), mark.line),
            Origin::Inline(mark) => write!(f, "PATRONI_CONFIGURATION:{}", mark.line),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::Dynamic => write!(f, "dynamic configuration"),
            Origin::Default => write!(f, "default"),
        }
    }
}

/// The origin of each setting, by its path with points (`postgresql.parameters.max_connections`, `tags.a`,
/// `postgresql.pg_hba.0`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// The origin of a setting, or of the nearest setting around it.
    pub fn of(&self, path: &str) -> &Origin {
        let mut path = path;
        loop {
            if let Some(origin) = self.0.get(path) {
                return origin;
            }
            match path.rsplit_once('.') {
                Some((parent, _)) => path = parent,
                None => return &Origin::Default,
            }
        }
    }

    pub(crate) fn set(&mut self, path: &str, origin: Origin) {
        self.0.insert(path.to_owned(), origin);
    }

    /// Takes over the origins of another layer that is laid over this one.
    pub(crate) fn extend(&mut self, other: Origins) {
        self.0.extend(other.0);
    }

    /// Everything in a document comes from its lines.
    pub(crate) fn add_document(&mut self, node: &Node, origin: &dyn Fn(Mark) -> Origin) {
        self.add(String::new(), node, origin);
    }

    fn add(&mut self, path: String, node: &Node, origin: &dyn Fn(Mark) -> Origin) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match &node.data {
            Data::Map(entries) => {
                for entry in entries {
                    self.set(&below(&entry.key), origin(entry.mark));
                    self.add(below(&entry.key), &entry.value, origin);
                }
            }
            Data::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.set(&below(&i.to_string()), origin(item.mark));
                    self.add(below(&i.to_string()), item, origin);
                }
            }
            Data::Null | Data::Bool(_) | Data::Int(_) | Data::Float(_) | Data::Text(_) => {}
        }
    }
}
