//! `studygovernor import …`

use std::path::PathBuf;

use chrono::{NaiveDate, NaiveDateTime};
use clap::{Args, Subcommand};

use crate::context::Context;
use crate::entity::kind::Origin;
use crate::import::{self, Intake, Summary, bids, table};
use crate::study::{Label, limits};
use crate::workflow::yaml;

use super::console::{err, out, progress};
use super::{Failure, started_app};

/// Import subjects, experiments and configuration
#[derive(Subcommand)]
pub(super) enum Import {
    Bids(Bids),
    Csv(Csv),
    Config(Config),
}

/// Import roles, users, external systems and scantypes from a configuration file
///
/// Shows the planned changes. Existing entries are left unchanged unless --overwrite is given.
#[derive(Args)]
pub(super) struct Config {
    /// Configuration file (YAML with roles, users, external_systems, scantypes)
    file: PathBuf,
    /// Overwrite existing entries
    #[arg(long)]
    overwrite: bool,
    /// Apply the planned changes instead of only showing them
    #[arg(long)]
    apply: bool,
}

impl Config {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let shown = self.file.display();
        let bytes =
            std::fs::read(&self.file).map_err(|error| Failure::Failed(format!("cannot read {shown}: {error}")))?;
        let text = yaml::decode(&bytes).map_err(|error| Failure::Failed(format!("{shown}: {error}")))?;
        let configuration = import::read_configuration(&text).map_err(|problems| {
            for problem in problems {
                err(&format!("{shown}: {problem}"));
            }
            Failure::Failed("nothing was changed".to_owned())
        })?;
        let app = started_app(ctx).await?;
        let (database, accounts, now) = (app.engine.database(), &app.accounts, app.engine.clock().now());
        let existing = import::Existing::overwritten(self.overwrite);
        let plan = import::plan_configuration(ctx, database, accounts, &configuration, existing, now);
        let plan = plan.await.map_err(Failure::because)?;
        if plan.is_empty() {
            err("nothing to change");
            return Ok(());
        }
        for change in &plan {
            out(&change.to_string());
        }
        if !self.apply {
            err("dry run; use --apply to make these changes");
            return Ok(());
        }
        let done = import::configure(ctx, database, accounts, &configuration, existing, now);
        done.await.map_err(Failure::because)?;
        err("done");
        Ok(())
    }
}

#[derive(Args)]
struct Common {
    /// Label or id of the workflow that the experiments follow [default: the newest]
    #[arg(long, value_name = "LABEL")]
    workflow: Option<String>,
    /// Date of birth of subjects without a known date of birth (YYYY-MM-DD)
    #[arg(long, value_name = "DATE", value_parser = limits::date)]
    date_of_birth_default: Option<NaiveDate>,
    /// Show what would be imported without writing anything
    #[arg(long)]
    dry_run: bool,
    /// Import valid rows even if some rows are invalid
    #[arg(long)]
    skip_bad_rows: bool,
}

/// Import a BIDS dataset: a subject for each sub- folder, an experiment for each ses- folder
///
/// The scan date is the earliest acq_time of the session or, if there is none, the earliest date of the subject's other
/// sessions. The date of birth is 1 January of the year of the first scan minus the age. Columns of participants.tsv
/// and sessions.tsv become variables. Existing experiments are left unchanged, and differences are reported.
#[derive(Args)]
pub(super) struct Bids {
    /// Folder of the dataset
    folder: PathBuf,
    /// Label of the cohort; created if it does not exist
    #[arg(long, value_name = "LABEL", value_parser = label)]
    cohort: Label,
    /// Scan date of sessions without a known scan date (YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS)
    #[arg(long, value_name = "DATE", value_parser = limits::moment)]
    scan_date_default: Option<NaiveDateTime>,
    #[command(flatten)]
    common: Common,
}

