//! `castor`: transfers raters' data from XNAT to the clinical database Castor EDC.
//!
//! Field files and templates are read and flattened → study, site, visit and fields are looked up → only then is data
//! written: the participant, then for each template the data points and the instances of repeated measurements. Equal values
//! that already exist are left unchanged; different ones are a conflict. A repeated run continues where the previous one
//! stopped.

mod api;
mod flatten;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::workflow::yaml;

use super::web::{Web, segment, segments};
use super::xnat::{Dated, json as get_json, newest_file};
use super::{Failure, Outcome, Run, read_arguments};
use api::{Castor, Field, Study, same, text_of};
use flatten::flatten;

#[derive(Deserialize)]
struct Arguments {
    field_files: Several,
    templates: Several,
    castor_study_name: String,
    castor_site_name: String,
    castor_visit_name: String,
    #[serde(default)]
    extra_variable_map: Option<BTreeMap<String, String>>,
    #[serde(default)]
    translation_map: Option<BTreeMap<String, String>>,
    #[serde(default = "xnat")]
    xnat_external_system: String,
    #[serde(default = "castor")]
    castor_external_system_name: String,
    #[serde(default = "task_manager")]
    taskmanager_external_system_name: String,
}

/// One value or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Several {
    One(String),
    Many(Vec<String>),
}

