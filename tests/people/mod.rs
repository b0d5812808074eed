//! Accounts: registration, permissions and mails; over HTTP, with a real mail server.

mod administration;
mod admission;
mod doors;
mod entrance;
mod factor;
mod mails;
mod many;
mod markup;
mod mended;
mod opened;
mod routes;
mod scope;
mod scope_attacked;
mod scope_given;
mod sessions;

use std::sync::Mutex;

use mail_parser::MessageParser;
use reqwest::{Client, Method, Response, StatusCode, redirect};

use crate::api::Server;
use crate::support::{Backend, eventually};

/// A browser without scripts: keeps its cookie and follows no redirects.
pub struct Visitor {
    client: Client,
    base: String,
    cookie: Mutex<Option<String>>,
}

/// A response.
pub struct Page {
    pub status: StatusCode,
    pub location: String,
    pub text: String,
    /// The cookie with its attributes, if one was set.
    pub cookie: String,
}

impl Page {
    #[track_caller]
    pub fn shows(self, status: u16, words: &str) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert!(self.text.contains(words), "no '{words}' in {}", self.text);
        self
    }

    #[track_caller]
    pub fn leads(self, to: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.location.as_str()), (303, to), "{}", self.text);
        self
    }
}

impl Visitor {
    pub fn at(url: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { client, base: url.to_owned(), cookie: Mutex::new(None) }
    }

