//! `studygovernor serve`

use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api;
use crate::app::App;
use crate::callback::Workplace;
use crate::clock::Clock;
use crate::config::{CallbackMethod, Settings};
use crate::entity::user;
use crate::http::{self, Layers};
use crate::web;
use crate::worker::{LocalDesk, Pool, sweep};

use super::{Failure, settings, warn_about};

/// Run the server: pages, callbacks and timeouts
///
/// Brings the database up to date first. Listens on STUDYGOV_HOST (127.0.0.1) and STUDYGOV_PORT (8000).
#[derive(Args)]
pub(super) struct Serve {}

/// Seconds that running callbacks get to end when the server stops, before they are given back for another attempt.
const GRACE: Duration = Duration::from_secs(5);

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        serve(settings()?).await
    }
}

/// Serves until the process is told to stop.
pub(super) async fn serve(settings: Settings) -> Result<(), Failure> {
    warn_about(&settings);
    let app = App::start(settings, Clock::System).await?;
    warn_without_accounts(&app).await?;
    let listener = http::bind(&app).await.map_err(Failure::Failed)?;
    let address = listener.local_addr().map_err(Failure::because)?;
    let (stop, stopped) = watch::channel(false);
    let pool = match app.settings.callback.method {
        CallbackMethod::Local => Some(tokio::spawn(pool(&app).run(stopped.clone()))),
        CallbackMethod::RabbitMq => None,
    };
    let sweeper = tokio::spawn(sweep(app.engine.clone(), app.settings.callback.lease, stopped.clone()));
    info!("Study Governor listens on http://{address}{}/", app.settings.web.prefix);
    let service = web::routes().merge(api::routes(&app)).with_layers(&app);
    let told = async move {
        http::shutdown_signal().await;
        // Nobody listens any more only when everything has ended already.
        let _ = stop.send(true);
    };
    let mut after = stopped.clone();
    tokio::select! {
        served = http::serve(listener, service, told) => served.map_err(Failure::because)?,
        // A browser that keeps its connection open does not keep the server from stopping.
        () = async {
            let _ = after.wait_for(|stop| *stop).await;
            tokio::time::sleep(GRACE).await;
        } => {}
    }
    if let Some(pool) = pool {
        let _ = pool.await;
    }
    let _ = sweeper.await;
    Ok(())
}

/// The embedded worker pool.
pub(super) fn pool(app: &App) -> Pool<LocalDesk> {
    let settings = &app.settings;
    let desk = LocalDesk::new(
        app.engine.clone(),
        &settings.secrets.secret_key,
        &settings.web.base_url(),
        settings.callback.lease,
    );
    let workplace = Workplace::new(&settings.project);
    Pool::new(desk, workplace, settings.callback.concurrency, settings.callback.lease, GRACE)
}

async fn warn_without_accounts(app: &App) -> Result<(), Failure> {
    use sea_orm::EntityTrait;
    let anybody = user::Entity::find().one(app.engine.database().reader()).await.map_err(Failure::because)?;
    if anybody.is_none() {
        warn!(
            "nobody can log in yet: make an account with `studygovernor user create NAME --role admin`, \
             or set STUDYGOV_ADMIN_USERNAME and STUDYGOV_ADMIN_PASSWORD"
        );
    }
    Ok(())
}
