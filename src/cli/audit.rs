//! `studygovernor audit …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::audit::{self, Event, Head, Key};

use super::console::{err, out};
use super::{Failure, connected_app, started_app};

/// Check the audit trail
#[derive(Subcommand)]
pub(super) enum Audit {
    Verify(Verify),
    Seal(Seal),
}

/// Find changed, missing and forged rows of the audit trail
///
/// It only reads. Each event is signed with the server's SECRET_KEY and chained to the one before it by a hash. Prints the number of events
/// and the head of the chain; keep the head elsewhere from time to time: with --head the command also finds that the end was cut off. Exits
/// with 1 when something is wrong.
#[derive(Args)]
pub(super) struct Verify {
    /// A head that was printed before (NUMBER:HASH)
    #[arg(long, value_name = "HEAD")]
    head: Option<Head>,
    /// File with a SECRET_KEY that was used before the present one; may be given more than once
    #[arg(long = "old-key", value_name = "FILE")]
    old_keys: Vec<PathBuf>,
}

/// Seal events again after seals were removed
///
/// Running servers seal events by themselves. They stop when seals are missing that later events refer to, since sealing again would hide
/// that. Look at what `audit verify` reports first; it goes on reporting it afterwards.
#[derive(Args)]
pub(super) struct Seal {
    /// Why this is right; it becomes an event of the audit trail
    #[arg(long)]
    reason: String,
}

impl Audit {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run().await,
            Self::Seal(seal) => seal.run().await,
        }
    }
}

impl Seal {
    async fn run(self) -> Result<(), Failure> {
        if self.reason.trim().is_empty() {
            return Err(Failure::Usage("--reason: is empty".to_owned()));
        }
        let app = started_app().await?;
        let database = app.engine.database();
        let transaction = database.begin().await.map_err(Failure::because)?;
        let event = Event::of("seal", "audit_trail", "audit trail").because(&self.reason);
        audit::record(&*transaction, event).await.map_err(Failure::because)?;
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
            err(&format!("wrong: {wrong}"));
        }
        match verified.unsealed.as_slice() {
            [] => {}
            [first, ..] => err(&format!(
                "{} events are not sealed yet, the first is event {first}; a running server seals them",
                verified.unsealed.len()
            )),
        }
        match verified.head {
            Some(head) => out(&format!("{} events, head {head}", verified.events)),
            None => out("no sealed events"),
        }
        match verified.wrong.len() {
            0 => Ok(()),
            1 => Err(Failure::Failed("the audit trail was changed at one place".to_owned())),
            count => Err(Failure::Failed(format!("the audit trail was changed at {count} places"))),
        }
    }
}
