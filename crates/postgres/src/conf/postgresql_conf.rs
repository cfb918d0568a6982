//! `postgresql.conf`, `standby.signal`, and what is cleaned out of `postgresql.auto.conf`.

use std::fmt::Write as _;
use std::path::PathBuf;

use patroni_core::job::Upstream;
use patroni_core::parameters::{
    Checked, Parameters, check_recovery_parameter, check_server_parameter, is_recovery_parameter,
};
use patroni_core::python::PythonText;

use super::hba::HEADER;
use super::pgpass::pgpass_content;
use super::recovery::RecoveryParameters;
use super::{Conf, files, write_pgpass};
use crate::{Error, Result};

impl Conf {
    /// Writes `postgresql.conf` with these parameters ([`Conf::parameters`] where `None`) and the recovery settings in force; before,
    /// the password file they refer to. The original file becomes `postgresql.base.conf`, once.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn write_postgresql_conf(&self, parameters: Option<&Parameters>) -> Result<()> {
        self.keep_original().await?;
        let content = self.render(parameters.unwrap_or(&self.parameters));
        if let Some(conninfo) = self.recovery.as_ref().and_then(|recovery| recovery.primary_conninfo.as_ref()) {
            write_pgpass(&self.server.pgpass, conninfo).await?;
        }
        files::write(self.data_dir(), self.postgresql_conf(), content.into_bytes()).await?;
        if self.keeps_existing_recovery() { Ok(()) } else { self.clean_auto_conf().await }
    }

    /// Makes the server a standby of `upstream` at its next start (or, where [`Conf::check_upstream`] says so, reload): `standby.signal`
    /// is written here, the settings by the next [`Conf::write_postgresql_conf`].
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn follow(&mut self, upstream: &Upstream) -> Result<()> {
        self.recovery = Some(self.recovery_parameters(upstream));
        files::write(self.data_dir(), self.data_dir().join("standby.signal"), Vec::new()).await
    }

    /// Removes what would make the server a standby at its next start. `postgresql.conf` keeps the settings, which a primary
    /// ignores, until it is written again.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub async fn remove_recovery(&mut self) -> Result<()> {
        for name in ["recovery.conf", "standby.signal", "recovery.signal"] {
            files::remove(self.data_dir().join(name)).await?;
        }
        self.recovery = None;
        Ok(())
    }

    /// The recovery settings that `postgresql.conf` is written with.
    pub fn recovery(&self) -> Option<&RecoveryParameters> {
        self.recovery.as_ref()
    }

    pub(super) fn set_recovery(&mut self, recovery: Option<RecoveryParameters>) {
        self.recovery = recovery;
    }

    async fn keep_original(&self) -> Result<()> {
        let base = self.config_dir().join(self.base_conf_name());
        if self.files.custom_conf.is_some() || files::is_file(&base).await {
            return Ok(());
        }
        let original = self.postgresql_conf();
        // Ours is no original: it would include itself.
        let is_ours = files::read(&original).await?.is_some_and(|content| content.starts_with(HEADER.as_bytes()));
        if is_ours && let Some(saved) = files::read(&self.saved_base_conf()).await? {
            tracing::warn!("{} is gone; its saved copy takes its place", base.display());
            return files::write(self.data_dir(), base, saved).await;
        }
        if is_ours {
            return Err(Error::Configuration(format!(
                "{} is gone, and so is its copy {}: restore it (an empty file stands for PostgreSQL's defaults), or set \
                 postgresql.custom_conf",
                base.display(),
                self.saved_base_conf().display()
            )));
        }
        if !files::is_file(&original).await {
            return Err(Error::Configuration(format!(
                "neither {} nor {} exists; restore one of them, or set postgresql.custom_conf",
                original.display(),
                base.display()
            )));
        }
        files::rename(original, base).await
    }

    fn saved_base_conf(&self) -> PathBuf {
        self.data_dir().join(format!("{}.backup", self.base_conf_name()))
    }

    fn render(&self, parameters: &Parameters) -> String {
        let mut text = HEADER.to_owned();
        let include = self.files.custom_conf.clone().unwrap_or_else(|| self.base_conf_name());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "include '{}'\n", quoted(&include));
        let mut parameters = parameters.clone();
        if self.enforce_hot_standby_feedback {
            parameters.insert("hot_standby_feedback", "on");
        }
        for (name, value) in parameters.iter() {
            if self.custom_bootstrap.is_some() && name.eq_ignore_ascii_case("hba_file") {
                continue;
            }
            let checked = check_server_parameter(self.version, name, value, &self.available);
            write_checked(&mut text, name, checked);
        }
        let ours = [
            ("hba_file", self.pg_hba_conf(), self.custom_bootstrap.is_some() || !parameters.contains("hba_file")),
            ("ident_file", self.pg_ident_conf(), !parameters.contains("ident_file")),
        ];
        for (name, path, _) in ours.iter().filter(|(_, _, is_ours)| *is_ours) {
            write_parameter(&mut text, name, &path.to_string_lossy());
        }
        if let Some(recovery) = &self.recovery {
            text.push_str("\n# recovery.conf\n");
            self.render_recovery(recovery, &mut text);
        }
        text
    }

    fn render_recovery(&self, recovery: &RecoveryParameters, text: &mut String) {
        let mut lines: Vec<(String, Checked)> = recovery
            .others
            .iter()
            .map(|(name, value)| {
                (name.to_owned(), check_recovery_parameter(self.version, name, value, &self.available))
            })
            .collect();
        if let Some(conninfo) = &recovery.primary_conninfo {
            let mut conninfo = conninfo.clone();
            if pgpass_content(&conninfo).is_some() {
                conninfo.set("passfile", self.server.pgpass.to_string_lossy());
            }
            let value = Some(conninfo.dsn(self.version).into());
            lines.push(("primary_conninfo".to_owned(), Checked { value, warning: None }));
        }
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, checked) in lines {
            write_checked(text, &name, checked);
        }
    }

    /// `ALTER SYSTEM` may have left recovery parameters there, which would win over ours.
    async fn clean_auto_conf(&self) -> Result<()> {
        let path = self.data_dir().join("postgresql.auto.conf");
        let Some(content) = files::read(&path).await? else { return Ok(()) };
        let content = String::from_utf8_lossy(&content);
        let kept: String = content.split_inclusive('\n').filter(|line| !sets_recovery_parameter(line)).collect();
        if kept == content {
            return Ok(());
        }
        tracing::info!("Removing recovery parameters from {}: they are managed by Patroni", path.display());
        files::write(self.data_dir(), path, kept.into_bytes()).await
    }
}

fn sets_recovery_parameter(line: &str) -> bool {
    line.split_once('=').is_some_and(|(name, _)| is_recovery_parameter(name.trim()))
}

fn write_checked(text: &mut String, name: &str, checked: Checked) {
    if let Some(warning) = checked.warning {
        tracing::warn!("{warning}");
    }
    if let Some(value) = checked.value {
        write_parameter(text, name, &value.python_text());
    }
}

fn write_parameter(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name} = '{}'", quoted(value));
}

/// Between the quotes of a configuration file. A line cannot hold a line break, which could bring in another parameter.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r")
}