/// Import a table with one row per experiment
///
/// Columns: subject, date_of_birth, experiment, scan_date; optional cohort, workflow; any number of var:NAME
/// (variables) and id:SYSTEM (ids of the experiment in external systems). If any row is invalid, nothing is written.
/// Existing experiments are left unchanged, and differences are reported.
#[derive(Args)]
pub(super) struct Csv {
    /// Table in UTF-8 or UTF-16. Commas, semicolons and tabs are detected from the header or specified by a line sep=;
    file: PathBuf,
    /// Cohort label for rows without one
    #[arg(long, value_name = "LABEL", value_parser = label)]
    cohort: Option<Label>,
    /// Cell delimiter, if it is another character
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    #[command(flatten)]
    common: Common,
}

fn label(text: &str) -> Result<Label, String> {
    Label::parse(text).map_err(|error| format!("the label {error}"))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [one] => Ok(*one),
        _ if text == "\\t" => Ok(b'\t'),
        _ => Err("must be a single character".to_owned()),
    }
}

impl Import {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Config(config) => config.run(ctx).await,
            Self::Bids(Bids { folder, cohort, scan_date_default, common }) => {
                let options = bids::Options {
                    cohort,
                    workflow: common.workflow.clone(),
                    date_of_birth_default: common.date_of_birth_default,
                    scan_date_default,
                };
                bring_in(ctx, bids::read(&folder, &options).map_err(Failure::because)?, &common).await
            }
            Self::Csv(Csv { file, cohort, delimiter, common }) => {
                let options = table::Options {
                    cohort,
                    workflow: common.workflow.clone(),
                    date_of_birth_default: common.date_of_birth_default,
                    delimiter,
                };
                bring_in(ctx, table::read(&file, &options).map_err(Failure::because)?, &common).await
            }
        }
    }
}

async fn bring_in(ctx: &Context, intake: Intake, common: &Common) -> Result<(), Failure> {
    for note in &intake.notes {
        err(&format!("note: {note}"));
    }
    for problem in &intake.problems {
        err(&problem.to_string());
    }
    refuse(intake.problems.len(), common)?;
    let app = started_app(ctx).await?;
    let mut sessions = intake.sessions;
    let problems = import::check(&app.engine, &sessions).await.map_err(Failure::because)?;
    for (_, problem) in &problems {
        err(&problem.to_string());
    }
    refuse(problems.len(), common)?;
    // In reverse, so that the remaining indices stay valid.
    problems.iter().rev().for_each(|(index, _)| drop(sessions.remove(*index)));
    let ctx = &ctx.in_history_as("import", Origin::Import);
    let bar = progress(sessions.len(), "experiments");
    let advance = |count: usize| bar.inc(u64::try_from(count).unwrap_or_default());
    let written = import::write(ctx, &app.engine, &sessions, common.dry_run, advance).await;
    bar.finish_and_clear();
    report(&written.map_err(Failure::because)?, common.dry_run)
}

fn refuse(problems: usize, common: &Common) -> Result<(), Failure> {
    if problems == 0 || common.skip_bad_rows {
        return Ok(());
    }
    let are = if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") };
    Err(Failure::Failed(format!("{are} found; nothing was imported (use --skip-bad-rows to skip invalid rows)")))
}

/// Prints what was written and what was not.
fn report(summary: &Summary, dry_run: bool) -> Result<(), Failure> {
    for difference in &summary.differences {
        err(&difference.to_string());
    }
    if !summary.differences.is_empty() {
        let count = summary.differences.len();
        err(&format!("note: {count} values differ from the stored ones; an import does not change stored values"));
    }
    for problem in &summary.failed {
        err(&problem.to_string());
    }
    let verb = if dry_run { "would be added" } else { "added" };
    out(&format!(
        "{verb}: {} cohorts, {} subjects, {} experiments, {} scans; {} experiments already exist",
        summary.cohorts, summary.subjects, summary.experiments, summary.scans, summary.known
    ));
    match &summary.stopped {
        Some(problem) => Err(Failure::Failed(format!("stopped at {problem}; run the same import again to continue"))),
        None if !summary.failed.is_empty() => {
            Err(Failure::Failed(format!("the database rejected {} experiments", summary.failed.len())))
        }
        None => Ok(()),
    }
}
