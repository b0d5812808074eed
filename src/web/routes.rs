//! The routes of the pages, each with its access rule in one place. Every page must declare its access rule.

use axum::Router;
use axum::extract::{FromRequestParts, OriginalUri, Request, State};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};

use crate::account::Permission;
use crate::app::App;
use crate::http::{HttpError, LoggedIn, WHOLE_STUDY, Wants};

/// The access rule of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No login.
    Nothing,
    /// An account, even one that still lacks the second factor that a role requires.
    Account,
    /// A logged-in user.
    Login,
    /// A user with the role `admin`.
    Admin,
    /// A user whose roles permit it, in at least one cohort; the page is limited to those cohorts.
    May(Permission),
    /// A user whose roles permit it in the whole study.
    Everywhere(Permission),
}

impl std::fmt::Display for Need {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Nothing => "nothing",
            Self::Account => "account",
            Self::Login => "login",
            Self::Admin => "admin",
            Self::May(permission) | Self::Everywhere(permission) => permission.name(),
        })
    }
}

/// A route and its access rule.
#[derive(Debug, Clone)]
pub struct Entry {
    pub method: &'static str,
    pub path: &'static str,
    pub need: Need,
}

/// All pages, with the table of their access rules.
pub struct Pages {
    app: App,
    pub(super) router: Router<App>,
    /// Pages that accept a file: without a time limit, and up to the maximum size of files.
    uploads: Router<App>,
    table: Vec<Entry>,
}

impl Pages {
    pub(super) fn new(app: &App) -> Self {
        Self { app: app.clone(), router: Router::new(), uploads: Router::new(), table: Vec::new() }
    }

    /// A page.
    pub(super) fn get<H, T>(self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.add("GET", path, need, get(handler))
    }

    /// The target of a form.
    pub(super) fn post<H, T>(self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.add("POST", path, need, post(handler))
    }

    /// The target of a form with a file.
    pub(super) fn upload<H, T>(mut self, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let checked = post(handler).layer(from_fn_with_state((self.app.clone(), need), check));
        self.uploads = self.uploads.route(path, checked);
        self.table.push(Entry { method: "POST", path, need });
        self
    }

    /// Pages that exist only if a feature is enabled.
    pub(super) fn when(self, is_on: bool, more: impl FnOnce(Self) -> Self) -> Self {
        if is_on { more(self) } else { self }
    }

    fn add(mut self, method: &'static str, path: &'static str, need: Need, handler: MethodRouter<App>) -> Self {
        let checked = handler.layer(from_fn_with_state((self.app.clone(), need), check));
        self.router = self.router.route(path, checked);
        self.table.push(Entry { method, path, need });
        self
    }

    /// The table of all pages.
    #[must_use]
    pub fn table(&self) -> &[Entry] {
        &self.table
    }

    /// The pages, and those that accept files, which have other limits. A GET of a URL that only accepts a form
    /// redirects to the page above it: after a login, or when a rejected form is opened again.
    pub fn into_routers(mut self) -> (Router<App>, Router<App>) {
        let looked_at = |path: &str| self.table.iter().any(|entry| entry.method == "GET" && entry.path == path);
        let done: Vec<&str> = self.table.iter().map(|entry| entry.path).filter(|path| !looked_at(path)).collect();
        for path in done {
            self.router = self.router.route(path, get(lead_up));
        }
        (self.router, self.uploads)
    }
}

async fn lead_up(OriginalUri(uri): OriginalUri) -> Redirect {
    let above = uri.path().rsplit_once('/').map_or("/", |(above, _)| above);
    Redirect::to(if above.is_empty() { "/" } else { above })
}

async fn check(State((app, need)): State<(App, Need)>, request: Request, next: Next) -> Response {
    if need == Need::Nothing {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let known = match LoggedIn::from_request_parts(&mut parts, &app).await {
        Ok(user) => user,
        Err(to_login) => return to_login,
    };
    let (user, mut ctx) = (&known.0, known.ctx().clone());
    if user.must_enrol && need != Need::Account {
        let to = format!("{}/account/second_factor", app.settings.web.prefix);
        let Ok(wants) = Wants::from_request_parts(&mut parts, &app).await;
        return match wants.fragment {
            // htmx would insert the target of a redirect into a part of this page.
            true => (StatusCode::FORBIDDEN, [("hx-redirect", to)]).into_response(),
            false => Redirect::to(&to).into_response(),
        };
    }
    if need == Need::Admin && !user.is_admin() {
        return HttpError::NotYours("This requires the role 'admin'.".to_owned()).into_response();
    }
    if let Need::May(permission) | Need::Everywhere(permission) = need {
        if !user.may(permission) {
            return match user.holds(permission) {
                true => HttpError::NotYours(WHOLE_STUDY.to_owned()).into_response(),
                false => HttpError::Forbidden(permission.name()).into_response(),
            };
        }
        ctx = user.narrow(&ctx, permission);
    }
    if matches!(need, Need::Everywhere(_)) && user.cohorts().is_some() {
        return HttpError::NotYours(WHOLE_STUDY.to_owned()).into_response();
    }
    // The handler cannot get a wider context: it starts from this one.
    parts.extensions.insert(ctx);
    next.run(Request::from_parts(parts, body)).await
}
