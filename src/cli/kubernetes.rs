//! `studygovernor kubernetes …`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Failure;
use super::console::out;

/// Commands for the Helm chart, run inside a cluster
#[derive(Subcommand)]
pub(super) enum Kubernetes {
    MakeSecrets(MakeSecrets),
}

/// Create a Secret with random values, without changing existing values
///
/// Run by a Job of the chart with a service account that may create, get and patch Secrets. An existing Secret keeps
/// all its values; missing keys are added. Each value is 32 random bytes, encoded as 43 letters, digits, - and _.
#[derive(Args)]
pub(super) struct MakeSecrets {
    /// Name of the Secret
    #[arg(long)]
    name: String,
    /// Required keys, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    keys: Vec<String>,
    /// Label for a newly created Secret, for example app=studygovernor; can be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Namespace of the Secret [default: the namespace of the pod]
    #[arg(long)]
    namespace: Option<String>,
    /// Folder with the token, the namespace and the certificate authority of the pod
    #[arg(long, value_name = "DIR", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account: PathBuf,
    /// URL of the API server [default: from KUBERNETES_SERVICE_HOST and _PORT]
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
}

impl Kubernetes {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::MakeSecrets(command) = self;
        command.run().await
    }
}

impl MakeSecrets {
    async fn run(self) -> Result<(), Failure> {
        let labels = self.labels()?;
        if let Some(wrong) = self.keys.iter().find(|key| !is_key(key)) {
            return Err(Failure::Usage(format!("--keys: '{wrong}' is not a key (letters, digits, '-', '_' and '.')")));
        }
        let api = self.api()?;
        let values = self.keys.iter().map(|key| (key.clone(), json!(STANDARD.encode(random_value())))).collect();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": { "name": self.name, "labels": labels },
            "data": Value::Object(values),
        });
        let created = api.send(Method::POST, "", &secret).await?;
        match created.status() {
            StatusCode::CREATED => {
                out(&format!("created Secret {} with {}", self.name, self.keys.join(", ")));
                Ok(())
            }
            StatusCode::CONFLICT => self.add_missing(&api).await,
            _ => Err(refused("create", &self.name, created).await),
        }
    }

    /// Adds missing keys to the Secret. The patch contains the version of the Secret, so it fails if a second Job
    /// patches the Secret at the same time; then it is read and patched again.
    async fn add_missing(&self, api: &Api) -> Result<(), Failure> {
        for _ in 0..10 {
            let answer = api.send(Method::GET, &self.name, &Value::Null).await?;
            if answer.status() != StatusCode::OK {
                return Err(refused("read", &self.name, answer).await);
            }
            let secret: Value = answer.json().await.map_err(Failure::because)?;
            let known = secret["data"].as_object().cloned().unwrap_or_default();
            let missing: Vec<&String> = self.keys.iter().filter(|key| !known.contains_key(*key)).collect();
            if missing.is_empty() {
                out(&format!("Secret {} exists and has all keys; nothing was changed", self.name));
                return Ok(());
            }
            let data: Map<String, Value> =
                missing.iter().map(|key| ((*key).clone(), json!(STANDARD.encode(random_value())))).collect();
            let version = &secret["metadata"]["resourceVersion"];
            let patch = json!({ "metadata": { "resourceVersion": version }, "data": data });
            let patched = api.send(Method::PATCH, &self.name, &patch).await?;
            match patched.status() {
                StatusCode::OK => {
                    let names: Vec<&str> = missing.iter().map(|key| key.as_str()).collect();
                    out(&format!("added {} to Secret {}; nothing else was changed", names.join(", "), self.name));
                    return Ok(());
                }
                StatusCode::CONFLICT => {}
                _ => return Err(refused("change", &self.name, patched).await),
            }
        }
        Err(Failure::Failed(format!("Secret {} was changed concurrently ten times in a row", self.name)))
    }

    fn labels(&self) -> Result<BTreeMap<&str, &str>, Failure> {
        let pair = |label| str::split_once(label, '=').ok_or_else(|| label.to_owned());
        let labels: Result<BTreeMap<_, _>, String> = self.labels.iter().map(|label| pair(label)).collect();
        labels.map_err(|wrong| Failure::Usage(format!("--label: '{wrong}' is not of the form KEY=VALUE")))
    }

    fn api(&self) -> Result<Api, Failure> {
        let read = |file: &str| {
            let path = self.service_account.join(file);
            std::fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))
        };
        let server = match &self.api_server {
            Some(server) => server.trim_end_matches('/').to_owned(),
            None => in_cluster_server()?,
        };
        let namespace = self.namespace.clone().map_or_else(|| read("namespace"), Ok)?;
        let token = read("token")?;
        let mut client = Client::builder().timeout(Duration::from_secs(30)).no_proxy();
        if server.starts_with("https://") {
            let authority = reqwest::Certificate::from_pem(read("ca.crt")?.as_bytes()).map_err(Failure::because)?;
            client = client.tls_certs_only([authority]);
        }
        let client = client.build().map_err(Failure::because)?;
        Ok(Api { client, token, secrets: format!("{server}/api/v1/namespaces/{namespace}/secrets") })
    }
}

/// Client for the Secrets of a namespace at the API server.
struct Api {
    client: Client,
    token: String,
    secrets: String,
}

impl Api {
    /// `name` is empty for the whole collection; `body` is null for no body.
    async fn send(&self, method: Method, name: &str, body: &Value) -> Result<Response, Failure> {
        let url = if name.is_empty() { self.secrets.clone() } else { format!("{}/{name}", self.secrets) };
        let content_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if !body.is_null() {
            request = request.header("Content-Type", content_type).body(body.to_string());
        }
        request.send().await.map_err(|error| {
            Failure::Failed(format!("the API server of the cluster cannot be reached: {}", error.without_url()))
        })
    }
}

fn in_cluster_server() -> Result<String, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT")) {
        (Some(host), port) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            Ok(format!("https://{host}:{}", port.unwrap_or_else(|| "443".to_owned())))
        }
        _ => {
            Err(Failure::Usage("KUBERNETES_SERVICE_HOST is not set: run this in a pod, or use --api-server".to_owned()))
        }
    }
}

/// 32 bytes from the random generator of the operating system.
fn random_value() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= 253 && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The error of the API server, in one sentence.
async fn refused(verb: &str, name: &str, answer: Response) -> Failure {
    let status = answer.status();
    let reason = answer.json::<Value>().await.ok().and_then(|body| Some(body["message"].as_str()?.to_owned()));
    Failure::Failed(format!(
        "cannot {verb} Secret {name}: {status}{}",
        reason.map_or(String::new(), |r| format!(": {r}"))
    ))
}
