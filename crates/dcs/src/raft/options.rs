//! The section `raft` of the configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use patroni_core::JsonMap;
use patroni_http::TlsFiles;
use serde_json::Value;

/// How the embedded store is reached, and how this node takes part in it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RaftOptions {
    /// `self_addr`: `host:port` under which the other members reach this one. Without it this node is no member.
    pub self_addr: Option<String>,
    /// `bind_addr`: where it listens; without it at `self_addr`.
    pub bind_addr: Option<String>,
    /// `partner_addrs`: where other members are, or may be. One that lives is enough.
    pub partner_addrs: Vec<String>,
    /// `data_dir`: where log and snapshot are.
    pub data_dir: PathBuf,
    /// `password`: the secret that all members and clients share.
    pub password: Option<String>,
    /// `cert`, `key`, `key_password`: the certificate that this node shows to whoever it talks to.
    pub identity: Option<TlsFiles>,
    /// `cacert`: the authorities that sign the certificates of members and clients.
    pub cacert: Option<String>,
}

impl std::fmt::Debug for RaftOptions {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftOptions")
            .field("self_addr", &self.self_addr)
            .field("bind_addr", &self.bind_addr)
            .field("partner_addrs", &self.partner_addrs)
            .field("data_dir", &self.data_dir)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("identity", &self.identity)
            .field("cacert", &self.cacert)
            .finish()
    }
}

/// A setting of the section that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("raft.{key}: {problem}; {remedy}")]
pub struct RaftOptionsError {
    /// The key below `raft`.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// The port of the store is this far from the port of the REST API, where it is not configured.
pub const PORT_DISTANCE: u16 = 1000;

const ADDRESS: &str = "write host:port, such as 10.0.0.1:2222";

impl RaftOptions {
    /// Reads the section `raft`; without one, an empty one counts. What it lacks follows from the configuration around
    /// it: `self_addr` (only where there are no `partner_addrs` either, since a section with partners and without it
    /// means a node that is no member, as in Patroni) is the host of `restapi.connect_address` with its port plus
    /// [`PORT_DISTANCE`], `data_dir` is `postgresql.data_dir` with `.raft` at its end.
    ///
    /// # Errors
    /// A setting cannot be used, or the store would be open to everybody on the network.
    pub fn from_json(configuration: &JsonMap) -> Result<Self, RaftOptionsError> {
        let empty = JsonMap::new();
        let section = configuration.get("raft").and_then(Value::as_object).unwrap_or(&empty);
        let text = |key| text(section, key);
        let mut options = RaftOptions {
            self_addr: address(section, "self_addr")?,
            bind_addr: address(section, "bind_addr")?,
            partner_addrs: partners(section)?,
            data_dir: text("data_dir").map(PathBuf::from).or_else(|| beside_data(configuration)).unwrap_or_default(),
            password: text("password"),
            identity: text("cert").map(|certfile| TlsFiles {
                certfile,
                keyfile: text("key"),
                keyfile_password: text("key_password"),
            }),
            cacert: text("cacert"),
        };
        if options.self_addr.is_none() && options.partner_addrs.is_empty() {
            options.self_addr = Some(beside_rest(configuration)?);
        }
        let own = options.self_addr.clone();
        options.partner_addrs.retain(|partner| Some(partner) != own.as_ref());
        options.refuse_open()?;
        Ok(options)
    }

    /// The addresses of all members that are configured, this one first.
    pub fn addresses(&self) -> Vec<String> {
        self.self_addr.iter().chain(&self.partner_addrs).cloned().collect()
    }

