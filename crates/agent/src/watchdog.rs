//! The kernel watchdog: a device that resets the machine when nobody writes to it in time.
//!
//! The fourth fence, where it is configured. It is open while this node leads, and closed (with the magic character that
//! disarms it) in pause, on standbys, and on a clean stop.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use patroni_config::{Watchdog as WatchdogConfig, WatchdogMode};
use patroni_core::facts::Watchdog;
use patroni_core::settings::Settings;

mod ioctl;

/// The watchdog of this machine, as configured.
pub struct WatchdogDevice {
    config: WatchdogConfig,
    open: Option<Open>,
    /// The last attempt failed; said once.
    failed: bool,
}

struct Open {
    device: File,
    timeout: Duration,
}

impl WatchdogDevice {
    /// Not opened yet.
    pub fn new(config: WatchdogConfig) -> Self {
        WatchdogDevice { config, open: None, failed: false }
    }

    /// Takes a new configuration; an open device is closed when device or mode changed.
    pub fn reconfigure(&mut self, config: &WatchdogConfig) {
        if self.config != *config {
            self.disable();
            self.failed = false;
            self.config = config.clone();
        }
    }

    /// What decisions know of it.
    pub fn fact(&mut self, settings: &Settings) -> Watchdog {
        let required = self.config.mode == WatchdogMode::Required;
        let usable = !required || (self.exists() && self.timeout(settings).is_some());
        Watchdog { required, healthy: usable && !(required && self.failed) }
    }

    /// Opens the device, or makes sure it is open with the right time-out. False: it is required and does not work.
    pub fn activate(&mut self, settings: &Settings) -> bool {
        if self.config.mode == WatchdogMode::Off {
            return true;
        }
        let result = match self.timeout(settings) {
            Some(timeout) => self.open_with(timeout),
            None => Err("ttl leaves no time for it: lower loop_wait or watchdog.safety_margin".to_owned()),
        };
        match result {
            Ok(()) => {
                self.failed = false;
                true
            }
            Err(why) => {
                let required = self.config.mode == WatchdogMode::Required;
                if required {
                    tracing::error!("Configuration requires watchdog, but a watchdog could not be activated: {why}");
                } else if !self.failed {
                    tracing::info!("Could not activate watchdog device: {why}");
                }
                self.failed = true;
                !required
            }
        }
    }

    /// The lease was renewed.
    pub fn keepalive(&mut self) {
        if let Some(open) = &mut self.open
            && let Err(error) = open.device.write_all(b"1")
        {
            tracing::error!("Error while sending keepalive to watchdog: {error}");
        }
    }

    /// Disarms and closes the device.
    pub fn disable(&mut self) {
        if let Some(mut open) = self.open.take()
            && let Err(error) = open.device.write_all(b"V")
        {
            tracing::error!("Error while closing watchdog: {error}");
        }
    }

    fn exists(&self) -> bool {
        self.config.device.exists()
    }

    /// From the last renewal on: `safety_margin` before the lease ends; half of `ttl` where that is -1.
    fn timeout(&self, settings: &Settings) -> Option<Duration> {
        let timeout = match u64::try_from(self.config.safety_margin) {
            Ok(margin) => settings.ttl.checked_sub(Duration::from_secs(margin))?,
            Err(_) => settings.ttl / 2,
        };
        (timeout > settings.loop_wait).then_some(timeout)
    }

    fn open_with(&mut self, timeout: Duration) -> Result<(), String> {
        if self.open.as_ref().is_some_and(|open| open.timeout == timeout) {
            return Ok(());
        }
        let mut device = match self.open.take() {
            Some(open) => open.device,
            None => self.open_device()?,
        };
        if self.config.driver == "testing" {
            // A pipe in place of the device, for tests: it is told in words.
            let told = device.write_all(format!("Ctimeout={}\n", timeout.as_secs()).as_bytes());
            told.map_err(|error| format!("cannot set its time-out: {error}"))?;
        } else {
            ioctl::set_timeout(&device, timeout).map_err(|error| format!("cannot set its time-out: {error}"))?;
        }
        device.write_all(b"1").map_err(|error| error.to_string())?;
        tracing::info!("watchdog {} activated with {} second timeout", self.config.device.display(), timeout.as_secs());
        self.open = Some(Open { device, timeout });
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "a device is not replaced")]
    fn open_device(&self) -> Result<File, String> {
        // Without O_NONBLOCK a pipe that nobody reads would hang the loop.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(flags);
        options
            .open(&self.config.device)
            .map_err(|error| format!("Can't open watchdog device {}: {error}", self.config.device.display()))
    }
}
