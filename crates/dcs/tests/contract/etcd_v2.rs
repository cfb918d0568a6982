//! A real etcd by version 2 of its API.

use std::sync::Arc;
use std::time::Duration;

use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::{Dcs, Timing};
use patroni_http::{Body, Call, ClientOptions, HttpClient, Method};
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::{World, path};

pub(crate) struct EtcdV2(pub(crate) Etcd);

impl EtcdV2 {
    pub(crate) async fn start(count: usize) -> Self {
        let etcd = Etcd::launch(count, "http", &["--enable-v2".to_owned()]);
        etcd.ready().await;
        EtcdV2(etcd)
    }

    pub(crate) fn handle(&self, endpoints: Vec<String>, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        let options = EtcdOptions { endpoints, ..EtcdOptions::default() };
        patroni_dcs::etcd::connect(options, &path(), name.into(), timing)
    }

    async fn request(&self, method: Method, name: &str, form: Option<String>) -> Option<Value> {
        let url = format!("{}/v2/keys{}{name}", self.0.urls()[0], path().prefix());
        let body = form.map(|text| Body { text, content_type: "application/x-www-form-urlencoded" });
        let client = HttpClient::new(ClientOptions::default()).unwrap();
        let call = Call { method, url: &url, headers: &[], body };
        let response = client.call(call, Duration::from_secs(5)).await.expect("etcd does not answer");
        assert!(response.status < 300 || response.status == 404, "{}", response.body);
        (response.status != 404).then(|| serde_json::from_str(&response.body).unwrap())
    }
}

impl World for EtcdV2 {
    fn member(&self, name: &str, timing: Timing) -> Arc<dyn Dcs> {
        self.handle(self.0.urls(), name, timing)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn set_raw(&self, name: &str, value: Option<&[u8]>) {
        let escaped = value.map(|value| value.iter().map(|byte| format!("%{byte:02X}")).collect::<String>());
        match escaped {
            Some(escaped) => drop(self.request(Method::PUT, name, Some(format!("value={escaped}"))).await),
            None => drop(self.request(Method::DELETE, name, None).await),
        }
    }

    async fn get_raw(&self, name: &str) -> Option<Vec<u8>> {
        let answer = self.request(Method::GET, name, None).await?;
        Some(answer["node"]["value"].as_str()?.as_bytes().to_vec())
    }

    /// Each key has a life of its own, which is prolonged by writing it.
    fn has_leases(&self) -> bool {
        false
    }

    fn reference(&self) -> (&'static str, &'static str, Value) {
        ("etcd", "Etcd", json!({"hosts": [self.0.urls()[0].trim_start_matches("http://")]}))
    }
}
