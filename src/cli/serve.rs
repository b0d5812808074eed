//! `studygovernor serve`

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api;
use crate::app::App;
use crate::audit::{self, Head, Sealed};
use crate::callback::Workplace;
use crate::clock::Clock;
use crate::config::table::STUDYGOV_METRICS_LISTEN;
use crate::config::{CallbackMethod, MigrateMode, Settings};
use crate::context::Context;
use crate::database::keep_time;
use crate::entity::user;
use crate::http::{self, Layers, Serving};
use crate::mail::{Courier, Mailer};
use crate::project::keep;
use crate::queue::{self, QueueNames};
use crate::web;
use crate::worker::{LocalDesk, LocalIntake, Pool, note_worker, presence, sweep, worker_name};

use super::worker::answer_probes;
use super::{Failure, project, settings, warn_about};

/// Run the server: pages, callbacks and timeouts
///
/// Applies pending database migrations first. Listens on STUDYGOV_HOST (127.0.0.1) and STUDYGOV_PORT (8000).
#[derive(Args)]
pub(super) struct Serve {}

/// Time that running callbacks get to finish when the server stops, before they are released for another attempt.
const GRACE: Duration = Duration::from_secs(5);

impl Serve {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        Box::pin(serve(ctx, settings()?)).await
    }
}

/// Runs the server until the process is stopped.
pub(super) async fn serve(ctx: &Context, settings: Settings) -> Result<(), Failure> {
    warn_about(&settings);
    http::install_metrics();
    let app = App::connect(settings, Clock::study()).await?;
    let listener = http::bind(&app).await.map_err(Failure::Failed)?;
    let address = listener.local_addr().map_err(Failure::because)?;
    if app.settings.migrate == MigrateMode::Wait {
        info!(
            "checking the database schema; until it is up to date, responding with 503 on http://{address}{}/",
            app.settings.web.prefix
        );
        let waited = http::wait_for_tables(&app, &listener, http::shutdown_signal()).await;
        if !waited.map_err(Failure::because)? {
            return Ok(());
        }
    }
    let mut app = app.prepare(ctx).await?;
    if let Some(address) = &app.settings.web.metrics_listen {
        let listener = http::bind_beside(&STUDYGOV_METRICS_LISTEN, address).await.map_err(Failure::Failed)?;
        let address = listener.local_addr().map_err(Failure::because)?;
        info!("metrics are answered on http://{address}/-/metrics");
        tokio::spawn(http::serve_metrics(listener, app.clone()));
    }
    warn_without_accounts(&app).await?;
    let keeper = project::start(ctx, &app).await?;
    // Port 0 means any free one; workers need the actual port.
    Arc::make_mut(&mut app.settings).web.port = address.port();
    let (stop, stopped) = watch::channel(false);
    let callbacks = match (app.settings.callback.method, &app.settings.callback.broker) {
        (CallbackMethod::RabbitMq, Some(broker)) => {
            tokio::spawn(queue::run_server(relay(&app, broker), stopped.clone()))
        }
        _ => tokio::spawn(run_pool(app.clone(), "embedded", GRACE, None, stopped.clone())),
    };
    let sweeper = tokio::spawn(sweep(app.engine.clone(), app.settings.callback.lease, stopped.clone()));
    let (database, clock) = (app.engine.database().clone(), app.engine.clock().clone());
    let timekeeper = tokio::spawn(keep_time(database, clock, stopped.clone()));
    let (mails, stop_mails) = (courier(&app), stopped.clone());
    let courier = tokio::spawn(async move { mails.run(stop_mails).await });
    let sealer = tokio::spawn(seal_events(app.clone(), stopped.clone()));
    let keeping = keeper.map(|keeper| tokio::spawn(keep(keeper, stopped.clone())));
    // Before the log line below: a signal that arrives after it must stop the server gracefully.
    let signal = http::shutdown_signal();
    info!("Study Governor listens on http://{address}{}/", app.settings.web.prefix);
    let (pages, uploads) = web::pages(&app).into_routers();
    let service = pages.merge(api::routes(&app)).with_layers(uploads, &app);
    let told = async move {
        signal.await;
        // Fails only if everything has already ended.
        let _ = stop.send(true);
    };
    http::serve(listener, service, Serving::from(&app.settings.web), told).await;
    let _ = callbacks.await;
    let _ = sweeper.await;
    let _ = sealer.await;
    let _ = timekeeper.await;
    let _ = courier.await;
    if let Some(keeping) = keeping {
        let _ = keeping.await;
    }
    Ok(())
}

