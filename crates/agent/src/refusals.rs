//! What a start would be refused for by the machine, or go wrong with later, as far as that can be seen without starting anything.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use patroni_config::Config;
use patroni_http::{HttpClient, tls};
use rustix::fs::{Access, access};

use crate::options;

/// One line each: the setting, what is wrong, and what to do. Blocks for files: not for the runtime's threads.
pub fn of_start(config: &Config) -> Vec<String> {
    let store = patroni_dcs::check(config.effective()).err().map(|error| error.to_string());
    let client = HttpClient::new(options::client_options(config)).err().map(|error| format!("ctl: {error}"));
    let server = options::api_options(config).tls.and_then(|settings| tls::server_config(&settings).err());
    let server = server.map(|error| format!("restapi: {error}"));
    let log = options::log_options(&config.log).dir.and_then(|dir| not_writable("log.dir", &dir));
    let data = of_data_dir(&config.postgresql.data_dir);
    [store, client, server, log, data].into_iter().flatten().collect()
}

fn not_writable(setting: &str, dir: &Path) -> Option<String> {
    let error = access(dir, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!("{setting}: {} cannot be written to by this user: {error}", dir.display()))
}

/// PostgreSQL starts only in a directory that is its user's, and nobody else's.
fn of_data_dir(dir: &Path) -> Option<String> {
    let found = std::fs::metadata(dir).ok().filter(|_| dir.join("global/pg_control").exists())?;
    let user = rustix::process::geteuid();
    // Whoever checks as root starts the agent as another user.
    if !user.is_root() && found.uid() != user.as_raw() {
        return Some(format!(
            "postgresql.data_dir: {} is user {}'s, and PostgreSQL runs as its owner only; start the agent as that user, or chown it",
            dir.display(),
            found.uid()
        ));
    }
    let mode = found.mode() & 0o777;
    (mode & 0o027 != 0).then(|| {
        format!("postgresql.data_dir: {} has mode {mode:04o}, with which PostgreSQL does not start; chmod 0700 (or 0750) it", dir.display())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use patroni_config::{Environment, Purpose, Source};

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let loaded = Config::load(Source::new(Some(file.path()), Environment::default()), Purpose::Agent).unwrap();
        of_start(&loaded.config)
    }

    #[test]
    fn what_the_machine_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("global")).unwrap();
        std::fs::write(data.join("global/pg_control"), "x").unwrap();
        let mode = |mode| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o750);
        let base = |further: &str, rest: &str| {
            format!(
                "name: n\nscope: s\n{further}\nrestapi: {{listen: 'a:1'{rest}}}\npostgresql:\n  listen: a:2\n  data_dir: {}\n",
                data.display()
            )
        };
        let etcd = "etcd3: {host: a}";
        assert_eq!(found(&base(etcd, "")), [""; 0]);
        let rows = [
            (base("etcd3: {host: a, key: k}", ""), "etcd3.key: is given without cert"),
            (base("consul: {consistency: eventual}", ""), "consul.consistency: \"eventual\" is not known"),
            (base("zookeeper: {hosts: ''}", ""), "zookeeper.hosts: names no server"),
            (base("etcd3: {host: a}\nctl: {cacert: /nonexistent}", ""), "ctl: cannot read /nonexistent"),
            (base(etcd, ", certfile: /nonexistent"), "restapi: cannot read /nonexistent"),
            (base("etcd3: {host: a}\nlog: {dir: /nonexistent}", ""), "log.dir: /nonexistent cannot be written to"),
        ];
        for (text, expected) in rows {
            let found = found(&text);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{text}: {found:?}");
        }
        mode(0o755);
        assert!(matches!(found(&base(etcd, "")).as_slice(), [one] if one.contains("has mode 0755")));
        mode(0o700);
        assert_eq!(found(&base(etcd, "")), [""; 0]);
    }
}
