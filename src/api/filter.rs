//! Filter and order of experiment lists: parsed from the URL, with the names in it resolved.

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use sea_orm::ConnectionTrait;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use crate::context::Context;
use crate::http::HttpError;
use crate::study::Reference;
use crate::study::filter::{Filter, Mistake, ResolveError, Sort};
use crate::study::listing::{Cursor, ExperimentOrder, ExperimentQuery, Window};

use super::input::{Given, Problems};
use super::lookup;
use super::output::WindowQuery;

/// Which experiments.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ExperimentFilter {
    /// Exactly this date and time.
    #[param(value_type = Option<String>)]
    scandate: Given<NaiveDateTime>,
    /// At this date and time or later.
    #[param(value_type = Option<String>, example = "2024-01-01")]
    scandate_from: Given<NaiveDateTime>,
    /// At this date and time or earlier.
    #[param(value_type = Option<String>)]
    scandate_to: Given<NaiveDateTime>,
    /// Entered their state at this date and time or later.
    #[param(value_type = Option<String>)]
    state_since_from: Given<NaiveDateTime>,
    /// Entered their state at this date and time or earlier.
    #[param(value_type = Option<String>)]
    state_since_to: Given<NaiveDateTime>,
    /// Label, id or URI of the cohort.
    #[param(value_type = Option<String>)]
    cohort: Given<String>,
    /// The same.
    #[param(value_type = Option<String>)]
    cohort_label: Given<String>,
    /// The same as `workflow`.
    #[param(value_type = Option<String>)]
    workflow_label: Given<String>,
    /// The same as `state`.
    #[param(value_type = Option<String>)]
    state_label: Given<String>,
    /// Id or URI of the subject, or its label when only one has it.
    #[param(value_type = Option<String>)]
    subject: Given<String>,
    /// Id of the subject.
    #[param(value_type = Option<String>)]
    subject_id: Given<String>,
    /// Label, id or URI of the workflow.
    #[param(value_type = Option<String>)]
    workflow: Given<String>,
    /// Id or URI of a state, or a label, which matches the states of all workflows.
    #[param(value_type = Option<String>, example = "check")]
    state: Given<String>,
    /// Part of the label, case-insensitive.
    #[param(value_type = Option<String>)]
    label: Given<String>,
    /// `true`: archived rows instead of those in use.
    #[param(value_type = Option<bool>)]
    archived: Given<bool>,
    /// `id`, `label`, `scandate` or `state_since`; prefix with `-` for descending order.
    #[param(value_type = Option<String>, example = "-scandate")]
    order: Given<String>,
    /// A filter in the filter language, in addition to the other parameters.
    #[param(value_type = Option<String>, example = "state:check instate:>30d")]
    q: Given<String>,
    /// Start of a page, from the `Link` to the next page of a sorted list. Requires the same `order`; cannot be
    /// combined with `offset` or `after`.
    #[param(value_type = Option<String>)]
    cursor: Given<String>,
    /// `variable.NAME=VALUE`: experiments whose variable has this value. Can be given several times, for different
    /// names.
    #[serde(flatten)]
    #[param(value_type = Option<String>, rename = "variable.NAME")]
    others: BTreeMap<String, Value>,
}

/// The parsed query of an experiment list, before names are resolved.
pub(super) struct AskedExperiments {
    query: ExperimentQuery,
    filter: Filter,
    cohort: Option<String>,
    subject: Option<String>,
    workflow: Option<String>,
    state: Option<String>,
}

impl AskedExperiments {
    /// # Errors
    /// 400 by field.
    pub(super) fn read(filter: ExperimentFilter, window: WindowQuery) -> Result<(Self, Window), HttpError> {
        let mut problems = Problems::default();
        let window = window.read(&mut problems);
        let asked = read_filter(&mut problems, filter.q);
        let (order, descending) = read_order(&mut problems, filter.order, asked.sort());
        let from = read_cursor(&mut problems, filter.cursor, window, order, descending);
        let asked = Self {
            filter: asked,
            cohort: problems.optional("cohort", filter.cohort.or(filter.cohort_label)),
            subject: problems.optional("subject", filter.subject_id.or(filter.subject)),
            workflow: problems.optional("workflow", filter.workflow.or(filter.workflow_label)),
            state: problems.optional("state", filter.state.or(filter.state_label)),
            query: ExperimentQuery {
                scandate: problems.optional("scandate", filter.scandate),
                scandate_from: problems.optional("scandate_from", filter.scandate_from),
                scandate_to: problems.optional("scandate_to", filter.scandate_to),
                state_since_from: problems.optional("state_since_from", filter.state_since_from),
                state_since_to: problems.optional("state_since_to", filter.state_since_to),
                label: problems.optional("label", filter.label),
                archived: problems.optional("archived", filter.archived).unwrap_or(false),
                variables: read_variables(&mut problems, &filter.others),
                order,
                descending,
                from,
                ..ExperimentQuery::default()
            },
        };
        if window.after.is_some() && !asked.query.is_by_id() {
            problems.add("after", "can only be used with the order 'id'");
        }
        problems.check()?;
        let window = Window { is_continued: asked.query.from.is_some(), ..window };
        Ok((asked, window))
    }

