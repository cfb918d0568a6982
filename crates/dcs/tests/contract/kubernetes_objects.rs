//! The objects that agents leave on Kubernetes: those that Patroni 4.1 would leave, byte for byte, and the same cluster led by both in turns.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_core::facts::Outcome;
use patroni_dcs::{Dcs, LeaderUpdate, wire};
use serde_json::{Value, json};

use crate::certificates::write;
use crate::kubernetes::{ApiServer, Kubernetes, follows};
use crate::reference::{LONG, Reference, member, python, write_documents};
use crate::{eventually, leader_of, load};

/// The slots of all Pods of the cluster are kept by the reference.
fn update() -> LeaderUpdate {
    LeaderUpdate { retain_slots: vec!["b".into()], ..crate::reference::update() }
}

/// What is written, but for times and numbers that the API server gives.
async fn written(world: &Kubernetes) -> Value {
    let mut all = json!({});
    for suffix in ["leader", "config", "sync", "failover"] {
        let mut found = world.object(suffix).await;
        for time in ["renewTime", "acquireTime"] {
            if let Some(text) = found["metadata"]["annotations"].as_object_mut().and_then(|all| all.remove(time)) {
                let text = text.as_str().unwrap().to_owned();
                assert!(text.len() == 32 && text.ends_with("+00:00"), "{time}: {text}");
            }
        }
        if let Some(version) = found.pointer_mut("/subsets/0/addresses/0/targetRef/resourceVersion") {
            *version = Value::Null;
        }
        all[suffix] = json!([found["metadata"]["annotations"], found["metadata"]["labels"], found["subsets"]]);
    }
    let pod = world.pod("a").await;
    all["pod"] = json!([pod["metadata"]["annotations"], pod["metadata"]["labels"]]);
    let service = world.service("contract-config").await;
    all["service"] = json!([service["metadata"]["labels"], service["spec"]["clusterIP"], service["spec"]["selector"]]);
    all
}

async fn write_ours(world: &Kubernetes) -> Arc<dyn Dcs> {
    let a = world.handle(world.options(), "a", LONG);
    follows(&a).await;
    write_documents(&*a).await;
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member()).await.is_done());
    assert!(a.renew(&update()).await.is_done());
    a
}

fn start_reference(world: &Kubernetes, name: &str) -> Option<Reference> {
    let Some(python) = python() else {
        eprintln!("Patroni itself is not installed here: not compared");
        return None;
    };
    let kubeconfig = json!({
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
        "clusters": [{"name": "test", "cluster": {"server": world.url, "certificate-authority": world.server.cacert}}],
        "users": [{"name": "agent", "user": {"token": "agent"}}],
    });
    let file = write(world.server.directory.path(), "kubeconfig", &kubeconfig.to_string());
    let section = json!({
        "labels": {"application": "patroni"}, "namespace": world.namespace, "use_endpoints": world.endpoints,
        "pod_ip": "10.1.2.3", "ports": [{"name": "postgresql", "port": 5432}], "context": "test",
    });
    Some(Reference::start_of(python, ("kubernetes", "Kubernetes", section), name, &[("KUBECONFIG", file)]))
}

