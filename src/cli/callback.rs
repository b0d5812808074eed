//! `studygovernor callback`

use clap::Subcommand;

use crate::callback::Workplace;
use crate::config::{Environment, WorkSettings, sealed};
use crate::worker::run_by_hand;

use super::console::{err, out};
use super::{Failure, project, working_directory};

/// Manage individual callbacks
#[derive(Subcommand)]
pub(super) enum Callback {
    /// Run one callback execution locally and report its result
    ///
    /// Authenticates with the secret of the attempt, or with the login for the host of the server in ~/.netrc (or
    /// $NETRC), which requires the permission action_update. Writes the log to stderr and the result values to stdout.
    /// Exits with 1 if the run has failed.
    Run {
        /// URL of the execution, http://…/api/v2/callback_executions/7
        url: String,
        /// Secret of the attempt. Prefer STUDYGOV_CALLBACK_SECRET: other users of this machine can see command-line
        /// arguments
        #[arg(long, env = "STUDYGOV_CALLBACK_SECRET", hide_env_values = true)]
        secret: Option<String>,
    },
}

impl Callback {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::Run { url, secret } = self;
        // Read from the sealed secrets: in the environment, other programs could read it.
        let secret = secret.or_else(|| sealed("STUDYGOV_CALLBACK_SECRET").map(str::to_owned));
        // Version 1 of the API has no nested record.
        let url = url.replace("/api/v1/", "/api/v2/");
        let address = url::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let address = address.ok_or_else(|| Failure::Usage(format!("'{url}' is not a valid URL")))?;
        let directory = working_directory()?;
        let settings = WorkSettings::read(&Environment::load(&directory)?, &directory)?;
        let mut workplace = Workplace::new(&settings);
        // Kept on this machine until the run has ended.
        let files = project::on_this_machine(&settings).await?.and_then(|project| Some((project.current()?, project)));
        if let Some((revision, project)) = &files {
            workplace = workplace.at(&project.settings_at(revision), &revision.commit);
        }
        let (outcome, log) = run_by_hand(&address, secret.as_deref(), &workplace).await.map_err(Failure::Failed)?;
        err(log.trim_end());
        out(&serde_json::to_string_pretty(&outcome.values).map_err(Failure::because)?);
        if outcome.is_success { Ok(()) } else { Err(Failure::Told) }
    }
}
