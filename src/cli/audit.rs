//! `studygovernor audit …`

use clap::{Args, Subcommand};

use crate::audit::{self, Head};

use super::console::{err, out};
use super::{Failure, started_app};

/// Look after the audit trail
#[derive(Subcommand)]
pub(super) enum Audit {
    Verify(Verify),
}

/// Find changed and missing rows of the audit trail
///
/// Each event is chained to the one before it by a hash. Prints the number of events and the head of the chain; write
/// the head down elsewhere from time to time: with --head it is also found when the end was cut off, or all of the chain
/// was made anew. Exits with 1 when something is wrong.
#[derive(Args)]
pub(super) struct Verify {
    /// A head that was printed before (NUMBER:HASH)
    #[arg(long, value_name = "HEAD")]
    head: Option<Head>,
}

impl Audit {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::Verify(verify) = self;
        verify.run().await
    }
}

impl Verify {
    async fn run(self) -> Result<(), Failure> {
        let app = started_app().await?;
        let database = app.engine.database();
        // What happened a moment ago has no place in the chain yet.
        audit::seal(database).await.map_err(Failure::because)?;
        let verified = audit::verify(database, self.head.as_ref()).await.map_err(Failure::because)?;
        for wrong in &verified.wrong {
            err(&format!("wrong: {wrong}"));
        }
        match verified.head {
            Some(head) => out(&format!("{} events, head {head}", verified.events)),
            None => out("no events"),
        }
        match verified.wrong.len() {
            0 => Ok(()),
            1 => Err(Failure::Failed("the audit trail was changed at one place".to_owned())),
            count => Err(Failure::Failed(format!("the audit trail was changed at {count} places"))),
        }
    }
}
