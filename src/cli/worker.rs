//! `studygovernor worker`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::callback::Workplace;
use crate::clock::Clock;
use crate::config::table::STUDYGOV_WORKER_LISTEN;
use crate::config::{
    Environment, MigrateMode, QUEUE_NAME, WorkSettings, WorkerSettings, broker_address, broker_prefix, is_queue_name,
    is_web_address, time,
};
use crate::context::Context;
use crate::database::keep_time;
use crate::http;
use crate::project::{Project, keep};
use crate::queue::QueueNames;
use crate::worker::{BrokerIntake, BrokerSettings, Desk, Pool, RemoteDesk, presence, say_worker, worker_name};

use super::{Failure, project, serve, settings, warn_about, working_directory};
use crate::app::{App, Tables};

/// Run callbacks, on this or any other machine
///
/// With a broker (--broker, STUDYGOV_BROKER or STUDYGOV_CELERY_BROKER) the worker receives callbacks from RabbitMQ and
/// communicates with the server over HTTP; it needs neither the database nor secrets of the server. Without a broker it
/// claims callbacks from the database, using the settings of the server; several workers can run at the same time.
///
/// On SIGTERM the worker stops claiming work, waits up to --grace for running callbacks, then releases the rest.
#[derive(Args)]
pub(super) struct Worker {
    /// URL of the broker, amqp://user:password@host:5672/vhost. Prefer STUDYGOV_BROKER: other users of this machine can
    /// see command-line arguments
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// URL of the server as seen from this machine [default: STUDYGOV_SERVER, or the server's own external URL]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Queue to consume, as in callback_arguments.queue; can be given several times [default: STUDYGOV_QUEUES, or default]
    #[arg(long = "queue", value_name = "NAME", value_delimiter = ',')]
    queues: Vec<String>,
    /// Number of concurrent callbacks [default: STUDYGOV_WORKER_CONCURRENCY, or the number of cores, at least 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: Option<u16>,
    /// Time that running callbacks get to finish when the worker is stopped: seconds, or 90s, 15m, 1h [default:
    /// STUDYGOV_WORKER_GRACE, or 5 seconds]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Serve /-/healthy and /-/metrics on this address, for example 127.0.0.1:9090 or :9090 [default:
    /// STUDYGOV_WORKER_LISTEN; if unset, they are not served]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Worker {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let directory = working_directory()?;
        let environment = Environment::load(&directory)?;
        let broker = match &self.broker {
            Some(address) => broker_address(&[("STUDYGOV_BROKER", address.as_str())].into_iter().collect())
                .map_err(|error| Failure::Usage(format!("--broker {}", error.problem)))?,
            None => broker_address(&environment)?,
        };
        let settings = self.over(WorkerSettings::read(&environment)?)?;
        let listener = match &settings.listen {
            Some(address) => Some(http::bind_beside(&STUDYGOV_WORKER_LISTEN, address).await.map_err(Failure::Failed)?),
            None => None,
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            http::shutdown_signal().await;
            // Fails only if the pool has already ended.
            let _ = stop.send(true);
        });
        match broker {
            Some(broker) => run_from_broker(broker, &environment, settings, listener, stopped).await,
            None => self.run_from_database(ctx, &settings, listener, stopped).await,
        }
    }

    async fn run_from_database(
        self,
        ctx: &Context,
        worker: &WorkerSettings,
        listener: Option<TcpListener>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        if !worker.queues.is_empty() || worker.server.is_some() {
            let hint = "--queue and --server are for a worker with a broker; set --broker or STUDYGOV_BROKER";
            return Err(Failure::Usage(hint.to_owned()));
        }
        let mut settings = settings()?;
        if let Some(concurrency) = self.concurrency {
            settings.callback.concurrency = concurrency.into();
        }
        warn_about(&settings);
        let app = App::connect(settings, Clock::study()).await?;
        if app.settings.migrate == MigrateMode::Wait && !wait_for_tables(&app, stop.clone()).await? {
            return Ok(());
        }
        let app = app.prepare(ctx).await?;
        let mut stopped = stop.clone();
        let keeper = tokio::select! {
            keeper = project::start(ctx, &app) => keeper?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        if let Some(keeper) = keeper {
            tokio::spawn(keep(keeper, stop.clone()));
        }
        let (database, clock) = (app.engine.database().clone(), app.engine.clock().clone());
        tokio::spawn(keep_time(database, clock, stop.clone()));
        serve::run_pool(app, "database", worker.grace, listener, stop).await;
        Ok(())
    }

    /// The settings of the environment, with those that the arguments give in their place.
    fn over(&self, mut settings: WorkerSettings) -> Result<WorkerSettings, Failure> {
        if let Some(server) = &self.server {
            if !is_web_address(server) {
                return Err(Failure::Usage(format!("--server: '{server}' is not a URL like https://host/prefix")));
            }
            settings.server = Some(server.clone());
        }
        if !self.queues.is_empty() {
            settings.queues = self.queues.iter().map(|queue| queue.trim().to_owned()).collect();
            if let Some(wrong) = settings.queues.iter().find(|queue| !is_queue_name(queue)) {
                return Err(Failure::Usage(format!("--queue: '{wrong}' is not {QUEUE_NAME}")));
            }
        }
        if let Some(text) = &self.grace {
            let wrong = || Failure::Usage(format!("--grace: '{text}' is not a duration like 90, 90s, 15m, 1h or 1d"));
            settings.grace = time(text).ok_or_else(wrong)?;
        }
        settings.concurrency = self.concurrency.unwrap_or(settings.concurrency);
        settings.listen = self.listen.clone().or(settings.listen);
        Ok(settings)
    }
}

