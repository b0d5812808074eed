//! Asking other systems over HTTP, with the login that the worker's machine has for them.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use url::Url;

use super::{Failure, Run};

/// A client of other systems.
pub(super) struct Web<'a> {
    client: Client,
    run: &'a Run<'a>,
    limit: Duration,
}

/// One for the process: making one reads all certificates of the machine.
static CLIENT: OnceLock<Client> = OnceLock::new();

fn client() -> Result<Client, Failure> {
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let made = Client::builder()
        .connect_timeout(Duration::from_secs(20))
        .user_agent(concat!("studygovernor/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Failure(format!("no requests can be made: {error}")))?;
    Ok(CLIENT.get_or_init(|| made).clone())
}

impl<'a> Web<'a> {
    /// A request may take so long, from its beginning to the end of the answer.
    ///
    /// # Errors
    /// When there is no TLS.
    pub(super) fn new(run: &'a Run<'_>, limit: Duration) -> Result<Self, Failure> {
        Ok(Self { client: client()?, run, limit })
    }

    /// A request with the login of the host, if there is one.
    ///
    /// # Errors
    /// When that is no address.
    pub(super) fn request(&self, method: Method, address: &str) -> Result<RequestBuilder, Failure> {
        let url = parse(address)?;
        let login = self.run.workplace.logins.at(&url);
        let request = self.client.request(method, url).timeout(self.limit);
        Ok(match login {
            Some(login) => request.basic_auth(login.name, Some(login.password)),
            None => request,
        })
    }

    /// The same without a login.
    ///
    /// # Errors
    /// When that is no address.
    pub(super) fn plain(&self, method: Method, address: &str) -> Result<RequestBuilder, Failure> {
        Ok(self.client.request(method, parse(address)?).timeout(self.limit))
    }
}

/// An address of the web.
///
/// # Errors
/// When it is none.
pub(super) fn parse(address: &str) -> Result<Url, Failure> {
    let url = Url::parse(address).map_err(|error| Failure(format!("'{address}' is no address: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(Failure(format!("'{address}': {other} is not http or https"))),
    }
}

/// Sends it; `what` says in messages what was tried.
///
/// # Errors
/// When there is no answer, with the reason behind the reason.
pub(super) async fn send(request: RequestBuilder, what: &str) -> Result<Response, Failure> {
    request.send().await.map_err(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        Failure(format!("{what}: {text}"))
    })
}

/// The text of an answer, at most 10 MiB of it.
///
/// # Errors
/// When it breaks off, or is longer.
pub(super) async fn text(mut answer: Response, what: &str) -> Result<String, Failure> {
    const MOST: usize = 10 * 1024 * 1024;
    let mut bytes = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > MOST => {
                return Err(Failure(format!("{what}: the answer is longer than 10 MiB")));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => return Err(Failure(format!("{what}: the answer broke off: {error}"))),
        }
    }
}

/// The beginning of a text, for messages.
pub(super) fn beginning(text: &str) -> String {
    const MOST: usize = 500;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(MOST).collect::<String>())
}
