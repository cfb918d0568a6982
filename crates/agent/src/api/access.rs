//! Who may make unsafe requests: by address, by certificate, by password.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::WWW_AUTHENTICATE;
use patroni_core::cluster::Cluster;
use patroni_core::units::in_words;
use patroni_http::tls::VerifyClient;
use subtle::ConstantTimeEq;
use tokio::net::lookup_host;

use super::options::ApiOptions;
use super::reply::Reply;

/// How long a name may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// The rules, ready to be applied.
#[derive(Debug, Default)]
pub(crate) struct Access {
    limited: bool,
    networks: Vec<Network>,
    unresolved: Vec<String>,
    include_members: bool,
    needs_certificate: bool,
    credentials: Option<String>,
}

/// What is known of who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The address.
    pub(crate) address: IpAddr,
    /// A certificate was shown and verified.
    pub(crate) certified: bool,
}

impl Access {
    /// Reads the rules. Names of the allowlist are resolved now, those that cannot be are tried again with each request:
    /// a list of which nothing can be read lets nobody in.
    pub(crate) async fn new(options: &ApiOptions) -> Self {
        let (mut networks, mut unresolved) = (Vec::new(), Vec::new());
        for entry in &options.allowlist {
            if entry.contains('/') {
                match Network::parse(entry) {
                    Some(network) => networks.push(network),
                    None => tracing::error!(target: "patroni::api", "Invalid value \"{entry}\" in the allowlist"),
                }
            } else {
                let addresses = resolve(entry).await;
                if addresses.is_empty() {
                    unresolved.push(entry.clone());
                }
                networks.extend(addresses.into_iter().map(Network::of));
            }
        }
        let verify = options.tls.as_ref().map_or(VerifyClient::None, |tls| tls.verify_client);
        Access {
            limited: !options.allowlist.is_empty(),
            networks,
            unresolved,
            include_members: options.allowlist_include_members,
            needs_certificate: verify != VerifyClient::None,
            credentials: options.auth.as_ref().map(|auth| STANDARD.encode(auth)),
        }
    }

    /// Nothing is asked of anybody.
    pub(crate) fn is_open(&self) -> bool {
        !self.limited && !self.include_members && !self.needs_certificate && self.credentials.is_none()
    }

    /// May this client make this unsafe request? `members`: those of the cluster count where they are included.
    pub(crate) async fn check(
        &self,
        client: Client,
        authorization: Option<&[u8]>,
        members: Option<&Cluster>,
        count_members: bool,
    ) -> Result<(), Reply> {
        let count_members = count_members && self.include_members;
        let limited = self.limited || count_members;
        let allowed =
            async || self.lists(client.address).await || count_members && is_member(members, client.address).await;
        if limited && !allowed().await {
            return Err(Reply::text(403, "Access is denied"));
        }
        if self.needs_certificate && !client.certified {
            return Err(Reply::text(403, "client certificate required"));
        }
        let Some(expected) = &self.credentials else { return Ok(()) };
        let refusal = match authorization {
            None => "no auth header received",
            Some(header) => match header.strip_prefix(b"Basic ") {
                Some(given) if bool::from(given.ct_eq(expected.as_bytes())) => return Ok(()),
                Some(_) | None => "not authenticated",
            },
        };
        Err(Reply::text(401, refusal).with_header(WWW_AUTHENTICATE, "Basic realm=\"Patroni\""))
    }

    async fn lists(&self, address: IpAddr) -> bool {
        if self.networks.iter().any(|network| network.contains(address)) {
            return true;
        }
        for name in &self.unresolved {
            if resolve(name).await.contains(&address) {
                return true;
            }
        }
        false
    }
}

/// Is this the address of a member's REST API?
async fn is_member(cluster: Option<&Cluster>, address: IpAddr) -> bool {
    let urls = cluster.into_iter().flat_map(|c| c.members.values()).filter_map(|m| m.data.api_url.as_deref());
    for url in urls {
        let Ok(uri) = url.parse::<hyper::Uri>() else { continue };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if !host.is_empty() && resolve(host).await.contains(&address) {
            return true;
        }
    }
    false
}

