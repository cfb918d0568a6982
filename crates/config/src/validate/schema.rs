//! The table of all settings that are validated, in the order in which Patroni 4.1.5 reports them.

use super::Key::{AnyOf, AtMostOne, Optional, OrEmpty, Required, Stores};
use super::Rule::{Bool, Check, Dict, Int, List, Map, OneOf, Or, Programs, Text};
use super::checks::{
    binary_name, comma_separated_host_port, compatibility, connect_address, data_dir, disk_free_warning,
    full_wal_switchover, host_port, host_port_list, ipv4, ipv6, listen, listen_multiple, log_format, synchronous_mode,
    watchdog_mode,
};
use super::{Key, Range, Rule, Type};

const LISTEN: Rule = Check(Some(Type::Text), listen);
const CONNECT_ADDRESS: Rule = Check(Some(Type::Text), connect_address);
const BINARY: Rule = Check(Some(Type::Text), binary_name);
const HOST_PORT: Rule = Check(None, host_port);
const HOSTS: Rule = Or(&[Check(Some(Type::Text), comma_separated_host_port), List(&HOST_PORT)]);
const PORT: Rule = Rule::Range(Range { min: None, max: Some(65535), unit: None, aligned: None, typed: true });
const TEXTS: Rule = List(&Text);

/// A number, also as a text, of at least `min`.
const fn at_least(min: i64) -> Rule {
    Rule::Range(Range { min: Some(min), max: None, unit: None, aligned: None, typed: false })
}

/// A number, also as a text, between limits.
const fn between(min: i64, max: i64) -> Rule {
    Rule::Range(Range { min: Some(min), max: Some(max), unit: None, aligned: None, typed: false })
}

/// A number that is not a text.
const fn int(min: i64, max: Option<i64>) -> Rule {
    Rule::Range(Range { min: Some(min), max, unit: None, aligned: None, typed: true })
}

const LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"];

pub(super) const ROOT: &[Key] = &[
    Required("name", Text),
    Required("scope", Text),
    Optional("thread_pool_size", int(5, None)),
    Optional(
        "thread_stack_size",
        Rule::Range(Range { min: Some(65536), max: None, unit: Some("B"), aligned: Some(65536), typed: true }),
    ),
    Optional("log", Map(LOG)),
    Optional("ctl", Map(CTL)),
    Required("restapi", Map(RESTAPI)),
    Optional("bootstrap", Map(BOOTSTRAP)),
    Stores,
    Optional("citus", Map(&[Required("database", Text), Required("group", int(0, None))])),
    Required("postgresql", Map(POSTGRESQL)),
    Optional(
        "watchdog",
        Map(&[
            Optional("mode", Check(None, watchdog_mode)),
            Optional("device", Text),
            Optional("safety_margin", int(-1, None)),
        ]),
    ),
    Optional("tags", Map(TAGS)),
];

const LOG: &[Key] = &[
    Optional("type", OneOf(&["plain", "json"], true)),
    Optional("level", OneOf(LEVELS, true)),
    Optional("traceback_level", OneOf(&["DEBUG", "ERROR"], false)),
    Optional("format", Check(None, log_format)),
    Optional("dateformat", Text),
    Optional("static_fields", Dict),
    Optional("max_queue_size", Int),
    Optional("dir", Text),
    Optional("file_num", Int),
    Optional("file_size", Int),
    Optional("mode", int(0, Some(0o777))),
    Optional("loggers", Dict),
    Optional("deduplicate_heartbeat_logs", Bool),
];

const CTL: &[Key] = &[
    Optional("insecure", Bool),
    Optional("cacert", Text),
    Optional("certfile", Text),
    Optional("keyfile", Text),
    Optional("keyfile_password", Text),
];

