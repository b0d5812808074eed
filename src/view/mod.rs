//! Pages and fragments from minijinja templates, which are part of the binary.

mod filters;
mod mail;

use std::sync::Arc;

use minijinja::{Environment, Value};
use rust_embed::Embed;
use serde::Serialize;

use crate::config::{SecuritySettings, WebSettings};
use crate::workflow::Drawing;

#[derive(Embed)]
#[folder = "templates/"]
struct Files;

/// A template that cannot be read or rendered: always a defect of the program, never a mistake of a user.
#[derive(Debug, thiserror::Error)]
#[error("template: {0:#}")]
pub struct ViewError(#[from] minijinja::Error);

/// All templates, read once. Cheap to clone.
#[derive(Clone)]
pub struct Templates {
    environment: Arc<Environment<'static>>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Templates")
    }
}

impl Templates {
    /// Reads all templates, so that a broken one stops the start and not a page.
    ///
    /// # Errors
    /// The first broken template.
    pub fn new(web: &WebSettings, security: &SecuritySettings) -> Result<Self, ViewError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
        // All templates, including the SVG images, are markup, except the plain texts of mails.
        environment.set_auto_escape_callback(|name| {
            match std::path::Path::new(name).extension().is_some_and(|ending| ending == "txt") {
                true => minijinja::AutoEscape::None,
                false => minijinja::AutoEscape::Html,
            }
        });
        filters::add(&mut environment);
        environment.add_global("prefix", web.prefix.clone());
        environment.add_global("instance_name", web.instance_name.clone());
        environment.add_global("project_name", web.project_name.clone());
        environment.add_global("security", Value::from(minijinja::value::Serde(&Switches::new(security))));
        environment.add_global("version", env!("CARGO_PKG_VERSION"));
        for name in Files::iter() {
            let Some(file) = Files::get(&name) else { continue };
            let text = String::from_utf8_lossy(&file.data).into_owned();
            environment.add_template_owned(name.into_owned(), text)?;
        }
        Ok(Self { environment: Arc::new(environment) })
    }

    /// Renders a whole template.
    ///
    /// # Errors
    /// If the template uses an undefined value.
    pub fn page(&self, name: &str, context: &impl Serialize) -> Result<String, ViewError> {
        Ok(self.environment.get_template(name)?.render(Value::from(minijinja::value::Serde(context)))?)
    }

    /// Renders one block of a page's template: a fragment is a part of its page, never a separate template.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub fn block(&self, name: &str, block: &str, context: &impl Serialize) -> Result<String, ViewError> {
        let template = self.environment.get_template(name)?;
        let mut captured = template.render_captured(Value::from(minijinja::value::Serde(context)))?;
        Ok(captured.with_state_mut(|state| state.render_block(block))?)
    }

    /// The graph of a workflow as SVG. `counts` are the numbers of experiments by state label, `links` the URLs of the
    /// states; both may be empty.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub fn graph(&self, drawing: &Drawing, states: &[GraphState], standalone: bool) -> Result<String, ViewError> {
        #[derive(Serialize)]
        struct Context<'a> {
            drawing: &'a Drawing,
            states: std::collections::HashMap<&'a str, &'a GraphState>,
            standalone: bool,
        }
        let states = states.iter().map(|state| (state.label.as_str(), state)).collect();
        self.page("workflow/graph.svg", &Context { drawing, states, standalone })
    }
}

/// Features for users' own accounts that are enabled.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Serialize)]
struct Switches {
    registerable: bool,
    confirmable: bool,
    recoverable: bool,
    changeable: bool,
    password_length: usize,
}

impl Switches {
    fn new(security: &SecuritySettings) -> Self {
        Self {
            registerable: security.registerable,
            confirmable: security.confirmable,
            recoverable: security.recoverable,
            changeable: security.changeable,
            password_length: security.password_length,
        }
    }
}

/// The data of a state that the graph of a workflow shows, besides its name.
#[derive(Debug, Clone, Serialize)]
pub struct GraphState {
    pub label: String,
    pub href: String,
    pub experiments: u64,
}
