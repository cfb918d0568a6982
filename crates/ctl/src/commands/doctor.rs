//! `patronictl doctor`: what is wrong with a cluster or will bite, and the command that mends it.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use patroni_core::cluster::{Address, Cluster, Member};
use patroni_core::name::MemberName;

use crate::by_members::{self, Sight, Told};
use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, Store};
use crate::doctor::server::Facts;
use crate::doctor::settings::OfMember;
use crate::doctor::{Finding, certificates, finding, keys, lost, members, server, settings, wal};
use crate::error::CtlError;
use crate::sql::{self, Login};
use crate::{embedded, output, prompt, statuses};

/// How long the members of the agents' own store are asked, where it does not answer.
const EMBEDDED_PATIENCE: Duration = Duration::from_millis(300);

pub(crate) const COMMAND: Command = Command {
    name: "doctor",
    help: "Find what is wrong or will bite; exit code 1 if there is something",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt { names: &["--password"], key: "password", kind: Kind::Flag, help: "force password prompt" },
        Opt {
            names: &["-U", "--username"],
            key: "username",
            kind: Kind::Text,
            help: "database user name (by default the superuser of the configuration)",
        },
        Opt { names: &["-d", "--dbname"], key: "dbname", kind: Kind::Text, help: "database name to connect to" },
    ],
    examples: &["patronictl doctor batman || echo look after batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let login = login(context, matches).await?;
    let scope = store.scope.as_str();
    let cluster = match by_members::look(context, &store).await? {
        Sight::Stored(cluster) => cluster,
        Sight::Told(told) => return report(scope, &of_told(context, &store, &told).await),
    };
    let now = jiff::Timestamp::now();
    let mut findings = match store.absence(&cluster) {
        Some(absence) => vec![finding(absence, "look at the name, at namespace and at the address of the store")],
        None => keys::of_cluster(&cluster, scope, &store.prefix, now.as_millisecond()),
    };
    if let Some(picture) = context.look_at_embedded().await? {
        findings.extend(embedded::findings::of_store(&picture));
    }
    let mut statuses = statuses::ask_all(context, &cluster).await;
    statuses::ask_upstream(context, &cluster, &mut statuses).await;
    findings.extend(members::of_members(&cluster, &statuses, scope, &store.prefix));
    findings.extend(of_certificates(context, &cluster, scope, now.as_second()).await);
    let facts = match ask_leader(&cluster, &login).await {
        Asked::Answered(facts) => Some(*facts),
        Asked::Full(finding) => {
            findings.push(finding);
            None
        }
        Asked::Not => None,
    };
    findings.extend(lost::findings(&cluster, facts.as_ref()));
    if let (Some(leader), Some(facts)) = (cluster.leader_member(), facts) {
        findings.extend(wal::findings(&cluster, &statuses, &facts, scope));
        let (mut members, full) = settings_of_others(&cluster, &login).await;
        members.insert(0, OfMember { name: leader.name.to_string(), settings: facts.settings.clone() });
        findings.extend(of_leader(context, &cluster, scope, leader, facts).await);
        findings.extend(full);
        findings.extend(cluster.settings().into_iter().flat_map(|stored| settings::findings(stored, &members, scope)));
    }
    report(scope, &findings)
}

fn report(scope: &str, findings: &[Finding]) -> Result<(), CtlError> {
    if findings.is_empty() {
        output::echo(&format!("{scope}: nothing found"));
        return Ok(());
    }
    for finding in findings {
        output::echo(&finding.to_string());
    }
    Err(CtlError::Reported)
}

/// The store does not answer: that is found, and what the members say.
async fn of_told(context: &Context, store: &Store, told: &Told) -> Vec<Finding> {
    let mut findings = vec![finding(
        told.silence.clone(),
        "look after the store and the way to it: nobody takes over until it answers. What follows is what the members say of themselves",
    )];
    let embedded = tokio::time::timeout(EMBEDDED_PATIENCE, context.look_at_embedded()).await;
    if let Ok(Ok(Some(picture))) = embedded {
        findings.extend(embedded::findings::of_store(&picture));
    }
    findings.extend(members::of_members(&told.cluster, &told.statuses, &store.scope, &store.prefix));
    findings
}

/// As whom PostgreSQL is asked: as the options say, or else as the superuser of the configuration.
async fn login(context: &Context, matches: &Matches) -> Result<Login, CtlError> {
    let superuser = context.section("postgresql").and_then(|section| section.get("authentication")?.get("superuser"));
    let configured = |key: &str| superuser.and_then(|user| user.get(key)?.as_str()).map(str::to_owned);
    let user = matches.text("username").map(str::to_owned);
    let password = match (matches.flag("password"), &user) {
        (true, _) => Some(prompt::password().await?),
        (false, None) => configured("password"),
        (false, Some(_)) => None,
    };
    let dbname = matches.text("dbname").map_or_else(|| "postgres".to_owned(), str::to_owned);
    let user = user.or_else(|| configured("username"));
    // What a database has besides the functions of PostgreSQL is not called by these questions.
    let options = Some("-c search_path=pg_catalog".to_owned());
    Ok(Login { user, password, dbname: Some(dbname), options })
}

