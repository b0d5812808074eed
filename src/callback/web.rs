//! HTTP requests to other systems, with the logins of the worker's machine.
//!
//! A redirect within one origin (scheme, host and port) is followed with all data of the request. A redirect to another
//! origin is not followed: logins, headers and bodies are only for the system that the workflow names.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, RequestBuilder, Response};
use url::Url;

use super::netrc::Login;
use super::{Failure, Run, RunLog};

/// A client for other systems.
pub(super) struct Web<'a> {
    client: Client,
    run: &'a Run<'a>,
    limit: Duration,
    /// Whether problems of the login file have been logged.
    has_noted_problems: AtomicBool,
}

/// Shared by the process: creating a client reads all certificates of the machine.
static CLIENT: OnceLock<Client> = OnceLock::new();

/// Maximum number of redirects.
const MOST_REDIRECTS: usize = 10;

fn client() -> Result<Client, Failure> {
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let made = Client::builder()
        .connect_timeout(Duration::from_secs(20))
        .redirect(within_origin())
        // The header would contain the URL of the request, including values from the workflow.
        .referer(false)
        .user_agent(concat!("studygovernor/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Failure(format!("cannot create the HTTP client: {error}")))?;
    Ok(CLIENT.get_or_init(|| made).clone())
}

/// Follows redirects to the same origin. A redirect to another origin is returned as the response.
#[must_use]
pub fn within_origin() -> Policy {
    Policy::custom(|attempt: Attempt<'_>| {
        let from = attempt.previous().last();
        match from.is_some_and(|from| from.origin() == attempt.url().origin()) {
            true if attempt.previous().len() > MOST_REDIRECTS => attempt.error("too many redirects"),
            true => attempt.follow(),
            false => attempt.stop(),
        }
    })
}

impl<'a> Web<'a> {
    /// `limit` applies from the start of a request to the end of the response.
    ///
    /// # Errors
    /// When TLS is unavailable.
    pub(super) fn new(run: &'a Run<'_>, limit: Duration) -> Result<Self, Failure> {
        Ok(Self { client: client()?, run, limit, has_noted_problems: AtomicBool::new(false) })
    }

    /// A request with the login of the host, if one is configured.
    ///
    /// # Errors
    /// When `address` is not a URL.
    pub(super) fn request(&self, method: Method, address: &str) -> Result<RequestBuilder, Failure> {
        let url = parse(address)?;
        // The client sends a login that is part of the URL.
        let login = if url.username().is_empty() { self.login(&url) } else { None };
        let request = self.client.request(method, url).timeout(self.limit);
        Ok(match login {
            Some(login) => request.basic_auth(login.name, Some(login.password)),
            None => request,
        })
    }

    /// The same without a login.
    ///
    /// # Errors
    /// When `address` is not a URL.
    pub(super) fn plain(&self, method: Method, address: &str) -> Result<RequestBuilder, Failure> {
        Ok(self.client.request(method, parse(address)?).timeout(self.limit))
    }

    /// The log of the run.
    pub(super) fn log(&self) -> &RunLog {
        self.run.log
    }

    /// The machine's login for a URL; problems of the login file are logged once.
    pub(super) fn login(&self, url: &Url) -> Option<Login> {
        let (login, problems) = self.run.workplace.logins.at(url);
        if !self.has_noted_problems.swap(true, Ordering::Relaxed) {
            problems.iter().for_each(|problem| self.run.log.line(problem));
        }
        login
    }
}

/// Parses an HTTP or HTTPS URL.
///
/// # Errors
/// When it is not valid.
pub(super) fn parse(address: &str) -> Result<Url, Failure> {
    let url = Url::parse(address).map_err(|error| {
        Failure(format!(
            "'{}' is not a valid URL: \
        {error}",
            shown(address)
        ))
    })?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(Failure(format!("'{}': {other} is not http or https", shown(address)))),
    }
}

/// A URL for logs and messages, without its password.
pub(super) fn shown(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((login, host)) => {
            let name = login.split_once(':').map_or(login, |(name, _)| name);
            format!("{scheme}://{name}:***@{host}{}", &rest[end..])
        }
        None => address.to_owned(),
    }
}

/// Escapes a text from study data as one segment of a URL path.
///
/// # Errors
/// When it is empty or refers to another folder.
pub(super) fn segment(text: &str) -> Result<String, Failure> {
    if matches!(text, "" | "." | "..") {
        return Err(Failure(format!("'{text}' cannot be part of a URL")));
    }
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(quoted)
}

/// The same for a path of several segments.
///
/// # Errors
/// As [`segment`].
pub(super) fn segments(path: &str) -> Result<String, Failure> {
    path.split('/').map(segment).collect::<Result<Vec<_>, _>>().map(|parts| parts.join("/"))
}

/// Sends a request; `what` names it in messages.
///
/// # Errors
/// When there is no response, with all causes.
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

/// The target of a redirect response.
pub(super) fn redirect_of(answer: &Response) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get(reqwest::header::LOCATION)?.to_str().ok()?;
    answer.url().join(location).ok()
}

/// A hint for messages about an unexpected status: the origin that it redirects to.
pub(super) fn hint_of(answer: &Response) -> String {
    let target = redirect_of(answer).map(|url| shown(&url.origin().ascii_serialization()));
    target.map_or_else(String::new, |origin| {
        format!(" (it redirects to {origin}, another origin, to which neither logins nor data are sent)")
    })
}

/// The text of a response, at most 10 MiB.
///
/// # Errors
/// When it is incomplete or longer.
pub(super) async fn text(mut answer: Response, what: &str) -> Result<String, Failure> {
    const MOST: usize = 10 * 1024 * 1024;
    let mut bytes = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > MOST => {
                return Err(Failure(format!("{what}: the response is longer than 10 MiB")));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => return Err(Failure(format!("{what}: the response was interrupted: {error}"))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_data_stays_one_part_of_a_path() {
        for (text, quoted) in [
            ("XNAT_E00001", "XNAT_E00001"),
            ("a/b", "a%2Fb"),
            ("../../x", "..%2F..%2Fx"),
            ("a?b=c#d", "a%3Fb%3Dc%23d"),
            ("a b%2f", "a%20b%252f"),
            ("ü*[", "%C3%BC%2A%5B"),
            ("a\\b\r\n", "a%5Cb%0D%0A"),
            ("...", "..."),
        ] {
            assert_eq!(segment(text).unwrap(), quoted);
            let url = Url::parse(&format!("https://h/before/{}/after", segment(text).unwrap())).unwrap();
            assert_eq!(url.path_segments().unwrap().count(), 3, "{url}");
        }
        assert!(segment("..").is_err() && segment(".").is_err() && segment("").is_err());
        assert_eq!(segments("a b/c#.json").unwrap(), "a%20b/c%23.json");
        assert!(segments("a/../b").is_err() && segments("/a").is_err());
    }

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (address, wanted) in [
            ("https://u:p@h:8/a@b", "https://u:***@h:8/a@b"),
            ("https://u:p@q@h?x", "https://u:***@h?x"),
            ("https://token@h", "https://token:***@h"),
            ("https://h/u:p@x", "https://h/u:p@x"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(shown(address), wanted);
        }
    }
}