const RESTAPI: &[Key] = &[
    Optional("thread_pool_size", int(5, None)),
    Required("listen", LISTEN),
    Required("connect_address", CONNECT_ADDRESS),
    Optional("authentication", Map(&[Required("username", Text), Required("password", Text)])),
    Optional("certfile", Text),
    Optional("keyfile", Text),
    Optional("keyfile_password", Text),
    Optional("cafile", Text),
    Optional("ciphers", Text),
    Optional("verify_client", OneOf(&["none", "optional", "required"], true)),
    Optional("allowlist", TEXTS),
    Optional("allowlist_include_members", Bool),
    Optional("http_extra_headers", Dict),
    Optional("https_extra_headers", Dict),
    Optional("request_queue_size", int(0, Some(4096))),
    Optional("server_tokens", OneOf(&["minimal", "productonly", "original"], false)),
    // Not a setting of Patroni.
    Optional("compatibility", Check(None, compatibility)),
];

const BOOTSTRAP: &[Key] =
    &[Required("dcs", Map(DYNAMIC)), Optional("initdb", List(&Or(&[Text, Dict]))), Optional("method", Text)];

const DYNAMIC: &[Key] = &[
    Optional("ttl", at_least(20)),
    Optional("loop_wait", at_least(1)),
    Optional("retry_timeout", at_least(3)),
    Optional("maximum_lag_on_failover", at_least(0)),
    Optional("maximum_lag_on_syncnode", at_least(-1)),
    Optional(
        "member_slots_ttl",
        Rule::Range(Range { min: Some(0), max: None, unit: Some("s"), aligned: None, typed: false }),
    ),
    Optional(
        "postgresql",
        Map(&[
            Optional(
                "parameters",
                Map(&[
                    Optional("max_connections", between(1, 262_143)),
                    Optional("max_locks_per_transaction", between(10, 2_147_483_647)),
                    Optional("max_prepared_transactions", between(0, 262_143)),
                    Optional("max_replication_slots", between(0, 262_143)),
                    Optional("max_wal_senders", between(0, 262_143)),
                    Optional("max_worker_processes", between(0, 262_143)),
                ]),
            ),
            Optional("use_pg_rewind", Bool),
            Optional("pg_hba", TEXTS),
            Optional("pg_ident", TEXTS),
            Optional("pg_ctl_timeout", at_least(0)),
            Optional("use_slots", Bool),
        ]),
    ),
    Optional("primary_start_timeout", at_least(0)),
    Optional("primary_hang_timeout", at_least(0)),
    Optional("primary_stop_timeout", at_least(0)),
    Optional(
        "standby_cluster",
        Map(&[
            AnyOf(&[("host", Text), ("port", PORT), ("restore_command", Text)]),
            Optional("primary_slot_name", Text),
            Optional("create_replica_methods", TEXTS),
            Optional("archive_cleanup_command", Text),
            Optional("recovery_min_apply_delay", Text),
        ]),
    ),
    Optional("synchronous_mode", Check(None, synchronous_mode)),
    Optional("synchronous_mode_strict", Bool),
    Optional("synchronous_mode_hold", Bool),
    Optional("disk_free_warning", Check(None, disk_free_warning)),
    Optional("full_wal_switchover", Check(None, full_wal_switchover)),
    Optional("synchronous_node_count", at_least(1)),
];

pub(crate) const CONSUL: Rule = Map(&[
    AnyOf(&[("host", HOST_PORT), ("url", Text)]),
    Optional("port", PORT),
    Optional("scheme", Text),
    Optional("token", Text),
    Optional("verify", Bool),
    Optional("cacert", Text),
    Optional("cert", Text),
    Optional("key", Text),
    Optional("dc", Text),
    Optional("checks", TEXTS),
    Optional("register_service", Bool),
    Optional("service_tags", TEXTS),
    Optional("service_check_interval", Text),
    Optional("service_check_tls_server_name", Text),
    Optional("consistency", OneOf(&["default", "consistent", "stale"], true)),
]);

