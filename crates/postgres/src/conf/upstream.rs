//! Does a standby follow what it should, and what does it take to change that?

use std::time::Duration;

use patroni_core::facts::UpstreamCheck;
use patroni_core::job::Upstream;
use patroni_core::parameters::{Setting, recovery_parameters};
use patroni_core::units::compare_values;
use serde_json::Value;

use super::recovery::{RecoveryParameters, text_of};
use super::{Conf, files, parse_dsn, pgpass_content};
use crate::Result;
use crate::sql::{Connection, Conninfo, Row, quote_literal};

/// What a running standby follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningRecovery {
    /// Its recovery parameters.
    pub settings: Vec<Setting>,
    /// Its WAL receiver, while there is one.
    pub receiver: Option<WalReceiver>,
}

/// `pg_stat_get_wal_receiver()`, as far as it is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalReceiver {
    /// `conninfo`, without the password.
    pub conninfo: String,
    /// `slot_name`; empty for none.
    pub slot_name: String,
}

/// Parameters that say how recovery ends, not what is followed; they do not matter here.
const NOT_COMPARED: [&str; 2] = ["recovery_target_inclusive", "recovery_target_action"];

/// Parameters that may stand in a file of the user's, as long as Patroni's configuration does not name them.
const MAY_BE_ELSEWHERE: [&str; 5] = [
    "archive_cleanup_command",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
];

impl RunningRecovery {
    /// Asks a running server.
    ///
    /// # Errors
    /// It does not answer within `limit`, or not as expected.
    pub async fn read(connection: &Connection, limit: Duration) -> Result<Self> {
        let names: Vec<_> =
            recovery_parameters().filter(|name| !NOT_COMPARED.contains(name)).map(quote_literal).collect();
        let sql = format!(
            "SELECT name, setting, unit, vartype, context, sourcefile FROM pg_catalog.pg_settings WHERE name IN ({})",
            names.join(", ")
        );
        let settings = connection.query_within(&sql, limit).await?.iter().map(setting).collect();
        let sql = "SELECT conninfo, slot_name FROM pg_catalog.pg_stat_get_wal_receiver() WHERE pid IS NOT NULL";
        let rows = connection.query_within(sql, limit).await?;
        let text = |row: &Row, column| row.get(column).unwrap_or_default().to_owned();
        let receiver = rows
            .first()
            .filter(|row| row.get(0).is_some_and(|conninfo| !conninfo.is_empty()))
            .map(|row| WalReceiver { conninfo: text(row, 0), slot_name: text(row, 1) });
        Ok(RunningRecovery { settings, receiver })
    }
}

/// A row of `name, setting, unit, vartype, context, sourcefile`.
pub(super) fn setting(row: &Row) -> Setting {
    let text = |column| row.get(column).map(str::to_owned);
    Setting {
        name: text(0).unwrap_or_default(),
        setting: text(1),
        unit: text(2),
        vartype: text(3).unwrap_or_default(),
        context: text(4).unwrap_or_default(),
        sourcefile: text(5),
    }
}

impl Conf {
    /// Compares what a running standby follows with `upstream`. Reads `standby.signal` and the password file the server uses.
    ///
    /// # Errors
    /// One of these files is there but cannot be read.
    pub async fn check_upstream(&self, upstream: &Upstream, running: &RunningRecovery) -> Result<UpstreamCheck> {
        if !files::is_file(&self.data_dir().join("standby.signal")).await {
            return Ok(UpstreamCheck::Restart);
        }
        let wanted = self.recovery_parameters(upstream);
        let passfile = running.setting("primary_conninfo").and_then(parse_dsn);
        let passwords = match passfile.as_ref().and_then(|conninfo| conninfo.get("passfile")) {
            Some(file) => files::read(file.as_ref()).await?.map(|text| String::from_utf8_lossy(&text).into_owned()),
            None => None,
        };
        let ours = [self.postgresql_conf(), self.data_dir().join("postgresql.auto.conf")];
        let is_ours = |file: &str| ours.iter().any(|path| path.as_os_str() == file);
        Ok(compare(&wanted, running, self.version, passwords.as_deref(), is_ours))
    }

    /// As [`Conf::check_upstream`], for a server that cannot be asked (it is starting): compares with what was written last. Where an
    /// earlier agent wrote it, that is not known: it is written again. What takes a restart is left for when it answers.
    pub async fn check_written_upstream(&self, upstream: &Upstream) -> UpstreamCheck {
        let is_standby = files::is_file(&self.data_dir().join("standby.signal")).await;
        let is_written = self.recovery.as_ref() == Some(&self.recovery_parameters(upstream));
        if is_written || !is_standby { UpstreamCheck::UpToDate } else { UpstreamCheck::Reload }
    }

