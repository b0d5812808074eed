//! The drawing of a workflow with the number of experiments per state, for the pages and the API.

use sea_orm::EntityTrait;

use crate::app::App;
use crate::context::Context;
use crate::entity::workflow as workflow_table;
use crate::study::overview::{self, WorkflowCounts};
use crate::view::GraphState;
use crate::workflow::{self, Drawing};

use super::HttpError;

/// A workflow's layout and its counts; `counts.states` and `drawing.boxes` are in the same order.
pub struct Drawn {
    pub counts: WorkflowCounts,
    pub drawing: Drawing,
}

/// Computes the layout of the workflow with this id.
///
/// # Errors
/// 404 if it does not exist.
pub async fn draw_workflow(ctx: &Context, app: &App, id: i32) -> Result<Drawn, HttpError> {
    let snapshot = app.snapshot().await?;
    let missing = || HttpError::NotFound(format!("workflow {id}"));
    let row = workflow_table::Entity::find_by_id(id).one(&snapshot).await?.ok_or_else(missing)?;
    let counts = overview::workflows(ctx, &snapshot, Some(id)).await?.pop().ok_or_else(missing)?;
    let definition = workflow::read_definition(&snapshot, &row).await?;
    drop(snapshot);
    let drawing = tokio::task::spawn_blocking(move || workflow::draw(&definition))
        .await
        .map_err(|error| HttpError::Internal(error.to_string()))?;
    Ok(Drawn { counts, drawing })
}

impl Drawn {
    /// The drawing as SVG; a `standalone` one contains its own colours.
    ///
    /// # Errors
    /// When the template fails.
    pub fn svg(&self, app: &App, standalone: bool) -> Result<String, HttpError> {
        let state = |state: &overview::StateCount| GraphState {
            label: state.label.clone(),
            href: format!("{}/states/{}", app.settings.web.prefix, state.id),
            experiments: state.experiments,
        };
        let states: Vec<GraphState> = self.counts.states.iter().map(state).collect();
        Ok(app.templates.graph(&self.drawing, &states, standalone)?)
    }
}
