//! What is written into objects.

use std::collections::BTreeMap;

use patroni_core::cluster::MemberData;
use serde_json::{Map, Value, json};

use super::keys::{Annotations, MEMBER};
use super::objects::Object;
use super::options::{KubernetesOptions, Port, RoleLabels};

/// Metadata of an object with keys. With a version: it is changed if it has that one; without: it is created.
pub(super) fn metadata(
    (namespace, name): (&str, &str),
    labels: &BTreeMap<String, String>,
    annotations: &Annotations,
    version: Option<&str>,
) -> Value {
    // Null removes an annotation; in a new object there is nothing to remove.
    let written = annotations.iter().filter(|(_, text)| version.is_some() || text.is_some());
    let annotations: Map<String, Value> =
        written.map(|(name, text)| ((*name).to_owned(), text.clone().into())).collect();
    let mut metadata = json!({"namespace": namespace, "name": name, "labels": labels, "annotations": annotations});
    if let Some(version) = version {
        metadata["resourceVersion"] = version.into();
    }
    metadata
}

/// Whose address the Endpoints of the leader are to name.
#[derive(Clone, Copy)]
pub(super) enum Address<'a> {
    /// Nobody's.
    Nobody,
    /// That of this member, whose Pod is this one as far as it is known.
    Own { name: &'a str, pod: Option<&'a Object> },
}

/// The subsets that Endpoints have to get; `None`: they are as they should be, or the address is not known.
pub(super) fn subsets(options: &KubernetesOptions, present: Option<&Object>, address: Address<'_>) -> Option<Value> {
    let present = present.and_then(|object| object.subsets.as_array()).map(Vec::as_slice).unwrap_or_default();
    let (name, pod) = match address {
        Address::Nobody => return (!present.is_empty()).then(|| json!([])),
        Address::Own { name, pod } => (name, pod),
    };
    let ip = options.pod_ip.as_deref().or(pod.and_then(|pod| pod.status.pod_ip.as_deref()))?;
    if is_only(present, ip, &options.ports) {
        return None;
    }
    let mut entry = json!({"ip": ip});
    if let Some(pod) = pod {
        let optional = [("hostname", &pod.spec.hostname), ("nodeName", &pod.spec.node_name)];
        for (key, text) in optional {
            if let Some(text) = text {
                entry[key] = text.as_str().into();
            }
        }
        entry["targetRef"] = known_reference(present, ip, name).unwrap_or_else(|| {
            json!({"kind": "Pod", "uid": pod.metadata.uid, "namespace": options.namespace, "name": name,
                   "resourceVersion": pod.metadata.resource_version})
        });
    }
    let ports: Vec<Value> = options.ports.iter().map(shown).collect();
    Some(json!([{"addresses": [entry], "ports": ports}]))
}

fn shown(port: &Port) -> Value {
    let mut shown = json!({"port": port.port});
    for (key, text) in [("name", &port.name), ("protocol", &port.protocol)] {
        if let Some(text) = text {
            shown[key] = text.as_str().into();
        }
    }
    shown
}