    /// Resolves the names.
    ///
    /// # Errors
    /// 404 if a name does not exist, 409 if it is ambiguous; 400 for a name in the filter `q` that does not exist.
    pub(super) async fn find(
        self,
        ctx: &Context,
        connection: &impl ConnectionTrait,
        now: NaiveDateTime,
    ) -> Result<ExperimentQuery, HttpError> {
        let mut query = self.query;
        query.filter = match self.filter.resolve(ctx, connection, now).await {
            Ok(filter) => Some(filter),
            Err(ResolveError::Database(error)) => return Err(error.into()),
            Err(ResolveError::Mistakes(mistakes)) => {
                let mut problems = Problems::default();
                add_mistakes(&mut problems, &mistakes);
                problems.check()?;
                None
            }
        };
        if let Some(text) = self.cohort {
            query.cohort = Some(lookup::cohort(ctx, connection, &Reference::label_first(&text)).await?.id);
        }
        if let Some(text) = self.subject {
            // A number is an id, even of no row: an empty list, as in version 8.1.
            query.subject = match Reference::parse(&text) {
                Reference::Id(id) | Reference::Either(id, _) => Some(id),
                reference => Some(lookup::subject(ctx, connection, &reference).await?.id),
            };
        }
        if let Some(text) = self.workflow {
            query.workflow = Some(lookup::workflow(ctx, connection, &Reference::label_first(&text)).await?.id);
        }
        if let Some(text) = self.state {
            query.states = Some(lookup::states(connection, &Reference::parse(&text)).await?);
        }
        Ok(query)
    }
}

fn read_filter(problems: &mut Problems, text: Given<String>) -> Filter {
    let text = problems.optional("q", text).unwrap_or_default();
    Filter::parse(&text).unwrap_or_else(|mistakes| {
        add_mistakes(problems, &mistakes);
        Filter::default()
    })
}

fn add_mistakes(problems: &mut Problems, mistakes: &[Mistake]) {
    let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    problems.add("q", texts.join("; "));
}

/// The order, and whether it is descending.
fn read_order(problems: &mut Problems, order: Given<String>, sort: Option<Sort>) -> (ExperimentOrder, bool) {
    if let Some(sort) = sort {
        if !order.is_missing() {
            problems.add("order", "the filter 'q' has an order already, 'sort:'");
        }
        return (sort.order, sort.descending);
    }
    let order = problems.optional("order", order).unwrap_or_else(|| "id".to_owned());
    let column = match order.trim_start_matches('-') {
        // `asc` and `desc` are words of the engine of version 8.1.
        "id" | "asc" | "desc" => ExperimentOrder::Id,
        "label" => ExperimentOrder::Label,
        "scandate" => ExperimentOrder::Scandate,
        "state_since" => ExperimentOrder::StateSince,
        _ => {
            problems.add("order", "must be one of id, label, scandate, state_since, optionally prefixed with '-'");
            ExperimentOrder::Id
        }
    };
    (column, order.starts_with('-') || order == "desc")
}

fn read_cursor(
    problems: &mut Problems,
    cursor: Given<String>,
    window: Window,
    order: ExperimentOrder,
    descending: bool,
) -> Option<Cursor> {
    let text = problems.optional("cursor", cursor)?;
    let Some(cursor) = Cursor::parse(&text) else {
        problems.add("cursor", "is not a complete cursor from a 'Link' header of this list");
        return None;
    };
    if !cursor.is_of(order, descending) {
        problems.add("cursor", "belongs to a list with another order");
    }
    if window.offset > 0 || window.after.is_some() {
        problems.add("cursor", "cannot be combined with 'offset' or 'after'");
    }
    Some(cursor)
}

fn read_variables(problems: &mut Problems, others: &BTreeMap<String, Value>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (name, value) in others {
        if let (Some(name), Value::String(value)) = (name.strip_prefix("variable."), value) {
            variables.push((name.to_owned(), value.clone()));
        }
    }
    if variables.len() > 10 {
        problems.add("variable", "can be given at most ten times in one request");
    }
    variables
}
