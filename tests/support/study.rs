//! A study on its own database.

use std::collections::HashMap;
use std::sync::LazyLock;

use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use studygovernor::callback::FUNCTIONS;
use studygovernor::clock::Clock;
use studygovernor::config::DatabaseSettings;
use studygovernor::context::Context;
use studygovernor::database::Database;
use studygovernor::engine::{Engine, EngineError, NewExperiment, Report, Target};
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::entity::{action, callback, callback_execution, experiment, state, transition};
use studygovernor::study::{Label, register};
use studygovernor::workflow;
use tempfile::TempDir;

/// The context of a test.
pub fn ctx() -> &'static Context {
    static CONTEXT: LazyLock<Context> = LazyLock::new(|| Context::command_line("tester"));
    &CONTEXT
}

/// One of the three databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
    Mariadb,
}

/// Runs one test on each of the three databases.
macro_rules! on_every_database {
    ($($(#[$attribute:meta])* $name:ident;)*) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn sqlite() {
                super::$name(crate::support::Study::new(crate::support::Backend::Sqlite).await).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn postgres() {
                super::$name(crate::support::Study::new(crate::support::Backend::Postgres).await).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn mariadb() {
                super::$name(crate::support::Study::new(crate::support::Backend::Mariadb).await).await;
            }
        }
    )*};
}
pub(crate) use on_every_database;

/// An engine with a clock that only the test advances, on a migrated database of its own.
pub struct Study {
    pub engine: Engine,
    pub clock: Clock,
    pub settings: DatabaseSettings,
    pub home: TempDir,
}

impl Study {
    pub async fn new(backend: Backend) -> Self {
        let study = Self::empty(backend).await;
        study.engine.database().migrate().await.unwrap();
        study
    }

    /// Without tables.
    pub async fn empty(backend: Backend) -> Self {
        super::use_condition_worker();
        let home = tempfile::tempdir().unwrap();
        let url = match backend {
            Backend::Sqlite => format!("sqlite:///{}", home.path().join("study.db").display()),
            Backend::Postgres => create_database("TEST_POSTGRES_URL").await,
            Backend::Mariadb => create_database("TEST_MARIADB_URL").await,
        };
        let settings = DatabaseSettings::parse("DATABASE_URL", &url).unwrap();
        let database = Database::connect(&settings).await.unwrap();
        let clock = Clock::manual(moment("2026-03-01T08:00:00"));
        Self { engine: Engine::new(database, clock.clone()), clock, settings, home }
    }

    /// The engine of a server that the test has started, to read its data.
    pub async fn of(url: &str) -> Engine {
        super::use_condition_worker();
        let settings = DatabaseSettings::parse("DATABASE_URL", url).unwrap();
        Engine::new(Database::connect(&settings).await.unwrap(), Clock::System)
    }

    /// Loads a workflow from text, which must be valid.
    pub async fn load(&self, text: &str) -> i32 {
        let checked = workflow::check(text, &FUNCTIONS);
        let definition = checked.definition.unwrap_or_else(|| panic!("{:?}", checked.problems));
        workflow::load(ctx(), self.engine.database(), &definition).await.unwrap().id
    }

    pub async fn subject(&self, label: &str) -> i32 {
        let transaction = self.engine.database().begin().await.unwrap();
        let cohort = register::cohort(ctx(), &*transaction, &Label::parse("cohort").unwrap()).await.unwrap();
        let born = NaiveDate::from_ymd_opt(1950, 1, 1);
        let subject =
            register::subject(ctx(), &*transaction, cohort.id, &Label::parse(label).unwrap(), born).await.unwrap();
        transaction.commit().await.unwrap();
        subject.id
    }

    pub async fn create(&self, label: &str) -> experiment::Model {
        self.try_create(label).await.unwrap()
    }

    pub async fn try_create(&self, label: &str) -> Result<experiment::Model, EngineError> {
        let new = NewExperiment {
            subject_id: self.subject("subject").await,
            label: Label::parse(label).unwrap(),
            scandate: moment("2026-01-01T12:00:00"),
            workflow: None,
            variables: Vec::new(),
        };
        self.engine.create_experiment(ctx(), &new).await
    }

    /// Label of the current state of the experiment.
    pub async fn state(&self, experiment_id: i32) -> String {
        let experiment = self.experiment(experiment_id).await;
        let found = state::Entity::find_by_id(experiment.state_id).one(self.engine.database().reader());
        found.await.unwrap().unwrap().label
    }

    pub async fn experiment(&self, id: i32) -> experiment::Model {
        experiment::Entity::find_by_id(id).one(self.engine.database().reader()).await.unwrap().unwrap()
    }

    /// The actions of an experiment, oldest first.
    pub async fn actions(&self, experiment_id: i32) -> Vec<action::Model> {
        action::Entity::find()
            .filter(action::Column::ExperimentId.eq(experiment_id))
            .order_by_asc(action::Column::Id)
            .all(self.engine.database().reader())
            .await
            .unwrap()
    }

    /// The executions of the experiment's last action by label of the callback.
    pub async fn executions(&self, experiment_id: i32) -> HashMap<String, callback_execution::Model> {
        let action_id = self.experiment(experiment_id).await.last_action_id;
        let rows = callback_execution::Entity::find()
            .filter(callback_execution::Column::ActionId.eq(action_id))
            .find_also_related(callback::Entity)
            .all(self.engine.database().reader())
            .await
            .unwrap();
        rows.into_iter().map(|(execution, callback)| (callback.unwrap().label, execution)).collect()
    }

    pub async fn execution(&self, id: i32) -> callback_execution::Model {
        callback_execution::Entity::find_by_id(id).one(self.engine.database().reader()).await.unwrap().unwrap()
    }

    pub async fn report(&self, execution_id: i32, report: &Report) -> Result<callback_execution::Model, EngineError> {
        self.engine.report(ctx(), execution_id, report).await
    }

    pub async fn succeed(&self, execution_id: i32) {
        self.report(execution_id, &Report::finished(ExecutionResult::Success)).await.unwrap();
    }

    pub async fn move_to(&self, experiment_id: i32, state: &str) -> Result<experiment::Model, EngineError> {
        let target = Target::Label(state.to_owned());
        self.engine.transition(ctx(), experiment_id, &target, None, None).await
    }
}

/// Creates a database on the server that `make test` has started, and returns its URL.
pub async fn create_database(variable: &str) -> String {
    let server =
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `make test`"));
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let connection = sea_orm::Database::connect(&server).await.unwrap();
    connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    connection.close().await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    format!("{base}/{name}")
}

pub fn moment(text: &str) -> NaiveDateTime {
    text.parse().unwrap()
}

/// Problems in the ledger of the whole study. It must be empty after any events: each experiment is in the state to
/// which its last action leads, its actions follow one another along the workflow, and no action was automatically
/// followed by another one before its executions were resolved.
pub async fn ledger_problems(engine: &Engine) -> Vec<String> {
    let connection = engine.database().reader();
    let mut problems = Vec::new();
    let transitions: HashMap<i32, transition::Model> =
        transition::Entity::find().all(connection).await.unwrap().into_iter().map(|row| (row.id, row)).collect();
    let mut actions: HashMap<i32, Vec<action::Model>> = HashMap::new();
    for row in action::Entity::find().order_by_asc(action::Column::Id).all(connection).await.unwrap() {
        actions.entry(row.experiment_id).or_default().push(row);
    }
    let mut executions: HashMap<i32, Vec<callback_execution::Model>> = HashMap::new();
    for row in callback_execution::Entity::find().all(connection).await.unwrap() {
        executions.entry(row.action_id).or_default().push(row);
    }
    let mut callbacks: HashMap<i32, usize> = HashMap::new();
    for row in callback::Entity::find().all(connection).await.unwrap() {
        *callbacks.entry(row.state_id).or_default() += 1;
    }
    for experiment in experiment::Entity::find().all(connection).await.unwrap() {
        let history = actions.remove(&experiment.id).unwrap_or_default();
        let mut complain = |text: String| problems.push(format!("experiment {}: {text}", experiment.id));
        let Some(last) = history.last() else {
            complain("has no action".to_owned());
            continue;
        };
        if experiment.last_action_id != Some(last.id) {
            complain("last_action_id is not the last action".to_owned());
        }
        if transitions[&last.transition_id].destination_state_id != experiment.state_id {
            complain("the state is not the destination of the last action".to_owned());
        }
        if usize::try_from(experiment.version).unwrap() != history.len() {
            complain(format!("{} actions at version {}", history.len(), experiment.version));
        }
        for pair in history.windows(2) {
            let (left, entered) = (&transitions[&pair[0].transition_id], &transitions[&pair[1].transition_id]);
            if left.destination_state_id != entered.source_state_id {
                complain(format!("action {} does not follow from action {}", pair[1].id, pair[0].id));
            }
        }
        for (index, action) in history.iter().enumerate() {
            let runs = executions.get(&action.id).map_or(&[][..], Vec::as_slice);
            let state = transitions[&action.transition_id].destination_state_id;
            if runs.len() != callbacks.get(&state).copied().unwrap_or(0) {
                complain(format!("action {} has {} executions", action.id, runs.len()));
            }
            let all_resolved = runs.iter().all(|run| run.status.is_resolved());
            if index + 1 < history.len() && !all_resolved {
                complain(format!("action {} was left before its callbacks were resolved", action.id));
            }
            if all_resolved != action.end_time.is_some() {
                complain(format!("action {}: resolved {all_resolved}, end {:?}", action.id, action.end_time));
            }
            if action.end_time.is_some_and(|end| end < action.start_time) {
                complain(format!("action {} ends before it begins", action.id));
            }
            for run in runs {
                let ended = run.status == ExecutionStatus::Finished;
                if ended && (run.finished.is_none() || run.leased_until.is_some()) {
                    complain(format!("execution {} is finished and not settled", run.id));
                }
            }
        }
    }
    problems
}
