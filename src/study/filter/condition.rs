//! Builds the condition of a query from a filter.

use chrono::{DateTime, NaiveDateTime, NaiveTime, TimeDelta};
use sea_orm::sea_query::extension::postgres::PgBinOper;
use sea_orm::sea_query::{Alias, CaseStatement, Expr, ExprTrait, Query, SelectStatement, SimpleExpr};
use sea_orm::{ColumnTrait, Condition, DbBackend};

use crate::database::contains;
use crate::entity::kind::{ExecutionResult, ExecutionStatus, VariableKind};
use crate::entity::{action, callback_execution, experiment, external_experiment_links, scan, subject, variable};
use crate::study::VariableValue;

use super::Resolved;
use super::terms::{Kind, Situation, Term, Test, Thing, VariableTest};
use super::value::{Bound, Bounds};

impl Resolved {
    /// The condition for an experiment to be in the list. The query itself adds whether experiments are archived and whether the caller
    /// may see them.
    #[must_use]
    pub fn condition(&self, backend: DbBackend) -> Condition {
        let terms = self.filter.terms.iter().filter(|term| !term.is_archived());
        terms.fold(Condition::all(), |all, term| all.add(self.term(term, backend)))
    }

    /// Whether the list has archived experiments instead of those in use.
    #[must_use]
    pub fn is_archived(&self) -> bool {
        self.filter.is_archived()
    }

    fn term(&self, term: &Term, backend: DbBackend) -> Condition {
        let any = term.tests.iter().fold(Condition::any(), |any, test| any.add(self.test(test, backend)));
        if term.negated { any.not() } else { any }
    }

    fn test(&self, test: &Test, backend: DbBackend) -> Condition {
        use experiment::Column;
        let one = |expression: SimpleExpr| Condition::all().add(expression);
        match test {
            Test::Text(text) => Condition::any()
                .add(contains(Column::Label, text))
                .add(Column::SubjectId.in_subquery(subjects(contains(subject::Column::Label, text)))),
            Test::Named(kind, name) => one(named(*kind, self.ids.get(&name.at).map_or(&[], Vec::as_slice))),
            Test::Label(label) => one(Column::Label.eq(label)),
            Test::Subject(label) => one(Column::SubjectId.in_subquery(subjects(subject::Column::Label.eq(label)))),
            Test::Variable(name, test) => one(Column::Id.in_subquery(with_variable(name, test, backend))),
            Test::ExternalId(system, id) => {
                let link = external_experiment_links::Column::ExternalId.eq(id);
                one(Column::Id.in_subquery(self.with_external_id(system.at).and_where(link).to_owned()))
            }
            Test::Has(thing) => one(Column::Id.in_subquery(self.with(thing))),
            Test::Is(situation) => self.situation(*situation),
            Test::State(kind) => one(Column::StateId.is_in(self.states.of(*kind).iter().copied())),
            Test::Error(text) => {
                let logs = Condition::any()
                    .add(contains(callback_execution::Column::ResultLog, text))
                    .add(contains(callback_execution::Column::RunLog, text));
                one(Column::Id.in_subquery(with_failed_run().cond_where(logs).to_owned()))
            }
            Test::InState(durations) => within(Column::StateSince, ago(*durations, self.now)),
            Test::Age(durations) => within(Column::Scandate, ago(*durations, self.now)),
            Test::ScanDate(times) => within(Column::Scandate, *times),
        }
    }

    fn with_external_id(&self, name_at: usize) -> SelectStatement {
        use external_experiment_links::{Column, Entity};
        let systems = self.ids.get(&name_at).map_or(&[][..], Vec::as_slice);
        let of_system = Column::ExternalSystemId.is_in(systems.iter().copied());
        Query::select().column(Column::ExperimentId).from(Entity).and_where(of_system).to_owned()
    }

    /// Ids of the experiments that have this.
    fn with(&self, thing: &Thing) -> SelectStatement {
        use external_experiment_links::{Column as Link, Entity as Links};
        let variables = || Query::select().column(variable::Column::ExperimentId).from(variable::Entity).to_owned();
        match thing {
            Thing::Error => with_failed_run(),
            Thing::Scan => Query::select().column(scan::Column::ExperimentId).from(scan::Entity).to_owned(),
            Thing::AnyVariable => variables(),
            Thing::Variable(name) => variables().and_where(variable::Column::Label.eq(name)).to_owned(),
            Thing::AnyExternalId => Query::select().column(Link::ExperimentId).from(Links).to_owned(),
            Thing::ExternalId(system) => self.with_external_id(system.at),
        }
    }

    fn situation(&self, situation: Situation) -> Condition {
        use callback_execution::Column as Run;
        use experiment::Column;
        let is = |statuses: &[ExecutionStatus]| Run::Status.is_in(statuses.iter().copied());
        let now = |condition: SimpleExpr| {
            // Without the first condition, the negation would be null for an experiment without an action.
            let has_action = Column::LastActionId.is_not_null();
            Condition::all().add(has_action).add(Column::LastActionId.in_subquery(of_runs(condition)))
        };
        match situation {
            Situation::Running => {
                now(is(&[ExecutionStatus::Created, ExecutionStatus::Queued, ExecutionStatus::Running]))
            }
            Situation::Waiting => now(is(&[ExecutionStatus::Waiting])),
            Situation::Overdue => {
                let open = is(&[ExecutionStatus::Running, ExecutionStatus::Waiting]);
                now(open.and(Run::Deadline.lt(self.now)))
            }
            Situation::Problem => Condition::any().add(Column::HeldSince.is_not_null()).add(now(failed())),
            Situation::Held => Condition::all().add(Column::HeldSince.is_not_null()),
            Situation::Final => Condition::all().add(Column::StateId.is_in(self.states.final_states.iter().copied())),
            Situation::Archived => Condition::all().add(Column::ArchiveId.ne(0)),
        }
    }
}

