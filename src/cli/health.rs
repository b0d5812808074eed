//! `studygovernor health`

use std::time::Duration;

use clap::Args;

use super::console::out;
use super::{Failure, settings};

/// Check whether a running server is ready; exits with 1 if it is not
#[derive(Args)]
pub(super) struct Health {
    /// URL of the server [default: STUDYGOV_HOST and STUDYGOV_PORT on this machine]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl Health {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let base = match self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let web = settings()?.web;
                format!("http://{}:{}{}", web.host, web.port, web.prefix)
            }
        };
        let url = format!("{base}/-/ready");
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().map_err(Failure::because)?;
        let answer = client.get(&url).send().await.map_err(|error| {
            let reason = if error.is_builder() { "not a valid URL" } else { "no response" };
            Failure::Failed(format!("{url}: {reason}"))
        })?;
        if answer.status().is_success() {
            out("ready");
            return Ok(());
        }
        Err(Failure::Failed(format!("{url} returned {}", answer.status())))
    }
}
