//! The sections of the configuration, typed.

mod bootstrap;
mod log;
mod postgresql;
mod rest;
mod store;
mod watchdog;

pub use bootstrap::{Bootstrap, CustomMethod, ToolOption};
pub use log::{LogConfig, LogFormat, LogType};
pub use postgresql::{Authentication, Postgresql, UserSettings};
pub use rest::{BasicAuth, Compatibility, Ctl, RestApi, ServerTokens, VerifyClient};
pub use store::Etcd;
pub use watchdog::{Watchdog, WatchdogMode};
