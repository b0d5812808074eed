//! The time of the study, stored in the database (E11): read, corrected and recorded. [`crate::clock`] uses it.

use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, Condition, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, Statement};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::clock::{Clock, Reading, StudyClock, correction, in_words, uptime};
use crate::entity::study_clock::{ActiveModel, Column, Entity, ID};

use super::Database;

/// Interval at which a server reads the time and records it.
const EVERY: Duration = Duration::from_secs(3);

/// A reading that took longer is too imprecise.
const LONGEST: Duration = Duration::from_secs(1);

/// Differences above this are reported.
const WORTH_A_WARNING: TimeDelta = TimeDelta::seconds(3);

#[derive(FromQueryResult)]
struct Row {
    now: Option<NaiveDateTime>,
    ahead_us: Option<i64>,
    noted_at: Option<NaiveDateTime>,
}

impl Database {
    /// Sets the clock of this process to the time of the study, and compensates if the clock of the database was set.
    /// The tables must be up to date.
    ///
    /// # Errors
    /// If the database cannot be read. Then the clock continues unchanged.
    pub async fn read_time(&self, clock: &StudyClock) -> Result<(), DbErr> {
        // Another server may correct the difference between two statements; the next reading then sees its correction.
        for _ in 0..3 {
            let began = uptime();
            let reading = self.reading().await?;
            let took = uptime().saturating_sub(began);
            let middle = began + took / 2;
            let expected = clock.expected(middle);
            if took > LONGEST && expected.is_some() {
                debug!(?took, "the database time arrived too late to be used");
                return Ok(());
            }
            let Some(ahead) = correction(&reading, expected) else {
                clock.adopt(&reading, middle, self.is_local());
                return Ok(());
            };
            self.correct(&reading, ahead).await?;
            let set = ahead - reading.ahead;
            let direction = if set > TimeDelta::zero() { "back" } else { "forward" };
            warn!("the database clock was set {direction} by {}; the study time continues as before", in_words(set));
        }
        Ok(())
    }

    /// SQLite does not have its own clock.
    fn is_local(&self) -> bool {
        self.backend() == DbBackend::Sqlite
    }

    pub(super) async fn reading(&self) -> Result<Reading, DbErr> {
        let backend = self.backend();
        let now = match backend {
            DbBackend::Postgres => "(clock_timestamp() AT TIME ZONE 'UTC')",
            DbBackend::MySql => "UTC_TIMESTAMP(6)",
            _ => "NULL",
        };
        let sql = format!(
            "SELECT {now} AS now, kept.ahead_us, kept.noted_at FROM (SELECT {ID} AS id) AS wanted \
             LEFT JOIN study_clock AS kept ON kept.id = wanted.id"
        );
        let row = Row::find_by_statement(Statement::from_string(backend, sql)).one(self.reader()).await?;
        let row = row.ok_or_else(|| DbErr::Custom("the database did not return a time".to_owned()))?;
        Ok(Reading {
            database: row.now.unwrap_or_else(|| Clock::System.now()),
            ahead: TimeDelta::microseconds(row.ahead_us.unwrap_or_default()),
            noted: row.noted_at,
        })
    }

    /// Stores another difference, unless another server has done so since the reading. Like the following methods, this
    /// uses a single statement instead of a transaction, so that cached data of the study remains valid.
    async fn correct(&self, reading: &Reading, ahead: TimeDelta) -> Result<(), DbErr> {
        self.make_row().await?;
        let micros = |span: TimeDelta| span.num_microseconds().unwrap_or_default();
        let _turn = self.file_turn().await?;
        Entity::update_many()
            .col_expr(Column::AheadUs, Expr::value(micros(ahead)))
            .col_expr(Column::NotedAt, Expr::value(reading.database + ahead))
            .filter(Column::Id.eq(ID))
            .filter(Column::AheadUs.eq(micros(reading.ahead)))
            .exec(&self.writer)
            .await
            .map(|_| ())
    }

    async fn make_row(&self) -> Result<(), DbErr> {
        if Entity::find_by_id(ID).one(self.reader()).await?.is_some() {
            return Ok(());
        }
        let _turn = self.file_turn().await?;
        let row = ActiveModel { id: Set(ID), ahead_us: Set(0), noted_at: Set(None) };
        match Entity::insert(row).exec_without_returning(&self.writer).await {
            Ok(_) => Ok(()),
            // Another server has just created it.
            Err(error) if super::is_duplicate(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Records a time of the study, so that time does not run backwards even if clocks are set back while no server
    /// runs.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn note_time(&self, now: NaiveDateTime) -> Result<(), DbErr> {
        self.make_row().await?;
        let _turn = self.file_turn().await?;
        Entity::update_many()
            .col_expr(Column::NotedAt, Expr::value(now))
            .filter(Column::Id.eq(ID))
            .filter(Condition::any().add(Column::NotedAt.is_null()).add(Column::NotedAt.lt(now)))
            .exec(&self.writer)
            .await
            .map(|_| ())
    }
}

/// Keeps the clock of a server at the time of the study until `stop`, records that time, and logs when the clock of the
/// machine differs. Other kinds of clocks need no maintenance.
pub async fn keep_time(database: Database, clock: Clock, mut stop: watch::Receiver<bool>) {
    let Some(clock) = clock.of_study() else { return };
    let mut differs = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        match timeout(EVERY, database.read_time(clock)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "reading the study time failed; continuing with the local clock"),
            Err(_) => debug!("reading the study time timed out; continuing with the local clock"),
        }
        if let Ok(Err(error)) = timeout(EVERY, database.note_time(clock.now())).await {
            debug!(%error, "storing the study time failed");
        }
        differs = report(clock, differs);
    }
}

/// Logs when the clock of this machine starts or stops differing from the clock of the database.
fn report(clock: &StudyClock, before: bool) -> bool {
    let Some(difference) = clock.difference() else { return before };
    let differs = difference.abs() > WORTH_A_WARNING;
    if differs && !before {
        warn!("{}; leases and due times follow the database", sentence(difference));
    }
    if before && !differs {
        info!("the clock of this server agrees with the database clock again");
    }
    differs
}

/// Problems of the clocks, as sentences without full stops; empty if the clocks agree.
#[must_use]
pub fn clock_problems(clock: &StudyClock) -> Vec<String> {
    let own = clock.difference().filter(|span| span.abs() > WORTH_A_WARNING).map(sentence);
    let ahead = clock.ahead();
    let set = (ahead.abs() > WORTH_A_WARNING).then(|| {
        let (direction, relation) =
            if ahead > TimeDelta::zero() { ("back", "ahead of") } else { ("forward", "behind") };
        let span = in_words(ahead);
        format!("the database clock was set {direction}; study times are {span} {relation} it")
    });
    own.into_iter().chain(set).collect()
}

fn sentence(difference: TimeDelta) -> String {
    let relation = if difference > TimeDelta::zero() { "ahead of" } else { "behind" };
    format!("the clock of this server is {} {relation} the database clock", in_words(difference))
}