/// What the reference shows is as old as the news that it had.
async fn shows(reference: &mut Reference, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..50 {
        let shown = reference.call("show", json!([])).await;
        if expected(&shown) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("never: the reference shows {what}");
}

async fn the_reference_reads_what_we_write_and_the_reverse(server: &Arc<ApiServer>, endpoints: bool) {
    let world = server.cluster(&format!("reference-{endpoints}"), endpoints, &["a", "b"]).await;
    let a = write_ours(&world).await;
    let ours = written(&world).await;
    let Some(mut b) = start_reference(&world, "b") else { return };
    let mut shown = shows(&mut b, "our leader", |shown| shown["leader"] == "a" && shown["failsafe"].is_object()).await;
    let labels = shown["members"]["a"].as_object_mut().unwrap().remove("pod_labels").unwrap();
    assert_eq!(labels["role"], "primary");
    shown["members"].as_object_mut().unwrap().remove("b");
    let expected = json!({
        "initialize": "7000000000000000001",
        "config": {"ttl": 30, "postgresql": {"parameters": {"x": 1.5}}},
        "leader": "a",
        "status": [67_108_960, {"b": 67_108_960}, ["b"]],
        "members": {"a": serde_json::from_str::<Value>(&wire::member(&member())).unwrap()},
        "one_lease": true,
        "failover": ["a", "b", "2026-01-01T10:10:10.500000+00:00"],
        "sync": ["a", "b,c", 1],
        "history": [[1, 25_623_960, "no recovery target specified", "2019-09-05T15:52:09+02:00", "a"]],
        "failsafe": {"a": "http://127.0.0.1:8008/patroni"}
    });
    assert_eq!(shown, expected);

    // Either takes the lead from the other.
    assert_eq!(a.release(None).await, Outcome::Done(()));
    shows(&mut b, "nobody leads", |shown| shown["leader"].as_str().unwrap_or_default().is_empty()).await;
    assert_eq!(b.call("attempt_to_acquire_leader", json!([])).await, json!(true));
    assert_eq!(a.acquire().await, Outcome::Refused);
    assert_eq!(a.renew(&update()).await, Outcome::Refused);
    eventually("we hear of their leader", || async { leader_of(&load(&a).await) == Some("b") }).await;
    shows(&mut b, "it leads", |shown| shown["leader"] == "b").await;
    assert_eq!(b.call("update_leader", json!([67_108_960])).await, json!(true));
    assert_eq!(b.call("delete_leader", json!([])).await, json!(true));
    assert!(a.acquire().await.is_done());
    assert_eq!(world.object("leader").await["metadata"]["annotations"]["transitions"], "2");
    assert_eq!(a.release(None).await, Outcome::Done(()));
    assert_eq!(a.delete_cluster().await, Outcome::Done(()));
    drop(a);
    b.stop().await;

    // The same content, written by the reference under our name.
    world.forget_pod("a").await;
    let mut a = start_reference(&world, "a").unwrap();
    shows(&mut a, "nothing", |shown| shown["config"].is_null()).await;
    let text = |key: &str, name: &str| ours[key][0][name].as_str().unwrap().to_owned();
    let data: Value = serde_json::from_str(&text("pod", "status")).unwrap();
    for (method, arguments) in [
        ("initialize", json!([true, "7000000000000000001"])),
        ("set_config_value", json!([text("config", "config")])),
        ("manual_failover", json!(["a", "b", "2026-01-01T10:10:10.500000+00:00"])),
        ("write_sync_state", json!(["a", ["c", "b"], 1])),
        ("set_history_value", json!([text("config", "history")])),
        ("attempt_to_acquire_leader", json!([])),
        ("touch_member", json!([data])),
        ("update_leader", json!([67_108_960, {"b": 67_108_960}, {"a": "http://127.0.0.1:8008/patroni"}])),
    ] {
        if method == "touch_member" {
            shows(&mut a, "it leads", |shown| shown["leader"] == "a").await;
        }
        a.call(method, arguments).await;
        // It acts on what it has heard of.
        shows(&mut a, "what was written", |shown| method != "initialize" || !shown["initialize"].is_null()).await;
    }
    let theirs = written(&world).await;
    assert_eq!(theirs, ours, "byte for byte");

    // Our agent, started in place of the reference's, goes on with its lease.
    let successor = world.handle(world.options(), "a", LONG);
    assert!(successor.renew(&update()).await.is_done());
    assert_eq!(load(&successor).await.members["a"].data, member());
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_reference() {
    let Some(server) = ApiServer::start().await else { return };
    let server = Arc::new(server);
    the_reference_reads_what_we_write_and_the_reverse(&server, true).await;
    the_reference_reads_what_we_write_and_the_reverse(&server, false).await;
    labels_follow_the_role(&server).await;
}

async fn labels_follow_the_role(server: &Arc<ApiServer>) {
    let world = server.cluster("labels", true, &["a"]).await;
    let mut options = world.options();
    options.bootstrap_labels.insert("foo".into(), "bar".into());
    let a = world.handle(options, "a", LONG);
    follows(&a).await;
    let shown = async |state: &str, role: &str| {
        let data = MemberData { state: Some(state.into()), role: Some(role.into()), ..MemberData::default() };
        assert!(a.touch_member(&data).await.is_done());
        let labels = world.pod("a").await["metadata"]["labels"].clone();
        [labels["role"].clone(), labels["foo"].clone(), labels["application"].clone()]
    };
    assert_eq!(shown("creating replica", "replica").await, [Value::Null, json!("bar"), json!("patroni")]);
    assert_eq!(shown("running", "replica").await, [json!("replica"), Value::Null, json!("patroni")]);
    assert!(a.acquire().await.is_done());
    assert_eq!(shown("running", "primary").await[0], "primary");
    assert_eq!(world.object("leader").await["subsets"][0]["addresses"][0]["targetRef"]["name"], "a");
    assert_eq!(a.release(None).await, Outcome::Done(()));
    assert!(world.object("leader").await["subsets"].is_null(), "nobody is led to who leads no more");
    let stranger = world.handle(world.options(), "nobody", LONG);
    let refused = stranger.touch_member(&MemberData::default()).await;
    assert!(matches!(&refused, Outcome::Failed(why) if why.contains("has the name of its Pod")), "{refused:?}");
}