async fn run_from_broker(
    address: String,
    environment: &Environment,
    settings: WorkerSettings,
    listener: Option<TcpListener>,
    stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut queues = settings.queues;
    if queues.is_empty() {
        queues.push(crate::queue::DEFAULT_QUEUE.to_owned());
    }
    queues.sort_unstable();
    queues.dedup();
    let name = worker_name();
    let desk = RemoteDesk::new(settings.server.as_deref()).map_err(Failure::Failed)?;
    let intake = BrokerIntake::new(BrokerSettings {
        address,
        names: QueueNames::new(&broker_prefix(environment)?),
        queues: queues.clone(),
        at_once: settings.concurrency,
        name: format!("worker {name}"),
    });
    let work = WorkSettings::read(environment, &working_directory()?)?;
    let mut stopped = stop.clone();
    let project = tokio::select! {
        project = project::follow(&work) => project?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    let workplace = Workplace::new(&work);
    let (end, ended) = watch::channel(false);
    let concurrency = usize::from(settings.concurrency);
    let presence = presence(&name, "broker", &queues, concurrency, Clock::System.now());
    let saying = tokio::spawn(say_worker(&intake, presence, ended));
    tracing::info!(queues = queues.join(", "), "consuming callbacks from the broker");
    let pool = Pool::new(desk, workplace, &name, concurrency, settings.grace, stop).with_project(project.clone());
    answer_probes(listener, &pool, project);
    pool.run(intake).await;
    // The receiver exists until it receives this message.
    let _ = end.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(2), saying).await;
    Ok(())
}

/// Serves the probes until the process ends, if the worker has a listener.
pub(super) fn answer_probes<D: Desk>(listener: Option<TcpListener>, pool: &Pool<D>, project: Option<Arc<Project>>) {
    let Some(listener) = listener else { return };
    http::install_metrics();
    let pulse = pool.pulse();
    match listener.local_addr() {
        Ok(address) => tracing::info!("serving probes on http://{address}/-/healthy"),
        Err(error) => tracing::warn!(%error, "the worker's listener has no address"),
    }
    tokio::spawn(http::serve_worker(listener, move || pulse.age(), project));
}

/// Waits until another program has migrated the tables; returns false if the worker must stop before.
async fn wait_for_tables(app: &App, mut stop: watch::Receiver<bool>) -> Result<bool, Failure> {
    let mut said = None;
    loop {
        let tables = app.tables().await.map_err(Failure::because)?;
        if tables == Tables::UpToDate {
            return Ok(true);
        }
        if said.as_ref() != Some(&tables) {
            tracing::info!("waiting for the database schema: {tables}");
            said = Some(tables);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(false),
        }
    }
}