/// The background sender for the outbox.
fn courier(app: &App) -> Courier {
    let (settings, templates) = (&app.settings, app.templates.clone());
    Courier {
        database: app.engine.database().clone(),
        clock: app.engine.clock().clone(),
        mailer: Mailer::new(settings.work.mail.clone()),
        render: Arc::new(move |name, context| templates.mail(name, context).map_err(|error| error.to_string())),
        base_url: settings.web.base_url(),
        confirm_within: settings.security.confirm_within,
        reset_within: settings.security.reset_within,
    }
}

/// Adds new events of the audit trail to the hash chain shortly after they were committed, until `stop`.
async fn seal_events(app: App, mut stop: watch::Receiver<bool>) {
    let mut reported = AuditProblems::default();
    loop {
        match audit::seal(app.engine.database()).await {
            Ok(sealed) => reported.report(&sealed),
            Err(error) => warn!(%error, "failed to seal audit events; will retry"),
        }
        if *stop.borrow() {
            return;
        }
        tokio::select! {
            // Waits a moment for the commit, and for events that follow immediately.
            () = async {
                audit::recorded().await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            } => {}
            // Seals events of commands and other servers.
            () = tokio::time::sleep(Duration::from_secs(30)) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Problems of the audit trail that have been reported, so that each is reported only once.
#[derive(Default)]
struct AuditProblems {
    forged: Vec<i32>,
    missing: Option<Head>,
}

impl AuditProblems {
    fn report(&mut self, sealed: &Sealed) {
        let problems = sealed.forged.len() + usize::from(sealed.missing.is_some());
        metrics::gauge!("studygovernor_audit_problems").set(u32::try_from(problems).unwrap_or(u32::MAX));
        for event in sealed.forged.iter().filter(|event| !self.forged.contains(event)) {
            error!(event, "an audit event was changed or not written by Study Governor; it is not sealed");
        }
        if let Some(head) = sealed.missing.as_ref().filter(|missing| self.missing.as_ref() != Some(*missing)) {
            error!(%head, "audit seals were removed; sealing is stopped until `studygovernor audit seal` is run");
        }
        self.forged.clone_from(&sealed.forged);
        self.missing.clone_from(&sealed.missing);
    }
}

/// The part of the server that works with the broker.
fn relay(app: &App, broker: &str) -> queue::Server {
    let settings = &app.settings;
    queue::Server {
        database: app.engine.database().clone(),
        clock: app.engine.clock().clone(),
        broker: broker.to_owned(),
        names: QueueNames::new(&settings.callback.broker_prefix),
        secret_key: settings.secrets.secret_key.clone(),
        base_url: settings.web.base_url(),
        dispatched: app.engine.dispatched(),
        republish: TimeDelta::from_std(settings.callback.republish).unwrap_or(TimeDelta::minutes(1)),
        state: Arc::clone(&app.broker),
    }
}

/// Runs callbacks from the table of executions until `stop`. `kind` is the kind of worker.
///
/// `listener` serves the probes of a separate worker.
pub(super) async fn run_pool(
    app: App,
    kind: &str,
    grace: Duration,
    listener: Option<TcpListener>,
    stop: watch::Receiver<bool>,
) {
    let settings = &app.settings;
    let (engine, base_url) = (app.engine.clone(), settings.web.base_url());
    let (name, concurrency) = (worker_name(), settings.callback.concurrency);
    let desk = LocalDesk::new(engine.clone(), &base_url, settings.callback.lease);
    let intake = LocalIntake::new(engine.clone(), &settings.secrets.secret_key, &base_url, concurrency);
    let workplace = Workplace::new(&settings.work);
    let (end, ended) = watch::channel(false);
    let presence = presence(&name, kind, &[], concurrency, engine.clock().now());
    let noting = tokio::spawn(note_worker(engine, presence, ended));
    let pool = Pool::new(desk, workplace, &name, concurrency, grace, stop).with_project(app.project.clone());
    answer_probes(listener, &pool, app.project.clone());
    pool.run(intake).await;
    // The receiver exists until it receives this message.
    let _ = end.send(true);
    let _ = noting.await;
}

async fn warn_without_accounts(app: &App) -> Result<(), Failure> {
    use sea_orm::EntityTrait;
    let anybody = user::Entity::find().one(app.engine.database().reader()).await.map_err(Failure::because)?;
    if anybody.is_none() {
        warn!(
            "no accounts exist yet: create one with `studygovernor user create NAME --role admin`, or set \
            STUDYGOV_ADMIN_USERNAME and STUDYGOV_ADMIN_PASSWORD"
        );
    }
    Ok(())
}
