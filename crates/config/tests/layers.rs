//! Layers: the settings in force and the warnings are those of Patroni 4.1.5, recorded.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests may panic, and write where nobody else does")]

use patroni_config::{Config, Environment, Purpose, Source, merge};
use patroni_core::JsonMap;
use patroni_core::cluster::Version;
use serde_json::Value;

fn rows(text: &str) -> Vec<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn environment(variables: &Value) -> Environment {
    let pairs = variables.as_object().unwrap().iter();
    pairs.map(|(name, value)| (format!("PATRONI_{name}"), value.as_str().unwrap().to_owned())).collect()
}

#[test]
fn variables() {
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/environment.jsonl")) {
        let found = Source::new(None, environment(&row[0])).read().map(|l| l.tree).unwrap_or_default();
        let found = Value::Object(found);
        if found != row[1] {
            wrong.push(format!("{}\nfound    {found}\nexpected {}", row[0], row[1]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn layers() {
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/layers.jsonl")) {
        let dir = tempfile::tempdir().unwrap();
        let files = row[0].as_object().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text.as_str().unwrap()).unwrap();
        }
        let path = (!files.is_empty()).then(|| dir.path());
        let loaded = Config::load(Source::new(path, environment(&row[1])), Purpose::Agent);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}\n{}", row[0]));
        let mut warnings = loaded.warnings;
        let mut config = loaded.config;
        if let Value::Object(dynamic) = &row[2] {
            let next = config.with_dynamic(Version(5), dynamic.clone());
            warnings.extend(next.warnings);
            config = next.config;
            assert_eq!(config.settings().config_version, Some(Version(5)));
        }
        let found = Value::Object(config.effective().clone());
        // What 4.1.5 says nothing of.
        let is_of_ours = |text: &str| text.contains("unknown setting") || text.contains("has no effect");
        let texts: Vec<String> = warnings.iter().map(ToString::to_string).filter(|w| !is_of_ours(w)).collect();
        let expected: Vec<&str> = row[4].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        let same_texts = texts.len() == expected.len() && texts.iter().zip(&expected).all(|(t, e)| t.starts_with(e));
        if found != row[3] || !same_texts {
            let row_text = format!("{} {} {}", row[0], row[1], row[2]);
            wrong.push(format!("{row_text}\nfound    {found} {texts:?}\nexpected {} {expected:?}", row[3]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

const BASE: &str = "name: n\nscope: s\nrestapi: {listen: 'a:1'}\netcd3: {hosts: 'x:1,y:2'}\npostgresql:\n  \
                    listen: a:2\n  data_dir: /nonexistent/x\n  authentication: {superuser: {username: a, password: topsecret}}\n";

fn file(text: &str) -> (tempfile::NamedTempFile, Source) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let source = Source::new(Some(file.path()), Environment::default());
    (file, source)
}

fn load(text: &str) -> Result<patroni_config::Loaded, patroni_config::ConfigError> {
    Config::load(file(text).1, Purpose::Agent)
}

fn load_kept(text: &str) -> (tempfile::NamedTempFile, patroni_config::Loaded) {
    let (file, source) = file(text);
    let loaded = Config::load(source, Purpose::Agent).unwrap();
    (file, loaded)
}

fn map(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

#[test]
fn a_broken_reload_keeps_the_old_configuration() {
    let (file, loaded) = load_kept(BASE);
    let config = loaded.config;
    assert!(!config.reload().unwrap().changed);
    for (broken, says) in [
        ("a: [", "line 2"),
        ("- a\n", "does not contain a dict"),
        ("name: n\n", "scope is not defined"),
        (&BASE.replacen("name: n", "name: db/1", 1), "name is \"db/1\", but must be a text without a slash"),
        (
            &format!("{BASE}  use_pg_rewind: maybe\n"),
            ":9: postgresql.use_pg_rewind is \"maybe\", but must be a boolean",
        ),
    ] {
        std::fs::write(file.path(), broken).unwrap();
        let error = config.reload().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(file.path(), BASE.replace("a:2", "a:3")).unwrap();
    let next = config.reload().unwrap();
    assert!(next.changed);
    assert_eq!((config.postgresql.listen.as_str(), next.config.postgresql.listen.as_str()), ("a:2", "a:3"));
}

#[test]
fn a_name_that_sync_cannot_hold_is_warned_of() {
    let (_file, loaded) = load_kept(&BASE.replacen("name: n", "name: 'a,b'", 1));
    let texts: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.contains("the name \"a,b\" has a comma")), "{texts:?}");
    assert!(load_kept(BASE).1.warnings.is_empty());
}

#[test]
fn unknown_settings_are_named_with_place_and_neighbour() {
    let text = format!("{BASE}  pg_hab: []\n  wal_e: {{command: x}}\nttl: 5\nrest_api: {{}}\ntags: {{anything: 1}}\n");
    let (file, loaded) = load_kept(&text);
    let name = file.path().display().to_string();
    let texts: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let expected = [
        format!("{name}:11: unknown setting ttl (did you mean bootstrap.dcs.ttl?)"),
        format!("{name}:12: unknown setting rest_api (did you mean restapi?)"),
        format!("{name}:9: unknown setting postgresql.pg_hab (did you mean postgresql.pg_hba?)"),
    ];
    assert_eq!(texts, expected);
}

#[test]
fn compatibility_of_the_rest_api_is_2_or_4() {
    use patroni_config::Compatibility::{Four, Two};
    let with = |value: &str| BASE.replace("{listen: 'a:1'}", &format!("{{listen: 'a:1', compatibility: {value}}}"));
    for (value, expected) in [("2", Two), ("'2'", Two), ("4", Four), ("null", Four)] {
        let loaded = load(&with(value)).unwrap();
        assert_eq!((loaded.config.restapi.compatibility, loaded.warnings.len()), (expected, 0), "{value}");
        let yaml = patroni_config::yaml::parse(&with(value)).unwrap().to_json();
        let findings = patroni_config::validate::validate(&mut map(yaml), Default::default());
        let named: Vec<_> = findings.iter().filter(|line| line.contains("compatibility") && value != "null").collect();
        assert!(named.is_empty(), "{named:?}");
    }
    for wrong in ["3", "yes", "[]", "2.5"] {
        let error = load(&with(wrong)).unwrap_err().to_string();
        assert!(error.contains("restapi.compatibility") && error.contains("2 or 4"), "{error}");
        let yaml = patroni_config::yaml::parse(&with(wrong)).unwrap().to_json();
        let findings = patroni_config::validate::validate(&mut map(yaml), Default::default());
        assert!(findings.iter().any(|line| line.starts_with("restapi.compatibility ")), "{findings:?}");
    }
}

#[test]
fn wrong_values_of_the_store_do_not_stop_the_agent() {
    let config = load(BASE).unwrap().config;
    let dynamic = map(serde_json::json!({"postgresql": {"pg_ctl_timeout": "soon", "pg_hba": "x"}, "pause": "on"}));
    let next = config.with_dynamic(Version(1), dynamic);
    let texts: Vec<String> = next.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts.iter().all(|text| text.starts_with("dynamic configuration: postgresql.pg_")), "{texts:?}");
    assert!(next.config.settings().paused);
}

/// 4.1.5 leaves everything as it was as soon as one of these is wrong, and goes on doing so with every later change.
#[test]
fn a_wrong_value_of_the_store_hides_no_other() {
    let config = load(BASE).unwrap().config;
    let rows = [
        (
            serde_json::json!({"ttl": "abc"}),
            "dynamic configuration: ttl is \"abc\", but must be a whole number of seconds; using the default",
        ),
        (serde_json::json!({"postgresql": []}), ""),
        (
            serde_json::json!({"postgresql": "x"}),
            "dynamic configuration: postgresql is text, but must be a mapping; using the default",
        ),
        (
            serde_json::json!({"postgresql": {"parameters": [1], "pg_ctl_timeout": 7}}),
            "dynamic configuration: postgresql.parameters is a list, but must be a mapping; using the default",
        ),
        (
            serde_json::json!({"postgresql": {"parameters": {"work_mem": ["1MB"]}}}),
            "dynamic configuration: postgresql.parameters.work_mem is \"['1MB']\", but must be a text, a number or a boolean; using the default",
        ),
    ];
    for (mut dynamic, text) in rows {
        dynamic["loop_wait"] = 7.into();
        dynamic["pause"] = "on".into();
        let next = config.with_dynamic(Version(1), map(dynamic.clone()));
        let settings = next.config.settings();
        assert_eq!((settings.ttl.as_secs(), settings.loop_wait.as_secs(), settings.paused), (30, 7, true), "{dynamic}");
        let expected: Vec<&str> = [text].into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(next.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{dynamic}");
        assert_eq!(settings.unusable, expected, "{dynamic}");
        // The copy in the data directory has numbers where 4.1.5 reads numbers.
        assert!(next.config.dynamic().get("ttl").is_none_or(Value::is_number), "{dynamic}");
    }
}

#[test]
fn a_change_is_refused_for_what_it_adds() {
    let faults = |before: Value, after: Value| patroni_config::faults_of_change(&map(before), &map(after));
    use serde_json::json;
    assert_eq!(faults(json!({}), json!({"ttl": "abc"})), ["ttl is \"abc\", but must be a whole number of seconds"]);
    assert_eq!(faults(json!({"ttl": "abc"}), json!({"ttl": "abc", "pause": true})), [""; 0]);
    assert_eq!(
        faults(json!({}), json!({"postgresql": {"parameters": {"max_connections": 10}}})),
        ["postgresql.parameters.max_connections is \"10\", but must be a number of at least 25"]
    );
    assert_eq!(faults(json!({}), json!({"postgresql": {"use_pg_rewind": "maybe", "pg_hba": "x"}})).len(), 2);
    // What 4.1.5 takes in some sense, adjusts, leaves to the node, or does not know.
    for fine in [
        json!({"ttl": "5", "loop_wait": 1.5, "retry_timeout": true, "pause": null, "anything": {"of": ["others"]}}),
        json!({"synchronous_mode": "QUORUM", "maximum_lag_on_failover": "100", "slots": {"a": null}, "standby_cluster": {}}),
        json!({"postgresql": {"parameters": {"port": 1, "wal_level": "logical", "archive_command": null, "my.own": 1.5}}}),
        json!({"postgresql": {"pg_hba": ["local all all trust"], "use_pg_rewind": "on", "callbacks": {"on_start": "/x"}}}),
    ] {
        assert_eq!(faults(json!({}), fine.clone()), [""; 0], "{fine}");
    }
}

/// `key:` in YAML is null.
#[test]
fn null_is_no_text_and_other_types_are_refused() {
    let text = format!(
        "{BASE}  parameters: {{archive_command: , work_mem: 1MB}}\n  recovery_conf: {{restore_command: }}\n  \
         pg_hba: ['local all all trust', ]\n  pg_ident:\n  - \n  callbacks: {{on_start: }}\n"
    );
    let config = load(&text).unwrap().config;
    assert_eq!(config.postgresql.pg_hba.as_deref(), Some(&["local all all trust".to_owned()][..]));
    assert_eq!(config.postgresql.pg_ident.as_deref(), Some(&[][..]));
    assert!(config.postgresql.callbacks.is_empty() && config.postgresql.parameters["archive_command"].is_null());
    for (wrong, says) in [
        ("parameters: {a: [b]}", "postgresql.parameters.a is \"['b']\", but must be a text"),
        ("recovery_conf: {restore_command: {a: b}}", "postgresql.recovery_conf.restore_command is"),
        ("pg_hba: [{local: all}]", "postgresql.pg_hba is"),
        ("basebackup: [{max-rate: [1]}]", "postgresql.basebackup.max-rate is"),
        ("callbacks: {on_start: [a]}", "postgresql.callbacks.on_start is"),
    ] {
        let error = load(&format!("{BASE}  {wrong}\n")).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // A local null over a value of the store leaves the parameter out.
    let stored = serde_json::json!({"postgresql": {"parameters": {"archive_command": "x"}}});
    let next = config.with_dynamic(Version(1), map(stored)).config;
    assert!(next.postgresql.parameters["archive_command"].is_null());
}

#[test]
fn settings_of_the_past_are_named_with_what_replaced_them() {
    let text = format!(
        "{BASE}  use_slots: false\n  initdb: [a]\nbootstrap: {{users: {{admin: {{password: x}}}}, dcs: {{ttl: abc}}}}\n"
    );
    let (file, loaded) = load_kept(&text);
    let name = file.path().display().to_string();
    let expected = [
        format!(
            "{name}:11: the setting bootstrap.users has no effect; create users in a script, bootstrap.post_bootstrap"
        ),
        format!("{name}:10: the setting postgresql.initdb has no effect; use bootstrap.initdb"),
        format!(
            "{name}:9: the setting postgresql.use_slots has no effect; it counts in the store only: use \
                 bootstrap.dcs.postgresql.use_slots, or patronictl edit-config"
        ),
    ];
    assert_eq!(loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    let source = Source::new(Some(file.path()), Environment::default());
    let mut said = patroni_config::validate::warnings(&source).unwrap();
    let of_dcs = said.pop().unwrap();
    assert_eq!(said, expected);
    assert!(of_dcs.starts_with("bootstrap.dcs: dynamic configuration: ttl is"), "{of_dcs}");
    std::fs::write(file.path(), format!("{BASE}  use_pg_rewind: maybe\n")).unwrap();
    assert!(patroni_config::validate::warnings(&source).unwrap_err()[0].contains("use_pg_rewind"));
}

#[test]
fn passwords_are_not_printed() {
    let config = load(BASE).unwrap().config;
    let password = config.postgresql.authentication.superuser.password.as_ref().unwrap();
    assert_eq!(password.expose(), "topsecret");
    assert!(!format!("{config:?} {:?} {:?}", config.postgresql, config.etcd3).contains("topsecret"));
    let error = load(&BASE.replace("{username: a, password: topsecret}", "topsecret")).unwrap_err();
    assert!(!error.to_string().contains("topsecret"), "{error}");
}

#[test]
fn settings_are_complete() {
    let config = load(&format!("{BASE}  create_replica_methods: [wal_e, basebackup]\n  wal_e: {{no_leader: 1}}\n"))
        .unwrap()
        .config;
    let dynamic = serde_json::json!({
        "synchronous_mode": "Quorum", "synchronous_mode_strict": true, "synchronous_node_count": 0,
        "master_start_timeout": 5, "member_slots_ttl": "1h", "slots": {"a": 0}, "ignore_slots": [{"name": "x"}],
        "maximum_lag_on_syncnode": -1, "maximum_lag_on_failover": "5", "max_timelines_history": 3, "failsafe_mode": true,
    });
    let settings = config.with_dynamic(Version(1), map(dynamic)).config.settings().clone();
    assert_eq!(settings.synchronous.mode, patroni_core::settings::SynchronousMode::Quorum);
    assert_eq!((settings.synchronous.node_count, settings.synchronous.maximum_lag), (1, None));
    assert_eq!((settings.primary_start_timeout.as_secs(), settings.slots.member_slots_ttl.as_secs()), (5, 3600));
    assert_eq!((settings.maximum_lag_on_failover, settings.max_timelines_history), (5, 3));
    assert!(settings.failsafe_mode && settings.can_clone_without_leader && !settings.can_bootstrap);
    assert!(settings.slots.use_slots && settings.slots.permanent.contains_key("a") && settings.slots.ignore.len() == 1);
    let standby = serde_json::json!({"synchronous_mode": true, "standby_cluster": {"port": 5432}});
    let settings = config.with_dynamic(Version(2), map(standby)).config.settings().clone();
    assert_eq!(settings.synchronous.mode, patroni_core::settings::SynchronousMode::Off);
    assert_eq!(settings.standby_cluster.as_ref().unwrap().port.as_deref(), Some("5432"));
}

#[test]
fn the_copy_of_the_dynamic_configuration_is_used_until_the_store_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = BASE.replace("/nonexistent/x", &dir.path().display().to_string());
    patroni_config::cache::save(dir.path(), &map(serde_json::json!({"ttl": 44, "pause": true}))).unwrap();
    let config = load(&text).unwrap().config;
    assert_eq!(
        (config.settings().ttl.as_secs(), config.settings().paused, config.settings().config_version),
        (44, true, None)
    );
    std::fs::write(patroni_config::cache::path(dir.path()), "{broken").unwrap();
    assert_eq!(load(&text).unwrap().warnings.len(), 1);
}

#[test]
fn typed_sections() {
    let text = format!(
        "{BASE}  basebackup: [verbose, {{max-rate: 100M}}]\n  parameters: {{a: 1}}\nbootstrap:\n  method: m\n  \
         m: {{command: c, no_params: true}}\n  initdb: [data-checksums, {{encoding: UTF8}}]\n  post_init: x\n\
         tags: {{nofailover: false, clonefrom: true, my: tag}}\nlog: {{format: [a, {{b: c}}], level: WARN}}\nnamespace: /x/\n"
    );
    let config = load(&text).unwrap().config;
    assert_eq!(config.base_path(), "/x/s");
    assert_eq!(config.etcd3.as_ref().unwrap().hosts, ["x:1", "y:2"]);
    assert_eq!(config.postgresql.basebackup.len(), 2);
    let bootstrap = config.bootstrap.as_ref().unwrap();
    assert_eq!(bootstrap.method.as_ref().unwrap().command, "c");
    assert_eq!((bootstrap.initdb.len(), bootstrap.post_bootstrap.as_deref()), (2, Some("x")));
    assert_eq!(Value::Object(config.tags.clone()), serde_json::json!({"clonefrom": true, "my": "tag"}));
    assert_eq!(config.log.level, "WARNING");
    assert_eq!(config.store().unwrap().0, "etcd3");
    assert!(merge::same(config.dynamic(), &JsonMap::new()));
}
