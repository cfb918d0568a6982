//! Connections to the local server. Its address and credentials may be about to change, or may have changed elsewhere only: where one way is
//! refused the other is tried.

use std::sync::Arc;

use crate::options::ServerOptions;
use crate::sql::{Connection, Conninfo, SqlError};

impl ServerOptions {
    /// These options, with those that were in force before, or that are to come, as the other way to reach the server.
    #[must_use]
    pub fn or_as(&self, other: &ServerOptions) -> Arc<ServerOptions> {
        let other = ServerOptions { other: None, ..other.clone() };
        Arc::new(ServerOptions { other: Some(Arc::new(other)), ..self.clone() })
    }

    /// How the local server can be reached, the likely way first. `address` gives the parameters by one set of options.
    pub fn ways(&self, address: impl Fn(&ServerOptions) -> Conninfo) -> Vec<Conninfo> {
        let mut ways = vec![address(self)];
        ways.extend(self.other.as_deref().map(address).filter(|other| *other != ways[0]));
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
        let ways = self.ways(|options| {
            let mut conninfo = options.local_superuser();
            if let Some(database) = database {
                conninfo.set("dbname", database);
            }
            conninfo
        });
        let mut refused = None;
        for conninfo in &ways {
            match Connection::open(conninfo, application_name, settings).await {
                Ok(connection) => return Ok(connection),
                // Refused by the server for another reason than the way, or hung: the other way would not help.
                Err(error) if !error.may_be_due_to_address() => return Err(refused.unwrap_or(error)),
                Err(error) => _ = refused.get_or_insert(error),
            }
        }
        Err(refused.unwrap_or_else(|| SqlError::other("connection", "there is no address")))
    }
}