fn named(kind: Kind, ids: &[i32]) -> SimpleExpr {
    use experiment::Column;
    let ids = ids.iter().copied();
    match kind {
        Kind::State => Column::StateId.is_in(ids),
        Kind::Workflow => Column::WorkflowId.is_in(ids),
        Kind::Cohort => Column::SubjectId.in_subquery(subjects(subject::Column::CohortId.is_in(ids))),
    }
}

fn subjects(condition: SimpleExpr) -> SelectStatement {
    Query::select().column(subject::Column::Id).from(subject::Entity).and_where(condition).to_owned()
}

/// Ids of the actions that have such executions.
fn of_runs(condition: SimpleExpr) -> SelectStatement {
    use callback_execution::{Column, Entity};
    Query::select().column(Column::ActionId).from(Entity).and_where(condition).to_owned()
}

fn failed() -> SimpleExpr {
    callback_execution::Column::Result.is_in([ExecutionResult::Failed, ExecutionResult::Timeout])
}

/// Ids of the experiments with a failed or timed out execution, in any state.
fn with_failed_run() -> SelectStatement {
    use callback_execution::{Column, Entity};
    Query::select()
        .column((action::Entity, action::Column::ExperimentId))
        .from(Entity)
        .inner_join(action::Entity, Expr::col((Entity, Column::ActionId)).equals((action::Entity, action::Column::Id)))
        .and_where(failed())
        .to_owned()
}

fn with_variable(name: &str, test: &VariableTest, backend: DbBackend) -> SelectStatement {
    use variable::{Column, Entity};
    let condition = match test {
        VariableTest::Equal(value) => {
            Condition::all().add(Expr::col(Column::Value).is_in(VariableValue::stored_texts(value)))
        }
        VariableTest::Numbers(numbers) => compared(&as_number(backend), *numbers, |value| number(backend, value)),
        VariableTest::Times(times) => {
            // Scripts may set a date as text.
            let is_time = Column::Kind.is_in([VariableKind::Date, VariableKind::DateTime, VariableKind::Str]);
            let looks_so = Column::Value.like("____-__-__%");
            let compared = compared(&Expr::col(Column::Value), *times, |at| Expr::value(iso(at)));
            Condition::all().add(is_time).add(looks_so).add(compared)
        }
    };
    Query::select()
        .column(Column::ExperimentId)
        .from(Entity)
        .and_where(Column::Label.eq(name))
        .cond_where(condition)
        .to_owned()
}

/// A time as a text that sorts among the values of variables, which are dates (`2026-03-31`) and times (`2026-03-31T10:00:00`). A date
/// means the beginning of its day, so midnight is written as a date.
fn iso(at: NaiveDateTime) -> String {
    let is_midnight = at.time() == NaiveTime::MIN;
    at.format(if is_midnight { "%Y-%m-%d" } else { "%Y-%m-%dT%H:%M:%S%.f" }).to_string()
}

/// A number as a comparison operand. Next to a float, PostgreSQL would convert numbers of any size to floats, and fail.
fn number(backend: DbBackend, value: f64) -> SimpleExpr {
    let value = Expr::value(value);
    if backend == DbBackend::Postgres { value.cast_as(Alias::new("numeric")) } else { value }
}

/// The value of a variable as a number; null if it is not one. The text is checked as well as the type, because PostgreSQL fails on texts
/// such as `nan`.
fn as_number(backend: DbBackend) -> SimpleExpr {
    let text = || Expr::col(variable::Column::Value);
    let is_number = variable::Column::Kind.is_in([VariableKind::Int, VariableKind::Float]);
    let (looks_so, number) = match backend {
        DbBackend::Postgres => {
            let pattern = r"^-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?$";
            (text().binary(PgBinOper::Regex, pattern), "numeric")
        }
        DbBackend::MySql => (Expr::cust_with_expr("? REGEXP '^-?[0-9]'", text()), "double"),
        _ => (Expr::cust_with_expr("ltrim(?, '-') GLOB '[0-9]*'", text()), "real"),
    };
    CaseStatement::new().case(Condition::all().add(is_number).add(looks_so), text().cast_as(Alias::new(number))).into()
}

fn compared<T: Copy>(key: &SimpleExpr, bounds: Bounds<T>, value: impl Fn(T) -> SimpleExpr) -> Condition {
    let from = bounds.from.map(|Bound { value: from, is_included }| match is_included {
        true => key.clone().gte(value(from)),
        false => key.clone().gt(value(from)),
    });
    let to = bounds.to.map(|Bound { value: to, is_included }| match is_included {
        true => key.clone().lte(value(to)),
        false => key.clone().lt(value(to)),
    });
    from.into_iter().chain(to).fold(Condition::all(), Condition::add)
}

fn within(column: experiment::Column, times: Bounds<NaiveDateTime>) -> Condition {
    compared(&Expr::col((experiment::Entity, column)), times, Expr::value)
}

/// The range of times that lie this long in the past: a longer duration is an earlier time.
fn ago(durations: Bounds<TimeDelta>, now: NaiveDateTime) -> Bounds<NaiveDateTime> {
    let time = |bound: Bound<TimeDelta>| {
        let value = now.checked_sub_signed(bound.value).unwrap_or(DateTime::UNIX_EPOCH.naive_utc());
        Bound { value, is_included: bound.is_included }
    };
    Bounds { from: durations.to.map(time), to: durations.from.map(time) }
}
