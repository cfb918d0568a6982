//! The configuration of agent and patronictl: layers with their provenance, types, validation.
//!
//! [`Config::load`] reads files and environment, [`Config::with_dynamic`] adds what the store says, [`Config::reload`]
//! reads the files again. Each gives a whole new configuration and never changes one.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests write where nobody else does"))]

pub mod cache;
mod config;
mod dynamic;
mod environment;
mod error;
mod known;
mod local;
pub mod merge;
mod origin;
pub mod precedence;
mod secret;
mod section;
mod sections;
mod settings;
pub mod stores;
pub mod validate;
mod warning;
pub mod yaml;

pub use config::{Config, Loaded, Purpose};
pub use dynamic::{faults_of_change, unusable};
pub use environment::{CONFIGURATION, Environment, PREFIX};
pub use error::{ConfigError, WrongValue};
pub use known::unread;
pub use local::{Local, Source};
pub use origin::{Origin, Origins};
pub use secret::Secret;
pub use sections::*;
pub use stores::{STORES, Store, StoreKind};
pub use warning::Warning;