impl Several {
    fn list(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

fn xnat() -> String {
    "XNAT".to_owned()
}

fn castor() -> String {
    "CASTOR".to_owned()
}

fn task_manager() -> String {
    "TASKMANAGER".to_owned()
}

const KNOWN: [&str; 10] = [
    "field_files",
    "templates",
    "castor_study_name",
    "castor_site_name",
    "castor_visit_name",
    "extra_variable_map",
    "translation_map",
    "xnat_external_system",
    "castor_external_system_name",
    "taskmanager_external_system_name",
];

/// Names of data fields that are never sent.
const SKIPPED: [&str; 2] = ["participant_id", "if_other_description"];

/// The flat data of one template, with the names of Castor's fields.
struct Form {
    template: String,
    values: Map<String, Value>,
}

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let web = Web::new(run, Duration::from_mins(1))?;
    let forms = read_forms(&arguments, &web, run).await?;
    let reason = format!("Imported via StudyGovernor callback {}", run.text("/web_uri"));
    let castor = Castor::log_in(&web, run.system(&arguments.castor_external_system_name)?, reason).await?;
    let study = castor.study(&arguments.castor_study_name).await?;
    let site = castor.site(&study, &arguments.castor_site_name).await?;
    let visit = castor.visit(&study, &arguments.castor_visit_name).await?;
    let fields = castor.fields(&study).await?;
    let participant = run.text("/subject/label").to_owned();
    let existed = castor.create_participant(&study, &participant, &site).await?;
    run.log.line(&format!("Participant {participant} {}", if existed { "already exists" } else { "is new" }));
    let mut import = Import { castor, study, visit, participant, fields, points: BTreeMap::new(), run };
    let mut inserted = Map::new();
    let outcome = import.all(forms, &mut inserted).await;
    let values = Outcome::success(json!({
        "study_name": arguments.castor_study_name,
        "study_id": import.study.id,
        "site_name": arguments.castor_site_name,
        "site_id": site,
        "participant_id": import.participant,
        "field_files": arguments.field_files.list(),
        "templates": arguments.templates.list(),
        "participant_existed": existed,
        "data_inserted": inserted,
    }));
    Ok(match outcome {
        Ok(()) => values,
        Err(failure) => {
            run.log.line(&format!("failed: {failure}"));
            values.but_failed(failure.0, None)
        }
    })
}

/// Reads all data to send, before anything is written.
async fn read_forms(arguments: &Arguments, web: &Web<'_>, run: &Run<'_>) -> Result<Vec<Form>, Failure> {
    let (files, templates) = (arguments.field_files.list(), arguments.templates.list());
    if files.len() != templates.len() {
        let counts = format!("{} field_files and {} templates", files.len(), templates.len());
        return Err(Failure(format!("callback_arguments: {counts}; each file requires a template")));
    }
    let extra = extra_values(arguments, run)?;
    let mut forms = Vec::with_capacity(files.len());
    for (file, template) in files.iter().zip(templates) {
        let data = field_file(arguments, web, file, run).await?;
        let fields = qa_fields(arguments, web, &template, run).await?;
        let mut values = flatten(&fields, &data).map_err(|error| Failure(format!("template {template}: {error}")))?;
        values.extend(extra.clone());
        run.log.line(&format!("{file} with template {template}: {} fields", values.len()));
        let values = translated(values, arguments.translation_map.as_ref());
        forms.push(Form { template, values });
    }
    Ok(forms)
}

/// Values from the execution data that are added to each form.
fn extra_values(arguments: &Arguments, run: &Run<'_>) -> Result<Map<String, Value>, Failure> {
    let data = Value::Object(run.assignment.data.clone());
    let mut values = Map::new();
    for (name, pointer) in arguments.extra_variable_map.iter().flatten() {
        if !(pointer.is_empty() || pointer.starts_with('/')) {
            let hint = format!("'{pointer}' of {name} is not a JSON pointer: it must start with a slash");
            return Err(Failure(format!("callback_arguments: extra_variable_map: {hint}")));
        }
        match data.pointer(pointer) {
            None | Some(Value::Null) => run.log.line(&format!("{pointer} is empty; {name} is not sent")),
            Some(value) => _ = values.insert(name.clone(), value.clone()),
        }
    }
    Ok(values)
}

/// Replaces names of the data by those of Castor's fields, also inside listings.
fn translated(values: Map<String, Value>, names: Option<&BTreeMap<String, String>>) -> Map<String, Value> {
    let inner = |value: Value| match value {
        Value::Array(entries) if entries.iter().any(Value::is_object) => Value::Array(
            entries
                .into_iter()
                .map(|entry| match entry {
                    Value::Object(entry) => Value::Object(translated(entry, names)),
                    other => other,
                })
                .collect(),
        ),
        other => other,
    };
    let name = |name: String| names.and_then(|names| names.get(&name)).cloned().unwrap_or(name);
    let kept = values.into_iter().filter(|(key, _)| !SKIPPED.contains(&key.as_str()));
    kept.map(|(key, value)| (name(key), inner(value))).collect()
}

/// The newest file of this name in the experiment's resource, as JSON.
async fn field_file(arguments: &Arguments, web: &Web<'_>, path: &str, run: &Run<'_>) -> Result<Value, Failure> {
    const MOMENT: &str = "{timestamp}";
    let system = &arguments.xnat_external_system;
    let (subject, experiment) = (run.external_id("subject", system)?, run.external_id("experiment", system)?);
    let (subject, experiment) = (segment(subject)?, segment(experiment)?);
    let base = format!("{}/data/archive/subjects/{subject}/experiments/{experiment}", run.system(system)?);
    let wrong = |what: &str| Failure(format!("callback_arguments: field_files: {path}: {what}"));
    let (resource, name) =
        path.trim_start_matches('/').split_once("/files/").ok_or_else(|| wrong("it does not contain /files/"))?;
    let resource = format!("{base}/{resource}");
    let name = if name.contains(MOMENT) {
        let dated = Dated::new(name, MOMENT).ok_or_else(|| wrong("it contains {timestamp} more than once"))?;
        segments(&newest_file(web, &resource, dated).await?)?
    } else {
        name.to_owned()
    };
    get_json(web, &format!("{resource}/files/{name}?format=json")).await
}

/// The description of the fields in a template, which controls the flattening.
async fn qa_fields(
    arguments: &Arguments,
    web: &Web<'_>,
    template: &str,
    run: &Run<'_>,
) -> Result<Map<String, Value>, Failure> {
    let task_manager = run.system(&arguments.taskmanager_external_system_name)?;
    let answer = get_json(web, &format!("{task_manager}/api/v1/task_templates/{}", segment(template)?)).await?;
    let wrong = |what: &str| Failure(format!("template {template}: {what}"));
    let content = answer.get("content").and_then(Value::as_str).ok_or_else(|| wrong("it has no content"))?;
    let content = yaml::parse_value(content).map_err(|error| {
        wrong(&format!(
            "its content is not valid YAML: \
        {error}"
        ))
    })?;
    match content.get("qa_fields") {
        Some(Value::Object(fields)) => Ok(fields.clone()),
        _ => Err(wrong("it has no qa_fields")),
    }
}

/// An entry of a listing; it becomes an instance of a repeated measurement.
struct Entry {
    field: Field,
    /// Name of the instance.
    name: String,
    values: Map<String, Value>,
}

/// Import of one participant's data into Castor.
struct Import<'a> {
    castor: Castor<'a>,
    study: Study,
    /// Id of the visit.
    visit: String,
    participant: String,
    fields: BTreeMap<String, Field>,
    /// Stored data points, by id of the field.
    points: BTreeMap<String, String>,
    run: &'a Run<'a>,
}

