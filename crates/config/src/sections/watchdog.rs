//! `watchdog`

use std::path::PathBuf;

use patroni_core::python::PythonText;
use serde_json::Value;

use crate::section::Section;

/// `watchdog`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// `mode`
    pub mode: WatchdogMode,
    /// `driver`: `default`, or `testing`.
    pub driver: String,
    /// `device`
    pub device: PathBuf,
    /// `safety_margin`: seconds between the watchdog's time-out and the end of the lease; -1 for half of `ttl`.
    pub safety_margin: i64,
}

/// `watchdog.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchdogMode {
    /// No watchdog.
    Off,
    /// A watchdog if there is one.
    #[default]
    Automatic,
    /// Nothing is promoted without a watchdog.
    Required,
}

impl Watchdog {
    pub(crate) fn read(section: &Section<'_>) -> Watchdog {
        Watchdog {
            mode: mode(section),
            driver: section.filled("driver").unwrap_or_else(|| "default".to_owned()),
            device: section.path("device").unwrap_or_else(|| PathBuf::from("/dev/watchdog")),
            safety_margin: section.int("safety_margin", None, -1).unwrap_or(5),
        }
    }
}

fn mode(section: &Section<'_>) -> WatchdogMode {
    let Some(value) = section.map().get("mode") else { return WatchdogMode::Automatic };
    match value.python_text().to_lowercase().as_str() {
        "require" | "required" => WatchdogMode::Required,
        "auto" | "automatic" => WatchdogMode::Automatic,
        "off" | "disable" | "disabled" => WatchdogMode::Off,
        _ if *value == Value::Bool(false) => WatchdogMode::Off,
        _ => {
            section.refuse("mode", value, "one of off, automatic, required");
            WatchdogMode::Off
        }
    }
}