async fn resolve(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return vec![address.to_canonical()];
    }
    match tokio::time::timeout(RESOLVE_LIMIT, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
        Ok(Err(e)) => {
            tracing::error!(target: "patroni::api", "Failed to resolve {host}: {e}");
            Vec::new()
        }
        Err(_) => {
            tracing::error!(target: "patroni::api", "Failed to resolve {host}: no answer within {}", in_words(RESOLVE_LIMIT));
            Vec::new()
        }
    }
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// `address/prefix`, or for IPv4 `address/netmask`.
    fn parse(text: &str) -> Option<Self> {
        let (address, mask) = text.split_once('/')?;
        let address: IpAddr = address.trim().parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match (mask.trim().parse::<u8>(), mask.trim().parse::<IpAddr>()) {
            (Ok(prefix), _) => prefix,
            (Err(_), Ok(IpAddr::V4(mask))) if address.is_ipv4() => {
                let ones = mask.to_bits().leading_ones();
                (mask.to_bits().count_ones() == ones).then_some(u8::try_from(ones).ok()?)?
            }
            _ => return None,
        };
        (prefix <= bits).then_some(Network { address, prefix })
    }

    fn of(address: IpAddr) -> Self {
        Network { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    fn contains(self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => u128::from(own.to_bits() ^ other.to_bits()) << 96,
            (IpAddr::V6(own), IpAddr::V6(other)) => own.to_bits() ^ other.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        differs.leading_zeros() >= u32::from(self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let rows = [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.5/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/255.0.0.0", "10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("127.0.0.1/32", "127.0.0.2", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
        ];
        for (network, address, expected) in rows {
            let network = Network::parse(network).expect(network);
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network:?} {address}");
        }
        for bad in ["10.0.0.0/33", "::/129", "x/8", "10.0.0.0/255.0.255.0", "10.0.0.0/"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn members_are_let_in_where_they_are_included() {
        let options = |allowlist: &[&str]| ApiOptions {
            allowlist: allowlist.iter().map(ToString::to_string).collect(),
            allowlist_include_members: true,
            ..ApiOptions::default()
        };
        let (alone, with_list) = (Access::new(&options(&[])).await, Access::new(&options(&["10.0.0.1"])).await);
        let cluster = super::super::sample::cluster();
        // Its members are at 127.0.0.1. Requests that members make of each other do not count them (POST /failsafe).
        for (access, address, members, count, allowed) in [
            (&alone, "127.0.0.1", Some(&cluster), true, true),
            (&alone, "10.0.0.1", Some(&cluster), true, false),
            (&alone, "127.0.0.1", None, true, false),
            (&alone, "10.0.0.1", Some(&cluster), false, true),
            (&with_list, "127.0.0.1", Some(&cluster), true, true),
            (&with_list, "10.0.0.1", None, true, true),
            (&with_list, "10.0.0.2", Some(&cluster), true, false),
            (&with_list, "127.0.0.1", Some(&cluster), false, false),
        ] {
            let client = Client { address: address.parse().unwrap(), certified: false };
            let found = access.check(client, None, members, count).await.is_ok();
            assert_eq!(found, allowed, "{access:?} {address} {count}");
        }
    }

    #[tokio::test]
    async fn each_rule_refuses_in_its_words() {
        let client = |address: &str, certified| Client { address: address.parse().unwrap(), certified };
        let options = ApiOptions {
            auth: Some("user:secret".to_owned()),
            allowlist: vec!["10.0.0.0/8".to_owned(), "127.0.0.1".to_owned(), "bad/99".to_owned()],
            ..ApiOptions::default()
        };
        let access = Access::new(&options).await;
        let body = |result: Result<(), Reply>| result.err().map(|reply| (reply.status, reply.body));
        let good = STANDARD.encode("user:secret");
        let good = format!("Basic {good}");
        let rows = [
            ("11.0.0.1", Some(good.as_str()), Some((403, "Access is denied"))),
            ("10.0.0.1", None, Some((401, "no auth header received"))),
            ("10.0.0.1", Some("Basic d3Jvbmc="), Some((401, "not authenticated"))),
            ("10.0.0.1", Some("Bearer x"), Some((401, "not authenticated"))),
            ("127.0.0.1", Some(good.as_str()), None),
        ];
        for (address, header, expected) in rows {
            let result = access.check(client(address, false), header.map(str::as_bytes), None, true).await;
            assert_eq!(body(result), expected.map(|(status, text)| (status, text.to_owned())), "{address} {header:?}");
        }
        assert!(Access::new(&ApiOptions::default()).await.is_open() && !access.is_open());

        let only = async |entries: &[&str], address: &str| {
            let allowlist = entries.iter().map(|entry| (*entry).to_owned()).collect();
            let access = Access::new(&ApiOptions { allowlist, ..ApiOptions::default() }).await;
            assert!(!access.is_open(), "{entries:?}");
            access.check(client(address, false), None, None, true).await.is_ok()
        };
        assert!(only(&["localhost"], "127.0.0.1").await && !only(&["localhost"], "10.0.0.1").await);
        assert!(
            !only(&["bad/99", "no-such-host.invalid"], "127.0.0.1").await,
            "nobody is let in by a list of mistakes"
        );
    }
}