    /// Takes the recovery settings of a running standby as those written last: of a server that an earlier agent started.
    pub fn adopt_recovery(&mut self, running: &RunningRecovery) {
        let is_ours =
            |setting: &&Setting| setting.sourcefile.as_deref().is_some_and(|f| self.postgresql_conf().as_os_str() == f);
        let mut recovery = RecoveryParameters::default();
        for row in running.settings.iter().filter(is_ours) {
            let value = row.setting.clone().unwrap_or_default();
            match (row.name.as_str(), row.unit.as_deref()) {
                ("primary_conninfo", _) => recovery.primary_conninfo = parse_dsn(&value).filter(|_| !value.is_empty()),
                (name, unit) => recovery.others.insert(name, value + unit.unwrap_or_default()),
            }
        }
        // The password is in the file that it names, and stays there.
        self.set_recovery(Some(recovery));
    }
}

impl RunningRecovery {
    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|row| row.name == name)?.setting.as_deref()
    }
}

fn compare(
    wanted: &RecoveryParameters,
    running: &RunningRecovery,
    version: u32,
    passwords: Option<&str>,
    is_ours: impl Fn(&str) -> bool,
) -> UpstreamCheck {
    let mut check = UpstreamCheck::UpToDate;
    for row in running.settings.iter().filter(|row| !NOT_COMPARED.contains(&row.name.as_str())) {
        let elsewhere = row.sourcefile.as_deref().is_none_or(|file| !is_ours(file));
        let configured = wanted.others.contains(&row.name);
        if elsewhere && !configured && MAY_BE_ELSEWHERE.contains(&row.name.as_str()) {
            continue;
        }
        let same = match row.name.as_str() {
            "primary_conninfo" => same_conninfo(wanted.primary_conninfo.as_ref(), running, version, passwords),
            "primary_slot_name" => {
                wanted.primary_conninfo.is_none() || running.slot_name() == wanted.text("primary_slot_name")
            }
            name => same_value(row, wanted.others.get(name)),
        };
        if !same {
            check = check.max(if row.context == "postmaster" { UpstreamCheck::Restart } else { UpstreamCheck::Reload });
        }
    }
    check
}

fn same_value(row: &Setting, wanted: Option<&Value>) -> bool {
    let running = row.setting.as_deref().unwrap_or_default();
    if row.name == "recovery_min_apply_delay" {
        return compare_values("integer", row.unit.as_deref(), running, wanted.unwrap_or(&Value::from(0)));
    }
    running == text_of(wanted)
}

impl RunningRecovery {
    /// The slot in use: of the WAL receiver while there is one.
    fn slot_name(&self) -> &str {
        match &self.receiver {
            Some(receiver) => &receiver.slot_name,
            None => self.setting("primary_slot_name").unwrap_or_default(),
        }
    }

    /// The connection in use: that of the WAL receiver, completed by what it does not show.
    fn conninfo(&self) -> Option<Conninfo> {
        let configured = parse_dsn(self.setting("primary_conninfo").filter(|text| !text.is_empty())?)?;
        let Some(mut used) = self.receiver.as_ref().and_then(|receiver| parse_dsn(&receiver.conninfo)) else {
            return Some(configured);
        };
        used.remove("dbname");
        for keyword in ["dbname", "password"] {
            if let Some(value) = configured.get(keyword) {
                used.set(keyword, value);
            }
        }
        Some(used)
    }
}

fn same_conninfo(wanted: Option<&Conninfo>, running: &RunningRecovery, version: u32, passwords: Option<&str>) -> bool {
    let is_set = running.setting("primary_conninfo").is_some_and(|text| !text.is_empty());
    let Some(wanted) = wanted else { return !is_set };
    let Some(used) = running.conninfo() else { return false };
    wanted.iter().all(|(keyword, value)| match keyword {
        // Before PostgreSQL 17 nobody looked at it.
        "dbname" if version < 170_000 => true,
        "password" if used.get("password").is_none() && used.get("passfile").is_some() => {
            same_lines(pgpass_content(wanted).as_deref(), passwords)
        }
        _ => used.get(keyword) == Some(value),
    })
}

fn same_lines(wanted: Option<&str>, found: Option<&str>) -> bool {
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    };
    found.is_some_and(|found| sorted(wanted.unwrap_or_default()) == sorted(found))
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
