//! Requests to other systems over HTTP, with the login that the worker's machine has for them.
//!
//! A redirect within one origin (scheme, host and port) is followed with everything that the request had. One to another origin is
//! not followed: logins, headers and bodies are for the system that the workflow names.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, RequestBuilder, Response};
use url::Url;

use super::netrc::Login;
use super::{Failure, Run, RunLog};

/// A client of other systems.
pub(super) struct Web<'a> {
    client: Client,
    run: &'a Run<'a>,
    limit: Duration,
    /// What is wrong with the file of logins is in the log.
    has_noted_problems: AtomicBool,
}

/// One for the process: making one reads all certificates of the machine.
static CLIENT: OnceLock<Client> = OnceLock::new();

/// Redirects that are followed.
const MOST_REDIRECTS: usize = 10;

fn client() -> Result<Client, Failure> {
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let made = Client::builder()
        .connect_timeout(Duration::from_secs(20))
        .redirect(within_origin())
        // It would carry the address of the request, with what the workflow put into it.
        .referer(false)
        .user_agent(concat!("studygovernor/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Failure(format!("cannot create the HTTP client: {error}")))?;
    Ok(CLIENT.get_or_init(|| made).clone())
}

/// Follows redirects to the same origin. Any other answer comes back as it is.
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
    /// A request may take so long, from its beginning to the end of the answer.
    ///
    /// # Errors
    /// When there is no TLS.
    pub(super) fn new(run: &'a Run<'_>, limit: Duration) -> Result<Self, Failure> {
        Ok(Self { client: client()?, run, limit, has_noted_problems: AtomicBool::new(false) })
    }

    /// A request with the login of the host, if there is one.
    ///
    /// # Errors
    /// When that is no address.
    pub(super) fn request(&self, method: Method, address: &str) -> Result<RequestBuilder, Failure> {
        let url = parse(address)?;
        // A login in the address itself is sent by the client.
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
    /// When that is no address.
    pub(super) fn plain(&self, method: Method, address: &str) -> Result<RequestBuilder, Failure> {
        Ok(self.client.request(method, parse(address)?).timeout(self.limit))
    }

    /// The log of the run.
    pub(super) fn log(&self) -> &RunLog {
        self.run.log
    }

    /// The login of the machine for an address; what is wrong with the file of logins is in the log once.
    pub(super) fn login(&self, url: &Url) -> Option<Login> {
        let (login, problems) = self.run.workplace.logins.at(url);
        if !self.has_noted_problems.swap(true, Ordering::Relaxed) {
            problems.iter().for_each(|problem| self.run.log.line(problem));
        }
        login
    }
}

/// An address of the web.
///
/// # Errors
/// When it is none.
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

/// An address for logs and messages: without the password that may be in it.
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

/// A text from the data of a study as one part of the path of an address.
///
/// # Errors
/// When it cannot be one: it is empty, or means another folder.
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

/// The same for a path of several parts, with slashes between them.
///
/// # Errors
/// As [`segment`].
pub(super) fn segments(path: &str) -> Result<String, Failure> {
    path.split('/').map(segment).collect::<Result<Vec<_>, _>>().map(|parts| parts.join("/"))
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

/// Where an answer points to, when it is a redirect.
pub(super) fn redirect_of(answer: &Response) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get(reqwest::header::LOCATION)?.to_str().ok()?;
    answer.url().join(location).ok()
}

/// For messages about an answer that is not the expected one: where it points to.
pub(super) fn hint_of(answer: &Response) -> String {
    let target = redirect_of(answer).map(|url| shown(&url.origin().ascii_serialization()));
    target.map_or_else(String::new, |origin| {
        format!(" (it redirects to {origin}, another origin, to which neither logins nor data are sent)")
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
