//! The server on the other side of a standby cluster, asked before a cluster changes its role.

use patroni_core::JsonMap;
use patroni_core::cluster::{Address, Cluster, Initialize};
use patroni_core::python::PythonText;
use patroni_core::tags::truthy;
use tokio_postgres::SimpleQueryMessage;

use crate::context::Context;
use crate::error::{CtlError, failed};
use crate::output;
use crate::sql::{self, Login};

/// What a remote server says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    is_primary: bool,
    system_id: String,
}

/// A cluster is to follow `section`: refused where one of those servers is surely no copy of this cluster, because then nobody
/// would be left who can be primary. A server that cannot be asked from here proves nothing.
///
/// # Errors
/// Another system identifier.
pub(crate) async fn check_before_demotion(
    context: &Context,
    cluster: &Cluster,
    section: &JsonMap,
) -> Result<(), CtlError> {
    let Initialize::Done(own) = &cluster.initialize else { return Ok(()) };
    for address in addresses(section) {
        let at = format!("{}:{}", address.host, address.port);
        match ask(context, &address).await {
            Ok(remote) if remote.system_id != own.to_string() => {
                return failed(format!(
                    "{at} has the system identifier {}, this cluster {own}: it is no copy of this cluster, which could \
                     never follow it",
                    remote.system_id
                ));
            }
            Ok(_) => {}
            Err(why) => output::warn(&format!("{at} could not be asked whether it is a copy of this cluster: {why}")),
        }
    }
    Ok(())
}

/// A standby cluster is to become independent: refused where the server it follows is a running primary, because both would take
/// writes. `force` does it all the same. Gives the servers that are no primaries.
///
/// # Errors
/// The remote primary runs.
pub(crate) async fn check_before_promotion(
    context: &Context,
    cluster: &Cluster,
    force: bool,
) -> Result<Vec<Address>, CtlError> {
    let mut others = Vec::new();
    let config = cluster.config.as_ref().and_then(|config| config.data.as_ref());
    let Some(section) = config.and_then(|data| data.get("standby_cluster")?.as_object()) else { return Ok(others) };
    for address in addresses(section) {
        let at = format!("{}:{}", address.host, address.port);
        match ask(context, &address).await {
            Ok(Remote { is_primary: true, .. }) => {
                let text = format!("the remote cluster is alive: {at} is a primary, and both would take writes");
                if !force {
                    return failed(format!("{text}. Demote it first (patronictl demote-cluster), or use --force"));
                }
                output::warn(&text);
            }
            Ok(Remote { is_primary: false, .. }) => others.push(address),
            Err(why) => {
                output::warn(&format!("{at} could not be asked whether it is still a primary: {why}"));
                others.push(address);
            }
        }
    }
    Ok(others)
}

/// Both sides may have been promoted at once, each while the other was no primary. Whoever is done last sees it.
///
/// # Errors
/// One of these servers, which were no primaries before, is one now.
pub(crate) async fn check_after_promotion(context: &Context, others: &[Address]) -> Result<(), CtlError> {
    for address in others {
        if let Ok(Remote { is_primary: true, .. }) = ask(context, address).await {
            return failed(format!(
                "{}:{} was promoted at the same time: both clusters take writes, which cannot be merged. Demote one of them now \
                 (patronictl demote-cluster)",
                address.host, address.port
            ));
        }
    }
    Ok(())
}

/// The servers that `standby_cluster` names; none where there is only an archive.
fn addresses(section: &JsonMap) -> Vec<Address> {
    let text = |name: &str| section.get(name).filter(|value| truthy(value)).map(|v| v.python_text().into_owned());
    let Some(hosts) = text("host") else { return Vec::new() };
    let ports = text("port").unwrap_or_else(|| "5432".to_owned());
    let ports: Vec<&str> = ports.split(',').map(str::trim).collect();
    let port = |index: usize| ports.get(index).or(ports.first()).and_then(|port| port.parse().ok());
    let hosts = hosts.split(',').map(str::trim).enumerate();
    hosts.filter_map(|(index, host)| Some(Address { host: host.to_owned(), port: port(index)? })).collect()
}

/// Asked as the superuser of the configuration, or as the environment says.
async fn ask(context: &Context, address: &Address) -> Result<Remote, String> {
    let superuser = context.section("postgresql").and_then(|section| section.get("authentication")?.get("superuser"));
    let configured = |key: &str| superuser.and_then(|user| user.get(key)?.as_str()).map(str::to_owned);
    let [user, password] = ["username", "password"].map(configured);
    let login = Login { user, password, dbname: Some("postgres".to_owned()), ..Login::default() };
    let client = sql::connect(address, &login).await?;
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), system_identifier FROM pg_catalog.pg_control_system()";
    let answer = tokio::time::timeout(sql::CONNECT_TIMEOUT, client.simple_query(sql)).await;
    let messages = answer.map_err(|_| "timeout expired".to_owned())?.map_err(|error| sql::describe(&error))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let column = |index| row.and_then(|row| row.get(index)).map(str::to_owned);
    let (recovery, system_id) = column(0).zip(column(1)).ok_or("no answer")?;
    Ok(Remote { is_primary: recovery == "f", system_id })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_host_has_its_port() {
        let rows = [
            (json!({"host": "a", "port": 5433}), "a:5433"),
            (json!({"host": "a,b", "port": "1,2"}), "a:1 b:2"),
            (json!({"host": "a, b", "port": "1"}), "a:1 b:1"),
            (json!({"host": "a"}), "a:5432"),
            (json!({"host": "a", "port": "x"}), ""),
            (json!({"host": null, "restore_command": "cp"}), ""),
        ];
        for (section, expected) in rows {
            let found = addresses(section.as_object().unwrap());
            let found: Vec<String> = found.iter().map(|a| format!("{}:{}", a.host, a.port)).collect();
            assert_eq!(found.join(" "), expected, "{section}");
        }
    }
}
