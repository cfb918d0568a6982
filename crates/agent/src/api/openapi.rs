//! The description of the API in OpenAPI 3.1, made of the table that requests are routed by.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use patroni_core::COMPATIBLE_VERSION;
use serde_json::{Map, Value, json};

use super::endpoints::{Body, ENDPOINTS, Endpoint, Operation, Parameter, Purpose, Shape};
use patroni_core::request::Handover;

/// The description, as text: it never changes while the agent runs.
pub(crate) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    &TEXT
}

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for row in ENDPOINTS {
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.method.to_lowercase()] = operation(row, row.method);
        if matches!(row.purpose, Purpose::Check | Purpose::Liveness | Purpose::Readiness) {
            path["head"] = operation(row, "HEAD");
            path["options"] = operation(row, "OPTIONS");
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "REST API of Patroni",
            "version": COMPATIBLE_VERSION,
            "summary": "Health checks, monitoring, configuration and operations of one node of a cluster.",
            "description": "Any other path that is read is a health check as well: a word in it (primary, replica, \
                            health, ...) says which. Requests that change something may need a password \
                            (restapi.authentication), a client certificate (restapi.verify_client) or an address \
                            (restapi.allowlist).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic"},
                "certificate": {"type": "mutualTLS"},
            },
            "parameters": {"lag": parameter(Parameter::Lag), "mode": parameter(Parameter::Mode), "tags": parameter(Parameter::Tags)},
            "schemas": schemas(),
        },
    })
}

fn operation(row: &Endpoint, method: &str) -> Value {
    let bare = method == "HEAD" || method == "OPTIONS";
    let mut answers: BTreeMap<u16, BTreeMap<Shape, &str>> = BTreeMap::new();
    let own = row.answers.iter().map(|(code, words, shape)| (*code, *words, if bare { Shape::Empty } else { *shape }));
    for (code, words, shape) in own.chain(common(row.purpose)) {
        answers.entry(code).or_default().insert(shape, words);
    }
    let answers: Map<String, Value> = answers.iter().map(|(code, shapes)| (code.to_string(), answer(shapes))).collect();
    let mut operation = json!({
        "operationId": operation_id(method, row.path),
        "summary": row.summary,
        "responses": answers,
    });
    if !row.parameters.is_empty() {
        operation["parameters"] =
            row.parameters.iter().map(|p| json!({"$ref": format!("#/components/parameters/{}", name(*p))})).collect();
    }
    if let Purpose::Change(change) = row.purpose {
        operation["security"] = json!([{}, {"password": []}, {"certificate": []}, {"password": [], "certificate": []}]);
        if change.body() != Body::None {
            operation["requestBody"] = json!({
                "required": change.body() == Body::Required,
                "content": {"application/json": {"schema": request_schema(change)}},
            });
        }
    }
    operation
}

/// `GET /standby-leader` is `get_standby_leader_2`, its other spelling `get_standby_leader`.
fn operation_id(method: &str, path: &str) -> String {
    let word = match path {
        "/" => "root".to_owned(),
        "/standby-leader" => "standby_leader_2".to_owned(),
        path => path[1..].replace(['-', '.'], "_"),
    };
    format!("{}_{word}", method.to_lowercase())
}

/// What all changes may answer.
fn common(purpose: Purpose) -> Vec<(u16, &'static str, Shape)> {
    let Purpose::Change(change) = purpose else { return Vec::new() };
    let mut answers = vec![
        (401, "The password is missing or wrong.", Shape::Text),
        (403, "Not from this address, or not without a certificate.", Shape::Text),
    ];
    let body = [
        (400, "The body is not a JSON object.", Shape::Page),
        (408, "The body did not arrive in time.", Shape::Page),
        (413, "The body is too large.", Shape::Page),
    ];
    match change.body() {
        Body::None => {}
        Body::Optional => answers.extend(body),
        Body::Required => {
            answers.extend(body);
            answers.push((411, "There is no body.", Shape::Page));
        }
    }
    answers
}

fn answer(shapes: &BTreeMap<Shape, &str>) -> Value {
    let words: Vec<&str> = shapes.values().copied().collect();
    let mut answer = json!({"description": words.join(" Or: ")});
    let content: Map<String, Value> = shapes.keys().filter_map(|shape| content(*shape)).collect();
    if !content.is_empty() {
        answer["content"] = Value::Object(content);
    }
    answer
}

/// Sentences and error pages are of one type, as in Patroni.
fn content(shape: Shape) -> Option<(String, Value)> {
    let schema = |name: &str| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
    let (kind, content) = match shape {
        Shape::Empty => return None,
        Shape::Text | Shape::Page => ("text/html", json!({"schema": {"type": "string"}})),
        Shape::Metrics => ("text/plain", json!({"schema": {"type": "string"}})),
        Shape::OpenMetrics => ("application/openmetrics-text", json!({"schema": {"type": "string"}})),
        Shape::Status => ("application/json", schema("Status")),
        Shape::Topology => ("application/json", schema("Cluster")),
        Shape::History => ("application/json", schema("History")),
        Shape::Config => ("application/json", schema("Configuration")),
        Shape::Members => ("application/json", schema("FailsafeMembers")),
        Shape::KnownMembers => ("application/json", schema("KnownMembers")),
        Shape::Upstream => ("application/json", schema("Upstream")),
        Shape::Description => ("application/json", json!({"schema": {"type": "object"}})),
    };
    Some((kind.to_owned(), content))
}

