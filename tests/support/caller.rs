//! An HTTP client for the tests.

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// Checks the status and returns the body.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A client with a login.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    base: String,
    login: Login,
}

/// How a client authenticates.
#[derive(Clone)]
pub enum Login {
    Nobody,
    Basic(String, String),
    Bearer(String),
}

impl Caller {
    /// The administrator, at a server that the test has started.
    pub fn admin_at(url: &str) -> Self {
        Self::at(url, Login::Basic("admin".to_owned(), "admin".to_owned()))
    }

    pub fn at(url: &str, login: Login) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        Self { client: Client::new(), base: url.to_owned(), login }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.login {
            Login::Nobody => request,
            Login::Basic(login, password) => request.basic_auth(login, Some(password)),
            Login::Bearer(token) => request.bearer_auth(token),
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(if text.is_empty() { Value::Null } else { json!(text) });
        Answer { status, headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }
}
