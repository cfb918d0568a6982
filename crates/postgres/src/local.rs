//! Connections to the local server. Its address and credentials may be about to change, or may have changed elsewhere only, and not at the
//! same time: where one way is refused another is tried.

use std::sync::Arc;

use crate::options::ServerOptions;
use crate::sql::{Connection, Conninfo, SqlError};

impl ServerOptions {
    /// These options, with others by which the server was reached before, or will be, as further ways to it.
    #[must_use]
    pub fn or_as<'a>(&self, others: impl IntoIterator<Item = &'a ServerOptions>) -> Arc<ServerOptions> {
        let alone = |other: &ServerOptions| Arc::new(ServerOptions { others: Vec::new(), ..other.clone() });
        Arc::new(ServerOptions { others: others.into_iter().map(alone).collect(), ..self.clone() })
    }

    /// How the local server can be reached, the likely way first: each address with all credentials, because a new address comes with a restart of
    /// the server, and a new password with a statement. `address` gives the parameters by one set of options.
    pub fn ways(&self, address: impl Fn(&ServerOptions) -> Conninfo) -> Vec<Conninfo> {
        self.combinations(address).into_iter().map(|(conninfo, _)| conninfo).collect()
    }

    /// The same, with the options that each comes from.
    fn combinations(&self, address: impl Fn(&ServerOptions) -> Conninfo) -> Vec<(Conninfo, ServerOptions)> {
        let all = || std::iter::once(self).chain(self.others.iter().map(Arc::as_ref));
        let mut ways: Vec<(Conninfo, ServerOptions)> = Vec::new();
        for (at, of) in all().flat_map(|at| all().map(move |of| (at, of))) {
            let (superuser, replication) = (of.superuser.clone(), of.replication.clone());
            let options = ServerOptions { superuser, replication, others: Vec::new(), ..at.clone() };
            let conninfo = address(&options);
            if ways.iter().all(|(known, _)| *known != conninfo) {
                ways.push((conninfo, options));
            }
        }
        ways
    }

    /// Connects as superuser, to `database` where that is not the configured one.
    ///
    /// # Errors
    /// No way leads to the server: the error of the first.
    pub async fn connect(
        &self,
        database: Option<&str>,
        application_name: &str,
        settings: &str,
    ) -> Result<Connection, SqlError> {
        self.reach(database, application_name, settings).await.map(|(connection, _)| connection)
    }

    /// The same, and says which options lead to the server now.
    ///
    /// # Errors
    /// As there.
    pub async fn reach(
        &self,
        database: Option<&str>,
        application_name: &str,
        settings: &str,
    ) -> Result<(Connection, ServerOptions), SqlError> {
        let ways = self.combinations(|options| {
            let mut conninfo = options.local_superuser();
            if let Some(database) = database {
                conninfo.set("dbname", database);
            }
            conninfo
        });
        let mut refused = None;
        for (conninfo, options) in ways {
            match Connection::open(&conninfo, application_name, settings).await {
                Ok(connection) => return Ok((connection, options)),
                // Refused by the server for another reason than the way, or hung: another way would not help.
                Err(error) if !error.may_be_due_to_address() => return Err(refused.unwrap_or(error)),
                Err(error) => _ = refused.get_or_insert(error),
            }
        }
        Err(refused.unwrap_or_else(|| SqlError::other("connection", "there is no address")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::sample;

    fn with(change: impl FnOnce(&mut ServerOptions)) -> ServerOptions {
        let mut options = sample();
        change(&mut options);
        options
    }

    fn password(text: &str) -> ServerOptions {
        with(|options| options.superuser.password = Some(text.to_owned()))
    }

    fn ways(options: &ServerOptions) -> Vec<String> {
        let shown = |conninfo: Conninfo| {
            ["host", "port", "user", "password", "sslmode", "sslcert"]
                .map(|k| conninfo.get(k).unwrap_or("-").to_owned())
                .join(" ")
        };
        options.ways(ServerOptions::local_superuser).into_iter().map(shown).collect()
    }

    /// What else is changed before the server knows a new password.
    #[test]
    fn what_led_to_the_server_is_not_forgotten_by_the_next_change() {
        let (old, new) = (password("old"), password("new"));
        let expected = ["localhost 5432 postgres new - /c rt", "localhost 5432 postgres old - /c rt"];
        assert_eq!(ways(&new.or_as([&old])), expected);
        assert_eq!(ways(&new.or_as([&new, &old])), expected, "after another change");
        assert_eq!(
            ways(&new.or_as([&*new.or_as([&old]), &old])),
            expected,
            "alternatives of alternatives do not pile up"
        );
        assert_eq!(ways(&new), expected[..1]);
    }

    #[test]
    fn each_address_is_tried_with_all_credentials() {
        let tls = |mode: &'static str| {
            move |options: &mut ServerOptions| _ = options.superuser.tls.insert("sslmode".into(), mode.into())
        };
        type Change = Box<dyn Fn(&mut ServerOptions)>;
        let rows: Vec<(&str, Change, Vec<&str>)> = vec![
            (
                "password",
                Box::new(|o| o.superuser.password = Some("new".into())),
                vec!["localhost 5432 postgres pass - /c rt", "localhost 5432 postgres new - /c rt"],
            ),
            (
                "user",
                Box::new(|o| o.superuser.username = Some("root".into())),
                vec!["localhost 5432 postgres pass - /c rt", "localhost 5432 root pass - /c rt"],
            ),
            (
                "sslmode",
                Box::new(tls("require")),
                vec!["localhost 5432 postgres pass - /c rt", "localhost 5432 postgres pass require /c rt"],
            ),
            (
                "certificate",
                Box::new(|o| _ = o.superuser.tls.insert("sslcert".into(), "/new".into())),
                vec!["localhost 5432 postgres pass - /c rt", "localhost 5432 postgres pass - /new"],
            ),
            (
                "socket",
                Box::new(|o| (o.use_unix_socket, o.unix_socket_directories) = (true, Some("/run".into()))),
                vec!["localhost 5432 postgres pass - /c rt", "/run 5432 postgres pass - /c rt"],
            ),
            (
                "password and port",
                Box::new(|o| (o.superuser.password, o.port) = (Some("new".into()), 5433)),
                vec![
                    "localhost 5432 postgres pass - /c rt",
                    "localhost 5432 postgres new - /c rt",
                    "localhost 5433 postgres pass - /c rt",
                    "localhost 5433 postgres new - /c rt",
                ],
            ),
        ];
        for (what, change, expected) in rows {
            assert_eq!(ways(&sample().or_as([&with(change)])), expected, "{what}");
        }
    }

    #[test]
    fn replication_connections_have_the_same_ways() {
        let new = with(|options| (options.replication.password, options.port) = (Some("new".into()), 5433));
        assert_eq!(sample().or_as([&new]).ways(ServerOptions::local_replication).len(), 4);
    }
}
