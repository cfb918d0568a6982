//! kubectl's configuration: a context names a cluster and a user.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patroni_http::TlsFiles;
use serde_json::Value;

use super::access::{Access, Credentials};

/// The access that a context of this file gives, or its present one; the problem where it gives none.
pub(super) fn read(file: &Path, context: Option<&str>) -> Result<Access, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let parsed = patroni_config::yaml::parse(&text).map_err(|error| format!("{shown} is not YAML: {error}"))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let config = parsed.to_json();
    let context = context.or(config["current-context"].as_str()).unwrap_or_default();
    access(&config, context, folder).map_err(|problem| format!("{problem} in {shown}"))
}

fn access(config: &Value, context: &str, folder: &Path) -> Result<Access, String> {
    let found = named(config, "context", context)?;
    let part = |kind: &str| {
        let name = found[kind].as_str().ok_or_else(|| format!("the context {context:?} names no {kind}"))?;
        named(config, kind, name)
    };
    let (cluster, user) = (part("cluster")?, part("user")?);
    for plugin in ["exec", "auth-provider"] {
        if !user[plugin].is_null() {
            let name = found["user"].as_str().unwrap_or_default();
            return Err(format!(
                "the user {name:?} gets credentials from a plugin ({plugin}), which is not supported; give it a token or a \
                 client certificate"
            ));
        }
    }
    let server = cluster["server"].as_str().ok_or_else(|| format!("the cluster of {context:?} has no server"))?;
    let certfile = file_or_data(user, "client-certificate", folder)?;
    let keyfile = file_or_data(user, "client-key", folder)?;
    Ok(Access {
        server: server.trim_end_matches('/').to_owned(),
        cacert: file_or_data(cluster, "certificate-authority", folder)?,
        unverified: cluster["insecure-skip-tls-verify"] == true,
        identity: certfile.map(|certfile| TlsFiles { certfile, keyfile, keyfile_password: None }),
        credentials: credentials(user, folder),
    })
}

fn named<'a>(config: &'a Value, kind: &str, name: &str) -> Result<&'a Value, String> {
    let all = config[format!("{kind}s")].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|one| one["name"] == name).map(|one| &one[kind]);
    found.filter(|found| found.is_object()).ok_or_else(|| format!("there is no {kind} {name:?}"))
}

/// The path of a file, or the text of one, which stands there in Base64.
fn file_or_data(from: &Value, key: &str, folder: &Path) -> Result<Option<String>, String> {
    let data = format!("{key}-data");
    if let Some(text) = from[&data].as_str() {
        let pem = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        return pem.map(Some).ok_or_else(|| format!("{data} is not PEM in Base64"));
    }
    Ok(from[key].as_str().map(|path| folder.join(path).display().to_string()))
}

fn credentials(user: &Value, folder: &Path) -> Credentials {
    let text = |key: &str| user[key].as_str().filter(|text| !text.is_empty());
    match (text("tokenFile"), text("token"), text("username").zip(text("password"))) {
        (Some(file), _, _) => Credentials::TokenFile(folder.join(file)),
        (None, Some(token), _) => Credentials::Token(token.to_owned()),
        (None, None, Some((name, password))) => Credentials::Basic(format!("{name}:{password}")),
        (None, None, None) => Credentials::None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(user: Value) -> Value {
        json!({
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}, {"name": "d", "context": {"cluster": "x"}}],
            "clusters": [{"name": "k", "cluster": {"server": "https://a:6443/", "certificate-authority-data": STANDARD.encode("ca")}}],
            "users": [{"name": "u", "user": user}],
        })
    }

    #[test]
    fn contexts_name_a_cluster_and_a_user() {
        let folder = Path::new("/f");
        let user = json!({"client-certificate": "c.pem", "client-key": "/k.pem", "token": "t"});
        let found = access(&config(user), "c", folder).expect("valid");
        assert_eq!((found.server.as_str(), found.cacert.as_deref()), ("https://a:6443", Some("ca")));
        let identity = found.identity.clone().expect("a certificate");
        assert_eq!((identity.certfile.as_str(), identity.keyfile.as_deref()), ("/f/c.pem", Some("/k.pem")));
        assert!(found.credentials == Credentials::Token("t".into()));
        assert!(!format!("{found:?}").contains("Token"), "secrets are not shown");
        for (user, expected) in [
            (json!({"username": "a", "password": "b"}), Credentials::Basic("a:b".into())),
            (json!({"tokenFile": "t", "token": "old"}), Credentials::TokenFile("/f/t".into())),
            (json!({"token": ""}), Credentials::None),
        ] {
            assert!(access(&config(user), "c", folder).expect("valid").credentials == expected);
        }
    }

    #[test]
    fn what_is_missing_or_cannot_be_done_is_said() {
        let problem = |user, context| access(&config(user), context, Path::new("/")).expect_err("was accepted");
        assert_eq!(problem(json!({}), "nope"), "there is no context \"nope\"");
        assert_eq!(problem(json!({}), "d"), "there is no cluster \"x\"");
        let plugin = problem(json!({"exec": {"command": "aws"}}), "c");
        assert!(
            plugin.starts_with("the user \"u\" gets credentials from a plugin (exec), which is not supported"),
            "{plugin}"
        );
        assert_eq!(problem(json!({"client-key-data": "?"}), "c"), "client-key-data is not PEM in Base64");
        let absent = read(Path::new("/nonexistent/config"), None).expect_err("was read");
        assert!(absent.starts_with("cannot read /nonexistent/config: "), "{absent}");
    }
}