    /// A browser that has just logged in.
    pub async fn logged_in(url: &str, login: &str, password: &str) -> Self {
        let visitor = Self::at(url);
        visitor.post("/login", &[("login", login), ("password", password)]).await.leads("/");
        visitor
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match self.cookie.lock().unwrap().as_ref() {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    /// Reads a response; a refused form must mark its fields accessibly.
    pub async fn page(&self, answer: Response) -> Page {
        let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (cookie, location) = (header("set-cookie"), header("location"));
        if let Some(pair) = cookie.split(';').next().filter(|pair| !pair.is_empty()) {
            *self.cookie.lock().unwrap() = Some(pair.to_owned());
        }
        let page = Page { status: answer.status(), location, cookie, text: answer.text().await.unwrap() };
        if matches!(page.status.as_u16(), 422 | 429) {
            check_marks(&page.text);
        }
        page
    }

    pub async fn get(&self, path: &str) -> Page {
        self.page(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Page {
        let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
        self.page(request.body(body).send().await.unwrap()).await
    }
}

/// Every marked field of a refused form refers screen readers to its error text, and the first of them has the focus.
#[track_caller]
fn check_marks(text: &str) {
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let tags = text.split('<').map(|rest| rest.split_once('>').map_or(rest, |(tag, _)| tag));
    let fields: Vec<&str> =
        tags.filter(|tag| ["input", "textarea", "select"].iter().any(|name| tag.starts_with(name))).collect();
    let is_marked = |tag: &&&str| attribute(tag, "class").is_some_and(|class| class.contains("is-invalid"));
    for tag in fields.iter().filter(is_marked) {
        assert!(tag.contains("aria-invalid=\"true\""), "{tag}");
        let described = attribute(tag, "aria-describedby").unwrap_or_else(|| panic!("nothing describes {tag}"));
        assert!(
            described.split(' ').all(|id| text.contains(&format!("id=\"{id}\""))),
            "{described} is not there: {tag}"
        );
    }
    let first = fields.iter().find(is_marked);
    let focused = fields.iter().find(|tag| tag.split_whitespace().any(|word| word.starts_with("autofocus")));
    if let (Some(first), Some(focused)) = (first, focused) {
        // On the login page, the password has to be entered again.
        assert!(first == focused || attribute(focused, "type").as_deref() == Some("password"), "{first} and {focused}");
    }
    assert!(first.is_none() || focused.is_some(), "nothing has the focus: {}", first.unwrap());
    for id in text
        .split("aria-describedby=\"")
        .skip(1)
        .filter_map(|rest| rest.split_once('"'))
        .flat_map(|(ids, _)| ids.split(' '))
    {
        assert!(text.contains(&format!("id=\"{id}\"")), "{id} is not there");
    }
}

/// A received mail.
#[derive(Debug, Clone)]
pub struct Mail {
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
    /// How the mail reached the mail server of the tests, and which account had logged in there.
    pub came: String,
}

impl Mail {
    /// The path of the link to our own server in the mail.
    #[track_caller]
    pub fn link(&self, base: &str) -> String {
        let line = self.text.lines().find_map(|line| line.strip_prefix(base));
        line.unwrap_or_else(|| panic!("no link to {base} in {}", self.text)).to_owned()
    }
}

/// Mails of a folder: of the mail server, or of the program if no mail server is used.
pub fn mails_in(folder: &str) -> Vec<Mail> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(raw) = std::fs::read(file.path()) else { continue };
        let Some(message) = MessageParser::default().parse(&raw) else { continue };
        found.push(Mail {
            to: message.to().and_then(|to| to.first()?.address()).unwrap_or_default().to_owned(),
            subject: message.subject().unwrap_or_default().to_owned(),
            text: message.body_text(0).unwrap_or_default().replace("\r\n", "\n"),
            html: message.body_html(0).unwrap_or_default().into_owned(),
            came: ["X-Came", "X-Login"].map(|name| message.header_raw(name).unwrap_or_default().trim()).join(", "),
        });
    }
    found
}

/// A server with accounts.
pub struct House {
    pub server: Server,
    folder: String,
    /// The e-mail address of the administrator.
    pub admin_email: String,
}

impl House {
    /// Mails are written to a folder.
    pub async fn new(backend: Backend, environment: &[(&str, &str)]) -> Self {
        let server = Server::with(backend, environment).await;
        let folder = server.home.path().join("mails").display().to_string();
        Self { server, folder, admin_email: "admin@example.com".to_owned() }
    }

    /// Mails are sent through the mail server of the tests.
    pub async fn with_mail_server(backend: Backend) -> Self {
        Self::with_mail_port(backend, "TEST_SMTP_PORT", &[]).await
    }

    /// The same, with the port in this variable.
    pub async fn with_mail_port(backend: Backend, port: &str, more: &[(&str, &str)]) -> Self {
        let (port, folder) = (needed(port), needed("TEST_SMTP_FOLDER"));
        let admin_email = address();
        let mut environment = vec![
            ("MAIL_SERVER", "127.0.0.1"),
            ("MAIL_PORT", port.as_str()),
            ("STUDYGOV_ADMIN_EMAIL", admin_email.as_str()),
        ];
        environment.extend_from_slice(more);
        let server = Server::with(backend, &environment).await;
        Self { server, folder: format!("{folder}/new"), admin_email }
    }

    pub fn url(&self) -> &str {
        &self.server.program.url
    }

    pub fn visitor(&self) -> Visitor {
        Visitor::at(self.url())
    }

    pub async fn admin(&self) -> Visitor {
        Visitor::logged_in(self.url(), "admin", "admin").await
    }

    /// Creates an account with these roles over the API.
    pub async fn add(&self, name: &str, roles: &[&str]) {
        let user = serde_json::json!({
            "users": [{ "username": name, "password": GOOD, "name": name, "email": format!("{name}@example.com"),
                        "active": true, "roles": roles }]
        });
        let body = serde_json::json!({ "config_definition": user.to_string() });
        self.server.admin().post("/api/v2/service/config/import-config", body).await.expect(201);
    }

    /// The newest mail to this address whose subject contains these words.
    pub async fn mail(&self, to: &str, words: &str) -> Mail {
        eventually(&format!("the mail '{words}' to {to}"), async || {
            mails_in(&self.folder).into_iter().find(|mail| mail.to == to && mail.subject.contains(words))
        })
        .await
    }

    pub fn mails_to(&self, to: &str) -> Vec<Mail> {
        mails_in(&self.folder).into_iter().filter(|mail| mail.to == to).collect()
    }
}

/// A variable that `make test` sets.
pub fn needed(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use `make test`"))
}

/// A password that is accepted.
pub const GOOD: &str = "violet sonata in the cart";

/// An e-mail address that no other test uses.
pub fn address() -> String {
    format!("{}@example.org", uuid::Uuid::new_v4().simple())
}