fn name(parameter: Parameter) -> &'static str {
    match parameter {
        Parameter::Lag => "lag",
        Parameter::Mode => "mode",
        Parameter::Tags => "tags",
    }
}

fn parameter(which: Parameter) -> Value {
    match which {
        Parameter::Lag => json!({
            "name": "lag", "in": "query", "schema": {"type": "string"}, "examples": {"bytes": {"value": "1048576"}, "unit": {"value": "10MB"}},
            "description": "How far behind the leader a replica may be: bytes, or a number with B, kB, MB, GB or TB. \
                            What cannot be read is no limit.",
        }),
        Parameter::Mode => json!({
            "name": "mode", "in": "query", "schema": {"type": "string", "default": "apply"}, "examples": {"write": {"value": "write"}},
            "description": "What lag counts: WAL received (write) or replayed (apply, and any other word).",
        }),
        Parameter::Tags => json!({
            "name": "tags", "in": "query", "style": "form", "explode": true,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"pattern": "^tag_[A-Za-z0-9_]+$"}},
            "description": "tag_KEY=VALUE: the node must have the tag KEY with this value. Any number of them.",
        }),
    }
}

fn request_schema(change: Operation) -> Value {
    let time = json!({
        "type": "string", "examples": ["2030-01-31T22:00:00+01:00"],
        "description": "ISO 8601 with an offset, or any other clear way to write a time.",
    });
    match change {
        Operation::PatchConfig | Operation::PutConfig | Operation::Failsafe | Operation::Mpp => {
            json!({"type": "object", "minProperties": 1})
        }
        Operation::Restart => json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "restart_pending": {"description": "Only if a restart is pending; that the key is there is enough."},
                "role": {"enum": ["primary", "standby_leader", "replica"], "description": "Only in this role."},
                "postgres_version": {"type": "string", "examples": ["15.4"], "description": "Only if an older one runs."},
                "timeout": {
                    "type": ["integer", "string"], "examples": [60, "5min"],
                    "description": "How long the start may take, instead of primary_start_timeout; seconds.",
                },
                "schedule": time,
            },
        }),
        Operation::Reinitialize => json!({
            "type": "object",
            "properties": {
                "force": {"type": "boolean", "description": "Also while something else goes on; that is cancelled."},
                "from_leader": {"type": "boolean", "description": "Copy from the leader, not from a replica."},
            },
        }),
        Operation::Move(Handover::Switchover) => json!({
            "type": "object",
            "required": ["leader"],
            "properties": {"leader": {"type": "string"}, "candidate": {"type": "string"}, "scheduled_at": time},
        }),
        Operation::Move(Handover::Failover) => json!({
            "type": "object",
            "required": ["candidate"],
            "properties": {"candidate": {"type": "string"}, "leader": {"type": "string"}},
        }),
        Operation::Reload | Operation::DeleteRestart | Operation::DeleteSwitchover | Operation::Sigterm => {
            json!({"type": "object"})
        }
    }
}