    /// Whoever reaches the port of an unprotected store can end the cluster: only this machine may.
    fn refuse_open(&self) -> Result<(), RaftOptionsError> {
        let error = |key, problem: String, remedy| Err(RaftOptionsError { key, problem, remedy });
        if self.identity.is_some() != self.cacert.is_some() {
            return error(
                "cacert",
                "cert and cacert belong together: certificates are shown and verified on both sides".to_owned(),
                "give both, or neither",
            );
        }
        if self.password.is_some() || self.identity.is_some() {
            return Ok(());
        }
        let open = self.addresses().into_iter().chain(self.bind_addr.clone()).find(|address| !is_loopback(address));
        match open {
            None => Ok(()),
            Some(address) => error(
                "password",
                format!(
                    "without a password the embedded store may only listen on this machine, but {address} is another address"
                ),
                "set the same long random raft.password (PATRONI_RAFT_PASSWORD) on all nodes, or raft.cert, raft.key and raft.cacert, or name another store",
            ),
        }
    }
}

fn text(section: &JsonMap, key: &str) -> Option<String> {
    match section.get(key)? {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn address(section: &JsonMap, key: &'static str) -> Result<Option<String>, RaftOptionsError> {
    text(section, key).map(|given| checked(key, &given)).transpose()
}

fn partners(section: &JsonMap) -> Result<Vec<String>, RaftOptionsError> {
    let key = "partner_addrs";
    let given: Vec<String> = match section.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split(',').map(str::trim).map(str::to_owned).collect(),
        Some(Value::Array(items)) => items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect(),
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => vec![String::new()],
    };
    let given = given.iter().filter(|address| !address.is_empty() || given.len() == 1);
    given.map(|address| checked(key, address)).collect()
}

/// An address in its one form: lower case, IPv6 in brackets.
fn checked(key: &'static str, given: &str) -> Result<String, RaftOptionsError> {
    let error = || RaftOptionsError { key, problem: format!("{given:?} is no address"), remedy: ADDRESS };
    let (host, port) = given.rsplit_once(':').ok_or_else(error)?;
    let port: u16 = port.parse().map_err(|_| error())?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    match bare.parse::<IpAddr>() {
        _ if bare.is_empty() || port == 0 => Err(error()),
        Ok(IpAddr::V6(ip)) => Ok(format!("[{ip}]:{port}")),
        Ok(IpAddr::V4(ip)) => Ok(format!("{ip}:{port}")),
        Err(_) if bare.contains([':', '/', ' ']) => Err(error()),
        Err(_) => Ok(format!("{bare}:{port}")),
    }
}

/// Can only this machine reach the address?
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn beside_rest(configuration: &JsonMap) -> Result<String, RaftOptionsError> {
    let rest = configuration.get("restapi").and_then(Value::as_object);
    let rest = rest.and_then(|section| text(section, "connect_address").or_else(|| text(section, "listen")));
    let derived = rest.as_deref().and_then(|rest| checked("self_addr", rest).ok()).and_then(|rest| {
        let (host, port) = rest.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let port = port.checked_add(PORT_DISTANCE).unwrap_or(port - PORT_DISTANCE);
        Some(format!("{host}:{port}"))
    });
    derived.ok_or_else(|| RaftOptionsError {
        key: "self_addr",
        problem: "does not follow from restapi.connect_address, which is missing".to_owned(),
        remedy: ADDRESS,
    })
}

fn beside_data(configuration: &JsonMap) -> Option<PathBuf> {
    let data_dir = text(configuration.get("postgresql")?.as_object()?, "data_dir")?;
    Some(PathBuf::from(format!("{}.raft", data_dir.trim_end_matches('/'))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(configuration: Value) -> Result<RaftOptions, String> {
        let Value::Object(configuration) = configuration else { panic!("not an object") };
        RaftOptions::from_json(&configuration).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_configured_follows_from_the_rest() {
        let around = |raft: Value| json!({"restapi": {"connect_address": "127.0.0.1:8009"}, "postgresql": {"data_dir": "/data/p1/"}, "raft": raft});
        let options = read(around(Value::Null)).expect("nothing is needed");
        assert_eq!(options.self_addr.as_deref(), Some("127.0.0.1:9009"));
        assert_eq!(options.data_dir, PathBuf::from("/data/p1.raft"));
        let options = read(around(json!({"partner_addrs": "LOCALHOST:1,[::1]:2"}))).expect("partners alone");
        assert_eq!(options.self_addr, None, "no member, as in Patroni");
        assert_eq!(options.partner_addrs, ["localhost:1", "[::1]:2"]);
        let options =
            read(around(json!({"self_addr": "127.0.0.1:1", "partner_addrs": ["127.0.0.1:1", "127.0.0.1:2"]})));
        assert_eq!(options.expect("a member").addresses(), ["127.0.0.1:1", "127.0.0.1:2"]);
        let options = read(json!({"restapi": {"listen": "127.0.0.1:65000"}})).expect("a high port");
        assert_eq!(options.self_addr.as_deref(), Some("127.0.0.1:64000"));
    }

    #[test]
    fn an_open_store_is_refused() {
        for (raft, part) in [
            (json!({"self_addr": "10.0.0.1:1"}), "raft.password: without a password"),
            (json!({"self_addr": "127.0.0.1:1", "partner_addrs": ["db2:1"]}), "db2:1 is another address"),
            (json!({"self_addr": "127.0.0.1:1", "bind_addr": "0.0.0.0:1"}), "0.0.0.0:1 is another address"),
            (json!({"self_addr": "10.0.0.1:1", "cert": "c.pem"}), "cert and cacert belong together"),
            (json!({"self_addr": "10.0.0.1"}), "raft.self_addr: \"10.0.0.1\" is no address"),
            (json!({"self_addr": "a:1", "partner_addrs": 5}), "raft.partner_addrs: \"\" is no address"),
            (json!({}), "raft.self_addr: does not follow"),
        ] {
            let Err(error) = read(json!({"raft": raft})) else { panic!("{raft} is accepted") };
            assert!(error.contains(part), "{raft}: {error}");
        }
        for raft in [
            json!({"self_addr": "10.0.0.1:1", "password": "x"}),
            json!({"self_addr": "10.0.0.1:1", "cert": "c.pem", "cacert": "ca.pem"}),
            json!({"self_addr": "127.0.0.1:1", "bind_addr": "localhost:1"}),
        ] {
            let options = read(json!({"raft": raft})).expect("it is protected");
            assert!(!format!("{options:?}").contains("\"x\""), "the password is printed");
        }
    }
}
