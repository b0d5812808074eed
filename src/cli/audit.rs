//! `studygovernor audit …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::audit::{self, Event, Head, Key};
use crate::context::Context;

use super::console::{err, out};
use super::{Failure, connected_app, started_app};

/// Verify the audit log
#[derive(Subcommand)]
pub(super) enum Audit {
    Verify(Verify),
    Seal(Seal),
}

/// Find changed, missing and forged rows of the audit log
///
/// Read-only. Each event is signed with the server's SECRET_KEY and chained to the previous one by a hash. Prints the
/// number of events and the head of the chain. Store the head elsewhere from time to time: with --head the command also
/// detects that the end of the log was removed. Exits with 1 if any error is found.
#[derive(Args)]
pub(super) struct Verify {
    /// A head that was printed earlier (NUMBER:HASH)
    #[arg(long, value_name = "HEAD")]
    head: Option<Head>,
    /// File with a previous SECRET_KEY; can be given several times
    #[arg(long = "old-key", value_name = "FILE")]
    old_keys: Vec<PathBuf>,
}

/// Seal events again after seals were removed
///
/// Running servers seal events automatically. They stop if seals are missing that later events refer to, because
/// sealing again would hide the loss. Run `audit verify` first; it continues to report the loss afterwards.
#[derive(Args)]
pub(super) struct Seal {
    /// Reason, recorded as an event in the audit log
    #[arg(long)]
    reason: String,
}

impl Audit {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run().await,
            Self::Seal(seal) => Box::pin(seal.run(ctx)).await,
        }
    }
}

impl Seal {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        if self.reason.trim().is_empty() {
            return Err(Failure::Usage("--reason: is empty".to_owned()));
        }
        let app = started_app(ctx).await?;
        let database = app.engine.database();
        let transaction = database.begin().await.map_err(Failure::because)?;
        let event = Event::of("seal", "audit_trail", "audit log").because(&self.reason);
        audit::record(ctx, &*transaction, event).await.map_err(Failure::because)?;
        transaction.commit().await.map_err(Failure::because)?;
        let sealed = audit::seal_again(database).await.map_err(Failure::because)?;
        out(&format!("{} events sealed", sealed.count));
        Ok(())
    }
}

impl Verify {
    async fn run(self) -> Result<(), Failure> {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path);
            let text =
                text.map_err(|error| Failure::Usage(format!("--old-key: cannot read {}: {error}", path.display())))?;
            Ok(Key::new(text.trim_end_matches(['\r', '\n'])))
        };
        let old: Vec<Key> = self.old_keys.iter().map(read).collect::<Result<_, Failure>>()?;
        let app = connected_app().await?;
        let database = app.engine.database();
        let verified = audit::verify(database, self.head.as_ref(), &old).await.map_err(Failure::because)?;
        for wrong in &verified.wrong {
            err(&format!("error: {wrong}"));
        }
        match verified.unsealed.as_slice() {
            [] => {}
            [first, ..] => err(&format!(
                "{} events are not sealed yet, starting with event {first}; a running server seals them",
                verified.unsealed.len()
            )),
        }
        match verified.head {
            Some(head) => out(&format!("{} events, head {head}", verified.events)),
            None => out("no sealed events"),
        }
        match verified.wrong.len() {
            0 => Ok(()),
            1 => Err(Failure::Failed("the audit log was changed in one place".to_owned())),
            count => Err(Failure::Failed(format!("the audit log was changed in {count} places"))),
        }
    }
}