fn schemas() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let flag = json!({"type": "boolean"});
    let object = json!({"type": "object"});
    let position = json!({"type": ["integer", "null"]});
    let lag = json!({"type": ["integer", "string"]});
    json!({
        "Status": {
            "type": "object",
            "required": ["state", "role", "patroni"],
            "properties": {
                "state": text, "role": text, "postmaster_start_time": text, "server_version": number,
                "xlog": {
                    "type": "object",
                    "properties": {
                        "location": number, "received_location": position, "replayed_location": position,
                        "replayed_timestamp": {"type": ["string", "null"]}, "paused": flag,
                    },
                },
                "sync_standby": flag, "quorum_standby": flag,
                "timeline": {"type": ["integer", "null"]},
                "replication_state": text,
                "replication": {"type": "array", "items": object},
                "pause": flag, "cluster_unlocked": flag, "failsafe_mode_is_active": flag, "dcs_last_seen": number,
                "tags": object, "database_system_identifier": text,
                "pending_restart": flag, "pending_restart_reason": object,
                "patroni": {
                    "type": "object", "required": ["version", "scope"],
                    "properties": {"version": text, "scope": text, "name": text},
                },
                "scheduled_restart": object, "watchdog_failed": flag,
                "job": {
                    "type": "object", "required": ["title"],
                    "properties": {
                        "title": text, "seconds": number, "progress": text,
                        "bytes": number, "total_bytes": number, "percent": number,
                    },
                },
                "holding_clients": flag, "disk": object, "failure": text,
                "synchronous_commit_turned_down": {"type": "array", "items": text},
                "unusable_settings": {"type": "array", "items": text},
                "logger_queue_size": number, "logger_records_lost": number,
            },
        },
        "Cluster": {
            "type": "object",
            "required": ["members"],
            "properties": {
                "members": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "role", "state"],
                        "properties": {
                            "name": text, "role": text, "state": text, "api_url": {"type": ["string", "null"]},
                            "host": text, "port": number, "timeline": number, "tags": object,
                            "pending_restart": flag, "pending_restart_reason": object, "scheduled_restart": object,
                            "lsn": text, "lag": lag, "receive_lsn": text, "receive_lag": lag,
                            "replay_lsn": text, "replay_lag": lag, "job": object, "slots_at_risk": object,
                            "disk": object, "failure": text,
                        },
                    },
                },
                "scope": text, "pause": flag,
                "scheduled_switchover": {
                    "type": "object", "properties": {"at": text, "from": text, "to": text},
                },
            },
        },
        "History": {
            "type": "array",
            "items": {
                "type": "array", "minItems": 3, "maxItems": 5,
                "description": "Timeline, position where it ended, reason, time of the next one, its leader.",
            },
        },
        "Configuration": object,
        "FailsafeMembers": {"type": "object", "additionalProperties": text},
        "Upstream": {"type": "object", "properties": {"error": text}},
        "KnownMembers": {
            "type": "object",
            "additionalProperties": {"type": "object", "properties": {"api_url": text, "conn_url": text}},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use patroni_core::cluster::{FailoverRequest, Schedule, Version};
    use patroni_core::name::MemberName;
    use patroni_core::request::{RestartConditions, ScheduledRestart};
    use patroni_core::time::WallTime;
    use patroni_core::view::JOB_KEY;

    use patroni_core::health::Status;

    use super::super::status;
    use super::super::{cluster, sample};
    use super::*;
    use crate::log::QueueState;

    /// Keys of a document that its schema does not know.
    fn unknown(schema: &Value, document: &Value) -> Vec<String> {
        match (document, &schema["items"], &schema["properties"]) {
            (Value::Array(items), schema, _) => items.iter().flat_map(|item| unknown(schema, item)).collect(),
            (Value::Object(map), _, Value::Object(known)) => {
                let of = |(key, value): (&String, &Value)| match known.get(key) {
                    Some(schema) => unknown(schema, value),
                    None => vec![key.clone()],
                };
                map.iter().flat_map(of).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn all_that_documents_hold_is_described() {
        let schemas = schemas();
        let mut view = sample::troubled();
        (view.holding, view.turned_down) = (true, vec!["off for the server".to_owned()]);
        view.scheduled_restart = Some(ScheduledRestart {
            at: WallTime(0),
            at_text: "2030-01-01T00:00:00+00:00".to_owned(),
            conditions: RestartConditions::default(),
            raw: sample::map(json!({"restart_pending": true})),
            postmaster_start_time: None,
        });
        let queue = QueueState { queued: 3, expected: 2, lost: 1 };
        for running in [sample::primary(), sample::standby()] {
            let server = sample::answer(Some(&running));
            let document = Value::Object(status::document(&Status::new(&view, true, &server, sample::NOW), queue));
            assert!(document.as_object().is_some_and(|map| map.len() > 15), "{document}");
            assert_eq!(unknown(&schemas["Status"], &document), [""; 0]);
        }

        let mut stored = sample::cluster();
        let mut config = sample::map(json!({"pause": true}));
        config.extend(stored.config.as_ref().and_then(|config| config.data.clone()).unwrap_or_default());
        stored.config.as_mut().unwrap().data = Some(config);
        stored.failover = Some(FailoverRequest {
            version: Version(1),
            leader: Some(MemberName::from("postgresql0")),
            candidate: Some(MemberName::from("postgresql1")),
            scheduled_at: Some(Schedule::At(WallTime(0), "2030-01-01T00:00:00+01:00".to_owned())),
        });
        let data = &mut stored.members.get_mut("postgresql1").unwrap().data;
        data.pending_restart = true;
        data.pending_restart_reason = sample::map(json!({"a": {}}));
        data.scheduled_restart = Some(sample::map(json!({"schedule": "2030-01-01T00:00:00+01:00"})));
        data.slots_at_risk.insert("cdc".to_owned(), "not copied".to_owned());
        data.extra.insert(JOB_KEY.to_owned(), json!({"title": "x"}));
        let document = Value::Object(cluster::topology(&stored, "batman"));
        assert_eq!(unknown(&schemas["Cluster"], &document), [""; 0]);
        // The test sees what is missing.
        assert_eq!(
            unknown(&json!({"properties": {"members": {}}}), &document),
            ["pause", "scheduled_switchover", "scope"]
        );
    }

    /// With `UPDATE_OPENAPI=1` in the environment the file is written anew.
    #[test]
    fn the_description_in_the_documentation_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(&path, text()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(
            written == text(),
            "run UPDATE_OPENAPI=1 cargo test -p patroni-agent openapi, and commit docs/openapi.json"
        );
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
        let ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len(), "{ids:?}");
    }
}