impl Import<'_> {
    async fn all(&mut self, forms: Vec<Form>, inserted: &mut Map<String, Value>) -> Result<(), Failure> {
        self.points = self.castor.study_points(&self.study, &self.participant).await?;
        for form in forms {
            let sent =
                self.form(&form).await.map_err(|error| Failure(format!("template {}: {error}", form.template)))?;
            self.run.log.line(&format!("template {}: {}", form.template, if sent { "sent" } else { "complete" }));
            inserted.insert(form.template, sent.into());
        }
        Ok(())
    }

    /// Sends the missing data of a form; returns whether there was any.
    async fn form(&mut self, form: &Form) -> Result<bool, Failure> {
        let missing = self.missing_points(&form.values, false)?;
        let listings = self.listings(&form.values)?;
        let mut sent = false;
        if !missing.is_empty() {
            self.castor.add_study_points(&self.study, &self.participant, &missing).await?;
            self.points.extend(missing);
            sent = true;
        }
        if listings.is_empty() {
            return Ok(sent);
        }
        let instances = self.castor.instances(&self.study, &self.participant).await?;
        for entry in listings {
            sent |= self.instance(&entry, &instances).await?;
        }
        Ok(sent)
    }

    /// Field id and text of the values that are not stored yet; of an instance only its fields.
    fn missing_points(&self, values: &Map<String, Value>, in_instance: bool) -> Result<Vec<(String, String)>, Failure> {
        let mut missing = Vec::new();
        for (key, value) in values {
            let Some(field) = self.fields.get(key) else {
                self.run.log.line(&format!("field {key} does not exist in the study; it is not sent"));
                continue;
            };
            let (false, Some(text)) = (field.is_repeated, text_of(value)) else { continue };
            match self.points.get(&field.id).filter(|there| !in_instance && !there.is_empty()) {
                None => missing.push((field.id.clone(), text)),
                Some(there) if same(there, &text) => {}
                Some(_) => {
                    let who = &self.participant;
                    return Err(Failure(format!("the data of {who} conflicts with the data in Castor: {key} differs")));
                }
            }
        }
        Ok(missing)
    }

    /// The entries of all listings, each with its field, the name of its instance and its values.
    fn listings(&self, values: &Map<String, Value>) -> Result<Vec<Entry>, Failure> {
        let mut all = Vec::new();
        for (key, value) in values {
            let Some(field) = self.fields.get(key).filter(|field| field.is_repeated) else { continue };
            let entries = match value {
                Value::Array(entries) => entries.as_slice(),
                Value::Null => &[],
                _ => return Err(Failure(format!("{key} is a repeated measurement, but its data is not a list"))),
            };
            for (number, entry) in entries.iter().enumerate() {
                let Value::Object(entry) = entry else {
                    return Err(Failure(format!("entry {number} of {key} is not a mapping")));
                };
                all.push(Entry {
                    field: field.clone(),
                    name: format!("{}-{key}-{number}", self.participant),
                    values: entry.clone(),
                });
            }
        }
        Ok(all)
    }

    async fn instance(&self, entry: &Entry, instances: &BTreeMap<String, String>) -> Result<bool, Failure> {
        let Entry { field, name, values } = entry;
        let wanted = self.missing_points(values, true)?;
        let (study, who) = (&self.study, &self.participant);
        let id = match instances.get(name) {
            None => self.castor.create_instance(study, who, &field.report_id, name, &self.visit).await?,
            Some(id) => {
                let there = self.castor.instance_points(study, who, id).await?;
                let key_of =
                    |id: &str| self.fields.iter().find(|(_, field)| field.id == id).map(|(key, _)| key.as_str());
                let there_of = |id: &str| there.get(id).or_else(|| there.get(key_of(id)?)).map_or("", String::as_str);
                if let Some((id, _)) =
                    wanted.iter().find(|(id, text)| !there_of(id).is_empty() && !same(there_of(id), text))
                {
                    let key = key_of(id).unwrap_or(id);
                    return Err(Failure(format!("{name} conflicts with the data in Castor: {key} differs")));
                }
                let missing: Vec<_> = wanted.into_iter().filter(|(id, _)| there_of(id).is_empty()).collect();
                if missing.is_empty() {
                    return Ok(false);
                }
                self.castor.add_instance_points(study, who, id, &missing).await?;
                return Ok(true);
            }
        };
        self.castor.add_instance_points(study, who, &id, &wanted).await?;
        Ok(true)
    }
}