async fn of_certificates(context: &Context, cluster: &Cluster, scope: &str, now_s: i64) -> Vec<Finding> {
    let options = context.client_options();
    let mut found = Vec::new();
    for member in cluster.members.values() {
        let Some(api_url) = &member.data.api_url else { continue };
        if let Some(expires) = certificates::expiry_of_server(api_url, &options).await {
            let name = &member.name;
            let remedy = format!("renew restapi.certfile on {name}, then patronictl reload {scope} {name}");
            found.extend(certificates::of_expiry(&format!("the REST API of {name}"), expires, now_s, remedy));
        }
    }
    if let Some(file) = options.identity.as_ref().map(|files| &files.certfile)
        && let Some(expires) = certificates::expiry_of_file(file)
    {
        found.extend(certificates::of_expiry("patronictl", expires, now_s, format!("renew {file} (ctl.certfile)")));
    }
    found
}

/// What became of the question to PostgreSQL of the leader.
enum Asked {
    Answered(Box<Facts>),
    /// It takes no more connections, which is found.
    Full(Finding),
    /// It could not be asked from here, which is no trouble of the cluster.
    Not,
}

/// What PostgreSQL of the leader says.
async fn ask_leader(cluster: &Cluster, login: &Login) -> Asked {
    let Some(leader) = cluster.leader_member() else { return Asked::Not };
    let Some(address) = Address::of(&leader.data) else { return Asked::Not };
    let facts = match sql::connect(&address, login).await {
        Ok(client) => server::ask(&client).await,
        Err(reason) if is_about_connections(&reason) => return Asked::Full(too_many_clients(&leader.name, &reason)),
        Err(reason) => {
            output::warn(&format!(
                "slots, archiving, pg_rewind and pg_hba were not looked at{}: {reason}",
                if is_about_login(&reason) { " (see --username)" } else { "" }
            ));
            return Asked::Not;
        }
    };
    for (about, reason) in &facts.missed {
        output::warn(&format!("{about}: not looked at: {reason}"));
    }
    Asked::Answered(Box::new(facts))
}

/// What is found in that.
async fn of_leader(
    context: &Context,
    cluster: &Cluster,
    scope: &str,
    leader: &Member,
    mut facts: Facts,
) -> Vec<Finding> {
    if cluster.sync.leader.is_none() {
        facts.turned_down.clear(); // Nobody is waited for anyway.
    }
    let user = server::replication_user(context.section("postgresql")).unwrap_or("replicator");
    let mut replicas = Vec::new();
    for member in cluster.members.values().filter(|member| member.name != leader.name) {
        replicas.extend(ip_of(member).await.map(|ip| (member.name.to_string(), ip)));
    }
    server::findings(&facts, cluster, leader.name.as_str(), scope, user, &replicas)
}

/// The parameters of those that run beside the leader, all asked at the same time, and what is found on the way. That one cannot be
/// asked from here is no trouble of the cluster.
async fn settings_of_others(cluster: &Cluster, login: &Login) -> (Vec<OfMember>, Vec<Finding>) {
    let leader = cluster.leader_name();
    let others = cluster.members.values().filter(|member| Some(&member.name) != leader && member.data.is_running());
    let asked = others.map(|member| async move {
        let address = Address::of(&member.data)?;
        let asked = match sql::connect(&address, login).await {
            Ok(client) => server::ask_settings(&client).await,
            Err(reason) => Err(reason),
        };
        Some((&member.name, asked))
    });
    let (mut members, mut findings) = (Vec::new(), Vec::new());
    for (name, asked) in join_all(asked).await.into_iter().flatten() {
        match asked {
            Ok(settings) => members.push(OfMember { name: name.to_string(), settings }),
            Err(reason) if is_about_connections(&reason) => findings.push(too_many_clients(name, &reason)),
            Err(reason) => output::warn(&format!("settings of {name} were not looked at: {reason}")),
        }
    }
    (members, findings)
}

/// `too many clients already`, `remaining connection slots are reserved ...`, `too many connections for role ...`
fn is_about_connections(reason: &str) -> bool {
    ["too many clients", "remaining connection slots", "too many connections"].iter().any(|part| reason.contains(part))
}

fn too_many_clients(member: &MemberName, reason: &str) -> Finding {
    finding(format!("PostgreSQL of {member} takes no more connections: {reason}"), server::REMEDY_OF_CONNECTIONS)
}

/// A connection failed because of the user or the password, and not because there is no server to be reached.
fn is_about_login(reason: &str) -> bool {
    ["password", "authentication", "role \"", "pg_hba.conf", "no user is named"]
        .iter()
        .any(|part| reason.contains(part))
}

/// Where a member comes from, as far as its own address tells.
async fn ip_of(member: &Member) -> Option<IpAddr> {
    let address = Address::of(&member.data)?;
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await.ok()?.next();
    found.map(|found| found.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_login_is_one() {
        for (reason, expected) in [
            ("connection failed: FATAL:  password authentication failed for user \"x\"", true),
            ("connection failed: FATAL:  role \"x\" does not exist", true),
            ("connection failed: Connection refused", false),
            ("connection failed: FATAL:  sorry, too many clients already", false),
            ("connection failed: FATAL:  the database system is starting up", false),
        ] {
            assert_eq!(is_about_login(reason), expected, "{reason}");
            assert_eq!(is_about_connections(reason), reason.contains("sorry"), "{reason}");
        }
    }
}
