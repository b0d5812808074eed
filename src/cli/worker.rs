//! `studygovernor worker`

use clap::Args;
use tokio::sync::watch;

use crate::http;

use super::{Failure, serve, settings, warn_about};
use crate::app::App;
use crate::clock::Clock;

/// Run callbacks without pages, beside servers on the same database
///
/// Takes callbacks from the queue in the database, as the server does itself. Several may run at the same time.
#[derive(Args)]
pub(super) struct Worker {
    /// Callbacks that run at the same time [default: STUDYGOV_WORKER_CONCURRENCY, or the number of cores, at least 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
}

impl Worker {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut settings = settings()?;
        if let Some(concurrency) = self.concurrency {
            settings.callback.concurrency = concurrency.into();
        }
        warn_about(&settings);
        let app = App::start(settings, Clock::System).await?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            http::shutdown_signal().await;
            // The pool is gone only when there is nothing to stop any more.
            let _ = stop.send(true);
        });
        serve::pool(&app).run(stopped).await;
        Ok(())
    }
}
