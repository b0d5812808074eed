//! Looks up the names in a filter.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DurationRound, NaiveDateTime, TimeDelta};
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QuerySelect};

use crate::context::Context;
use crate::entity::{callback, cohort, external_system, state, transition, workflow};
use crate::study::Visible;

use super::terms::{Kind, Name, Situation, StateKind, Test, Thing};
use super::{Filter, Mistake, suggestion};

/// A filter with resolved names, from which a condition can be built.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    pub(super) filter: Filter,
    /// The ids for each name, by the position of the name in the filter.
    pub(super) ids: BTreeMap<usize, Vec<i32>>,
    /// Callbacks and outgoing transitions of states; empty if the filter does not need them.
    pub(super) states: StateKinds,
    /// The time from which durations count, to the minute: filters of the same minute are equal and share their counts.
    pub(super) now: NaiveDateTime,
}

/// States by their kind.
#[derive(Debug, Clone, Default)]
pub(super) struct StateKinds {
    pub with_callbacks: Vec<i32>,
    pub final_states: Vec<i32>,
    pub for_a_person: Vec<i32>,
}

/// Reason why names could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Mistakes(Vec<Mistake>),
    #[error(transparent)]
    Database(#[from] DbErr),
}

impl Filter {
    /// Looks up the names of cohorts, workflows, states and external systems, with at most one statement for each kind.
    ///
    /// # Errors
    /// A name does not exist or the caller may not see it, or the database cannot be read.
    pub async fn resolve(
        self,
        ctx: &Context,
        connection: &impl ConnectionTrait,
        now: NaiveDateTime,
    ) -> Result<Resolved, ResolveError> {
        let mut found = Found::default();
        for kind in [Kind::State, Kind::Cohort, Kind::Workflow] {
            let names = self.names(|test| matches!(test, Test::Named(of, _) if *of == kind));
            if !names.is_empty() {
                found.add(kind.word(), &names, &labels(ctx, connection, kind).await?);
            }
        }
        let systems = self.names(|test| matches!(test, Test::ExternalId(..) | Test::Has(Thing::ExternalId(_))));
        if !systems.is_empty() {
            let rows = external_system::Entity::find().all(connection).await?;
            let rows: Vec<_> = rows.into_iter().map(|row| (row.id, row.system_name)).collect();
            found.add("external system", &systems, &rows);
        }
        if !found.mistakes.is_empty() {
            found.mistakes.sort_by_key(|mistake| mistake.at);
            return Err(ResolveError::Mistakes(found.mistakes));
        }
        let needs_kinds = |test: &Test| matches!(test, Test::State(_) | Test::Is(Situation::Final));
        let states = match self.tests().any(needs_kinds) {
            true => StateKinds::read(connection).await?,
            false => StateKinds::default(),
        };
        let now = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
        Ok(Resolved { filter: self, ids: found.ids, states, now })
    }

    fn tests(&self) -> impl Iterator<Item = &Test> {
        self.terms.iter().flat_map(|term| &term.tests)
    }

    fn names(&self, wanted: impl Fn(&Test) -> bool) -> Vec<&Name> {
        self.tests().filter(|test| wanted(test)).filter_map(Test::name).collect()
    }
}

impl Test {
    /// The name in this test that must be looked up.
    fn name(&self) -> Option<&Name> {
        match self {
            Self::Named(_, name) | Self::ExternalId(name, _) | Self::Has(Thing::ExternalId(name)) => Some(name),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Found {
    ids: BTreeMap<usize, Vec<i32>>,
    mistakes: Vec<Mistake>,
}

impl Found {
    fn add(&mut self, what: &str, names: &[&Name], rows: &[(i32, String)]) {
        for name in names {
            let ids: Vec<i32> = rows.iter().filter(|(_, label)| *label == name.text).map(|(id, _)| *id).collect();
            if ids.is_empty() {
                let nearest = suggestion(&name.text, rows.iter().map(|(_, label)| &label[..]));
                let message = format!("there is no {what} '{}'{nearest}", name.text);
                self.mistakes.push(Mistake { at: name.at, message });
            }
            self.ids.insert(name.at, ids);
        }
    }
}

async fn labels(ctx: &Context, connection: &impl ConnectionTrait, kind: Kind) -> Result<Vec<(i32, String)>, DbErr> {
    match kind {
        Kind::Cohort => {
            let columns = [cohort::Column::Id, cohort::Column::Label];
            cohort::Entity::visible(ctx).select_only().columns(columns).into_tuple().all(connection).await
        }
        Kind::Workflow => {
            let columns = [workflow::Column::Id, workflow::Column::Label];
            workflow::Entity::find().select_only().columns(columns).into_tuple().all(connection).await
        }
        Kind::State => {
            let columns = [state::Column::Id, state::Column::Label];
            state::Entity::find().select_only().columns(columns).into_tuple().all(connection).await
        }
    }
}

impl StateKinds {
    async fn read(connection: &impl ConnectionTrait) -> Result<Self, DbErr> {
        let all = state::Entity::find().select_only().column(state::Column::Id).into_tuple();
        let all: Vec<i32> = all.all(connection).await?;
        let column = callback::Column::StateId;
        let with = callback::Entity::find().select_only().column(column).distinct().into_tuple::<i32>();
        let with: BTreeSet<i32> = with.all(connection).await?.into_iter().collect();
        let column = transition::Column::SourceStateId;
        let left = transition::Entity::find().select_only().column(column).distinct().into_tuple::<i32>();
        let left: BTreeSet<i32> = left.all(connection).await?.into_iter().collect();
        let only = |wanted: &dyn Fn(&i32) -> bool| all.iter().copied().filter(wanted).collect();
        Ok(Self {
            with_callbacks: only(&|id| with.contains(id)),
            final_states: only(&|id| !left.contains(id)),
            for_a_person: only(&|id| left.contains(id) && !with.contains(id)),
        })
    }

    pub(super) fn of(&self, kind: StateKind) -> &[i32] {
        match kind {
            StateKind::Callbacks => &self.with_callbacks,
            StateKind::Person => &self.for_a_person,
            StateKind::Final => &self.final_states,
        }
    }
}
