//! Would `pg_hba.conf` of the leader let a replica in? The first rule that matches decides.

use std::net::IpAddr;

/// A rule as the view `pg_hba_file_rules` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `local`, `host`, `hostssl`, ...
    pub(crate) kind: String,
    /// Databases.
    pub(crate) databases: Vec<String>,
    /// Users.
    pub(crate) users: Vec<String>,
    /// An address, a name, `all`, `samehost`, `samenet`.
    pub(crate) address: String,
    /// The mask of an address.
    pub(crate) mask: String,
    /// `trust`, `reject`, `md5`, ...
    pub(crate) method: String,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A rule lets it authenticate.
    Admitted,
    /// The first rule that matches rejects it.
    Rejected,
    /// No rule matches.
    NoRule,
    /// It depends on what cannot be known from here: names, groups, networks of the server.
    Unknown,
}

/// What becomes of a replication connection of this user from this address.
pub(crate) fn verdict(rules: &[Rule], user: &str, from: IpAddr) -> Verdict {
    for rule in rules {
        if rule.kind == "local" || !rule.databases.iter().any(|name| name == "replication") {
            continue;
        }
        match (matches_user(rule, user), matches_address(rule, from)) {
            (Some(false), _) | (_, Some(false)) => {}
            (Some(true), Some(true)) if rule.method == "reject" => return Verdict::Rejected,
            (Some(true), Some(true)) => return Verdict::Admitted,
            (None, _) | (_, None) => return Verdict::Unknown,
        }
    }
    Verdict::NoRule
}

/// `None` where it depends on groups or patterns.
fn matches_user(rule: &Rule, user: &str) -> Option<bool> {
    if rule.users.iter().any(|name| name == "all" || name == user) {
        return Some(true);
    }
    let special = rule.users.iter().any(|name| name.starts_with(['+', '@', '/']));
    (!special).then_some(false)
}

fn matches_address(rule: &Rule, from: IpAddr) -> Option<bool> {
    if rule.address == "all" {
        return Some(true);
    }
    let address: IpAddr = rule.address.parse().ok()?;
    let mask: IpAddr = rule.mask.parse().ok()?;
    Some(match (address, mask, from) {
        (IpAddr::V4(net), IpAddr::V4(mask), IpAddr::V4(from)) => {
            u32::from(net) & u32::from(mask) == u32::from(from) & u32::from(mask)
        }
        (IpAddr::V6(net), IpAddr::V6(mask), IpAddr::V6(from)) => {
            u128::from(net) & u128::from(mask) == u128::from(from) & u128::from(mask)
        }
        (_, _, _) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(databases: &str, user: &str, address: &str, mask: &str, method: &str) -> Rule {
        Rule {
            kind: "host".to_owned(),
            databases: vec![databases.to_owned()],
            users: vec![user.to_owned()],
            address: address.to_owned(),
            mask: mask.to_owned(),
            method: method.to_owned(),
        }
    }

    #[test]
    fn the_first_rule_decides() {
        let all = || rule("all", "all", "all", "", "trust");
        let net = |method| rule("replication", "rep", "10.1.0.0", "255.255.0.0", method);
        let rows = [
            // `all` databases are not replication.
            (vec![all()], Verdict::NoRule),
            (vec![all(), net("md5")], Verdict::Admitted),
            (vec![net("reject"), net("md5")], Verdict::Rejected),
            (vec![rule("replication", "other", "all", "", "reject"), net("md5")], Verdict::Admitted),
            (vec![rule("replication", "+group", "all", "", "md5")], Verdict::Unknown),
            (vec![rule("replication", "all", "samenet", "", "md5")], Verdict::Unknown),
            (vec![rule("replication", "all", "10.2.0.0", "255.255.0.0", "md5")], Verdict::NoRule),
            (vec![rule("replication", "all", "::", "::", "md5")], Verdict::NoRule),
            (
                vec![Rule { kind: "local".to_owned(), ..rule("replication", "all", "all", "", "trust") }],
                Verdict::NoRule,
            ),
        ];
        for (rules, expected) in rows {
            assert_eq!(verdict(&rules, "rep", IpAddr::from([10, 1, 2, 3])), expected, "{rules:?}");
        }
    }
}