/// Whether these subsets name this address and these ports, and nothing else.
fn is_only(present: &[Value], ip: &str, ports: &[Port]) -> bool {
    let [subset] = present else { return false };
    let list = |key: &str| subset[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |port: &Value, key: &str| port[key].as_str().map(str::to_owned);
    let same = |found: &Value, port: &Port| {
        text(found, "name") == port.name
            && found["port"] == port.port
            && text(found, "protocol").as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
    };
    let found = list("ports");
    matches!(list("addresses"), [address] if address["ip"] == ip)
        && found.len() == ports.len()
        && ports.iter().all(|port| found.iter().any(|found| same(found, port)))
}

/// What the Endpoints say already of the Pod that has this address.
fn known_reference(present: &[Value], ip: &str, name: &str) -> Option<Value> {
    let mut addresses = present.iter().filter_map(|subset| subset["addresses"].as_array()).flatten();
    let found = addresses.find(|address| address["ip"] == ip && address["targetRef"]["name"] == name)?;
    Some(found["targetRef"].clone())
}

/// Labels that the Pod of a member is to have; `None`: it is to have none of that name.
pub(super) fn labels(
    roles: &RoleLabels,
    bootstrap: &BTreeMap<String, String>,
    data: &MemberData,
    leads: bool,
) -> BTreeMap<String, Option<String>> {
    let (state, role) = (data.state.as_deref().unwrap_or_default(), data.role.as_deref().unwrap_or_default());
    let (value, usual) = match role {
        "standby_leader" if leads => (Some(roles.standby_leader.as_str()), Some("primary")),
        _ if leads => (Some(roles.leader.as_str()), Some("primary")),
        "replica" if state == "running" => (Some(roles.follower.as_str()), Some(role)),
        other if state == "running" && other != "primary" => (Some(other), Some(other)),
        _ => (None, None),
    };
    let text = |value: Option<&str>| value.map(str::to_owned);
    let mut labels = BTreeMap::from([(roles.label.clone(), text(value))]);
    labels.extend(roles.tmp_label.clone().map(|label| (label, text(usual))));
    let is_made = matches!(
        state,
        "initializing new cluster"
            | "running custom bootstrap script"
            | "starting after custom bootstrap"
            | "creating replica"
    );
    labels.extend(bootstrap.iter().map(|(name, value)| (name.clone(), is_made.then(|| value.clone()))));
    labels
}

/// The change of a Pod that says what its member says; `None`: it says so already.
pub(super) fn pod(
    pod: Option<&Object>,
    (namespace, name): (&str, &str),
    labels: &BTreeMap<String, Option<String>>,
    text: &str,
) -> Option<Value> {
    let is_so = |pod: &Object| {
        pod.annotation(MEMBER) == Some(text) && labels.iter().all(|(name, value)| pod.label(name) == value.as_deref())
    };
    if pod.is_some_and(is_so) {
        return None;
    }
    let metadata = json!({"namespace": namespace, "name": name, "labels": labels, "annotations": {MEMBER: text}});
    Some(json!({"metadata": metadata}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::access::Access;

    fn options(section: Value) -> KubernetesOptions {
        let Value::Object(map) = section else { panic!("not an object") };
        KubernetesOptions::with_access(&map, Access::default()).expect("valid")
    }

    fn endpoints(subsets: Value) -> Object {
        Object { subsets, ..Object::default() }
    }

    fn own_pod() -> Object {
        let text = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7"}, "spec": {"nodeName": "n"},
                          "status": {"podIP": "10.0.0.1"}});
        serde_json::from_value(text).expect("a Pod")
    }

    #[test]
    fn endpoints_name_the_leader_alone() {
        let options = options(json!({"labels": {}}));
        let pod = own_pod();
        let own = Address::Own { name: "a", pod: Some(&pod) };
        let good = json!([{"addresses": [{"ip": "10.0.0.1", "nodeName": "n", "targetRef":
            {"kind": "Pod", "uid": "u", "namespace": "default", "name": "a", "resourceVersion": "7"}}], "ports": [{"port": 5432}]}]);
        assert_eq!(subsets(&options, None, own), Some(good.clone()));
        assert_eq!(subsets(&options, Some(&endpoints(good.clone())), own), None);
        let mut with_protocol = good.clone();
        with_protocol[0]["ports"][0]["protocol"] = "TCP".into();
        assert_eq!(subsets(&options, Some(&endpoints(with_protocol)), own), None);
        for edited in [
            json!([{"addresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 5432}]}]),
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 5432}]}]),
            json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 5433}]}]),
            json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 5432, "name": "x"}]}]),
            json!([{"notReadyAddresses": []}]),
        ] {
            assert!(subsets(&options, Some(&endpoints(edited.clone())), own).is_some(), "{edited}");
        }
        assert_eq!(subsets(&options, Some(&endpoints(good)), Address::Nobody), Some(json!([])));
        assert_eq!(subsets(&options, None, Address::Nobody), None);
        assert_eq!(subsets(&options, None, Address::Own { name: "a", pod: None }), None, "nobody knows the address");
    }

    #[test]
    fn what_the_endpoints_know_of_the_pod_stays() {
        let options = options(
            json!({"labels": {}, "pod_ip": "10.0.0.9", "ports": [{"name": "p", "port": 1}, {"name": "q", "port": 2}]}),
        );
        let pod = own_pod();
        let present = endpoints(
            json!([{"addresses": [{"ip": "10.0.0.9", "targetRef": {"name": "a", "uid": "old"}}], "ports": []}]),
        );
        let made = subsets(&options, Some(&present), Address::Own { name: "a", pod: Some(&pod) }).expect("changed");
        assert_eq!(made[0]["addresses"][0]["targetRef"]["uid"], "old");
        assert_eq!(made[0]["ports"], json!([{"port": 1, "name": "p"}, {"port": 2, "name": "q"}]));
        let reordered = endpoints(
            json!([{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 2, "name": "q"}, {"port": 1, "name": "p"}]}]),
        );
        assert_eq!(subsets(&options, Some(&reordered), Address::Own { name: "a", pod: Some(&pod) }), None);
    }

    #[test]
    fn labels_follow_role_and_state() {
        let options =
            options(json!({"labels": {}, "follower_label_value": "follower", "standby_leader_label_value": "sl",
            "leader_label_value": "master", "tmp_role_label": "tmp", "bootstrap_labels": {"foo": "bar"}}));
        for (state, role, leads, [label, tmp, foo]) in [
            ("running", "primary", true, [Some("master"), Some("primary"), None]),
            ("running", "standby_leader", true, [Some("sl"), Some("primary"), None]),
            ("starting", "replica", true, [Some("master"), Some("primary"), None]),
            ("running", "replica", false, [Some("follower"), Some("replica"), None]),
            ("running", "standby_leader", false, [Some("standby_leader"), Some("standby_leader"), None]),
            ("running", "primary", false, [None, None, None]),
            ("stopped", "replica", false, [None, None, None]),
            ("creating replica", "replica", false, [None, None, Some("bar")]),
            ("initializing new cluster", "primary", false, [None, None, Some("bar")]),
        ] {
            let data = MemberData { state: Some(state.into()), role: Some(role.into()), ..MemberData::default() };
            let labels = labels(&options.roles, &options.bootstrap_labels, &data, leads);
            let found = ["role", "tmp", "foo"].map(|name| labels[name].as_deref());
            assert_eq!(found, [label, tmp, foo], "{state} {role} {leads}");
        }
    }

    #[test]
    fn a_pod_that_says_so_already_is_left_alone() {
        let labels = BTreeMap::from([("role".to_owned(), Some("replica".to_owned())), ("foo".to_owned(), None)]);
        let change = pod(None, ("n", "a"), &labels, "{}").expect("a change");
        assert_eq!(
            change,
            json!({"metadata": {"namespace": "n", "name": "a", "labels": {"role": "replica", "foo": null},
                                               "annotations": {"status": "{}"}}})
        );
        let mut present: Object = serde_json::from_value(
            json!({"metadata": {"labels": {"role": "replica", "x": "y"}, "annotations": {"status": "{}"}}}),
        )
        .expect("a Pod");
        assert_eq!(pod(Some(&present), ("n", "a"), &labels, "{}"), None);
        assert!(pod(Some(&present), ("n", "a"), &labels, "{\"a\":1}").is_some());
        present.metadata.labels.as_mut().expect("labels").insert("foo".into(), "bar".into());
        assert!(pod(Some(&present), ("n", "a"), &labels, "{}").is_some());
    }
}