pub(crate) const ETCD: Rule = Map(&[
    AnyOf(&[
        ("host", HOST_PORT),
        ("hosts", HOSTS),
        ("srv", Text),
        ("srv_suffix", Text),
        ("url", Text),
        ("proxy", Text),
    ]),
    Optional("protocol", Text),
    Optional("username", Text),
    Optional("password", Text),
    Optional("cacert", Text),
    Optional("cert", Text),
    Optional("key", Text),
]);

pub(crate) const EXHIBITOR: Rule =
    Map(&[Required("hosts", TEXTS), Required("port", PORT), Optional("poll_interval", int(1, None))]);

pub(crate) const RAFT: Rule = Map(&[
    // 4.1.5 requires this one and the partners; ours follow from the rest.
    Optional("self_addr", CONNECT_ADDRESS),
    Optional("bind_addr", LISTEN),
    Optional("partner_addrs", Check(Some(Type::List), host_port_list)),
    Optional("data_dir", Text),
    Optional("password", Text),
    Optional("cacert", Text),
    Optional("cert", Text),
    Optional("key", Text),
    Optional("key_password", Text),
]);

pub(crate) const ZOOKEEPER: Rule = Map(&[
    Required("hosts", HOSTS),
    Optional("use_ssl", Bool),
    Optional("cacert", Text),
    Optional("cert", Text),
    Optional("key", Text),
    Optional("key_password", Text),
    Optional("verify", Bool),
    Optional("set_acls", Dict),
    Optional("auth_data", Dict),
]);

pub(crate) const KUBERNETES: Rule = Map(&[
    Required("labels", Map(&[])),
    Optional("bypass_api_service", Bool),
    Optional("namespace", Text),
    Optional("scope_label", Text),
    Optional("role_label", Text),
    Optional("leader_label_value", Text),
    Optional("follower_label_value", Text),
    Optional("standby_leader_label_value", Text),
    Optional("tmp_role_label", Text),
    Optional("use_endpoints", Bool),
    Optional("pod_ip", Or(&[Check(None, ipv4), Check(None, ipv6)])),
    Optional("ports", List(&Map(&[Required("name", Text), Required("port", PORT)]))),
    Optional("cacert", Text),
    Optional("retriable_http_codes", Or(&[Int, List(&Int)])),
    Optional("bootstrap_labels", Dict),
]);

const USER: &[Key] = &[Required("username", Text), Optional("password", Text)];

const POSTGRESQL: &[Key] = &[
    Required("listen", Check(Some(Type::Text), listen_multiple)),
    Required("connect_address", CONNECT_ADDRESS),
    Optional("proxy_address", CONNECT_ADDRESS),
    Required(
        "authentication",
        Map(&[Required("replication", Map(USER)), Required("superuser", Map(USER)), Optional("rewind", Map(USER))]),
    ),
    Required("data_dir", Check(Some(Type::Text), data_dir)),
    Optional(
        "bin_name",
        Map(&[
            Optional("pg_ctl", BINARY),
            Optional("initdb", BINARY),
            Optional("pg_controldata", BINARY),
            Optional("pg_basebackup", BINARY),
            Optional("postgres", BINARY),
            Optional("pg_isready", BINARY),
            Optional("pg_rewind", BINARY),
        ]),
    ),
    OrEmpty("bin_dir", Programs),
    Optional("parameters", Map(&[Optional("unix_socket_directories", Text)])),
    Optional("pg_hba", TEXTS),
    Optional("pg_ident", TEXTS),
    Optional("pg_ctl_timeout", at_least(0)),
    Optional("use_pg_rewind", Bool),
];

const TAGS: &[Key] = &[
    AtMostOne(&[("nofailover", Bool), ("failover_priority", int(0, None))]),
    Optional("clonefrom", Bool),
    Optional("noloadbalance", Bool),
    Optional("replicatefrom", Text),
    AtMostOne(&[("nosync", Bool), ("sync_priority", int(0, None))]),
    Optional("nostream", Bool),
];
