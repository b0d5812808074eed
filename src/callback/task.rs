//! `create_task` and `create_taskgroup`: create reading tasks for raters in TaskManager (`task-manager` 6.6). The execution
//! waits until TaskManager reports that the work is done.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::web::{Web, beginning, hint_of, send, shown, text};
use super::workplace::direct_file;
use super::{Failure, Outcome, Run, read_arguments};

#[derive(Deserialize)]
struct TaskArguments {
    task_base: String,
    task_info: Map<String, Value>,
    #[serde(default)]
    extra_tags_var: Option<String>,
    #[serde(default = "xnat")]
    xnat_external_system: String,
    #[serde(default = "task_manager")]
    taskmanager_external_system_name: String,
}

const OF_TASK: [&str; 5] =
    ["task_base", "task_info", "extra_tags_var", "xnat_external_system", "taskmanager_external_system_name"];

#[derive(Deserialize)]
struct GroupArguments {
    label: String,
    tasks: Vec<GroupTask>,
    #[serde(default)]
    distribute_in_group: Option<Value>,
    #[serde(default)]
    distribute_method: Option<Value>,
    #[serde(default)]
    tags: Option<Vec<Value>>,
    #[serde(default)]
    project: Option<Value>,
    #[serde(default)]
    extra_tags_var: Option<String>,
    #[serde(default = "xnat")]
    xnat_external_system: String,
    #[serde(default = "task_manager")]
    taskmanager_external_system_name: String,
}

const OF_GROUP: [&str; 9] = [
    "label",
    "tasks",
    "distribute_in_group",
    "distribute_method",
    "tags",
    "project",
    "extra_tags_var",
    "xnat_external_system",
    "taskmanager_external_system_name",
];

#[derive(Deserialize)]
struct GroupTask {
    base: String,
    template: Value,
    #[serde(default)]
    tags: Option<Vec<Value>>,
    #[serde(default)]
    project: Option<Value>,
    /// URL to notify when this task is done; without it, only the end of all tasks is reported.
    #[serde(default)]
    callback_url: Option<String>,
    #[serde(default)]
    application_name: Option<Value>,
    #[serde(default)]
    application_version: Option<Value>,
}

fn xnat() -> String {
    "XNAT".to_owned()
}

fn task_manager() -> String {
    "TASKMANAGER".to_owned()
}

pub(super) async fn create_task(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: TaskArguments = read_arguments(arguments, &OF_TASK, run.log)?;
    let content = content(&arguments.task_base, &arguments.xnat_external_system, run)?;
    let extra = extra_tags(arguments.extra_tags_var.as_deref(), run);
    let mut info = arguments.task_info;
    if !extra.is_empty() {
        let mut tags = match info.remove("tags") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(tags)) => tags,
            Some(one) => vec![one],
        };
        tags.extend(extra);
        info.insert("tags".to_owned(), tags.into());
    }
    info.insert("generator_url".to_owned(), run.text("/web_uri").into());
    info.insert("tracking_id".to_owned(), run.text("/experiment/label").into());
    info.insert("content".to_owned(), content.into());
    info.insert("callback_url".to_owned(), run.text("/api_uri").into());
    info.insert("callback_content".to_owned(), callback_content(run).into());
    post("tasks", Value::Object(info), &arguments.taskmanager_external_system_name, run).await
}

pub(super) async fn create_taskgroup(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: GroupArguments = read_arguments(arguments, &OF_GROUP, run.log)?;
    let extra = extra_tags(arguments.extra_tags_var.as_deref(), run);
    let mut tasks = Vec::with_capacity(arguments.tasks.len());
    for task in &arguments.tasks {
        let mut tags = arguments.tags.clone().unwrap_or_default();
        for tag in extra.iter().chain(task.tags.iter().flatten()) {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        let told = task.callback_url.as_deref().filter(|url| !url.is_empty());
        let mut entry = json!({
            "tags": tags,
            "project": task.project.as_ref().or(arguments.project.as_ref()),
            "tracking_id": run.text("/experiment/label"),
            "callback_url": told,
            "callback_content": told.map(|_| callback_content(run)).unwrap_or_default(),
            "template": task.template,
            "generator_url": run.text("/web_uri"),
            "content": content(&task.base, &arguments.xnat_external_system, run)?,
        });
        for (name, value) in
            [("application_name", &task.application_name), ("application_version", &task.application_version)]
        {
            if let Some(value) = value {
                entry[name] = value.clone();
            }
        }
        tasks.push(entry);
    }
    let mut group = json!({
        "label": arguments.label,
        "tasks": tasks,
        "callback_url": run.text("/api_uri"),
        "callback_content": callback_content(run),
    });
    for (name, value) in
        [("distribute_in_group", arguments.distribute_in_group), ("distribute_method", arguments.distribute_method)]
    {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            group[name] = value;
        }
    }
    post("taskgroups", group, &arguments.taskmanager_external_system_name, run).await
}

/// The report that TaskManager sends to the execution when the work is done. TaskManager accepts only a string here, not an
/// object.
fn callback_content(run: &Run<'_>) -> String {
    json!({ "status": "finished", "result": "success", "secret_key": run.secret }).to_string()
}

/// The text of a task: a project file with the ids of this experiment inserted.
fn content(base: &str, xnat: &str, run: &Run<'_>) -> Result<String, Failure> {
    let file = direct_file(&run.workplace.tasks, base, run.assignment.function.as_str(), "tasks")?;
    let text = std::fs::read_to_string(&file).map_err(|error| Failure(format!("cannot read {base}: {error}")))?;
    fill(&text, |name| {
        Some(match name {
            "EXPERIMENT_ID" => run.external_id("experiment", xnat),
            "SUBJECT_ID" => run.external_id("subject", xnat),
            "LABEL" => Ok(run.text("/experiment/label")),
            "SYSTEM_URL" => run.system(xnat),
            _ => return None,
        })
    })
    .map_err(|error| Failure(format!("{base}: {error}")))
}

/// Replaces `$NAME` and `${NAME}`; `$$` is a dollar sign. An invalid name is an error, as in Python's `string.Template`;
/// otherwise raters would see it.
fn fill<'a>(text: &str, value: impl Fn(&str) -> Option<Result<&'a str, Failure>>) -> Result<String, Failure> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            filled.push('$');
            rest = after;
            continue;
        }
        let bare = |text: &str| text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
        let (name, after) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, after)) => (name, after),
            None => after.split_at(bare(after)),
        };
        let line = text[..text.len() - rest.len() + at].lines().count().max(1);
        match value(name) {
            Some(value) => filled.push_str(value?),
            None if name.is_empty() => {
                return Err(Failure(format!("line {line}: a single $; write $$ for a literal dollar sign")));
            }
            None => {
                let known = "$EXPERIMENT_ID, $SUBJECT_ID, $LABEL, $SYSTEM_URL";
                return Err(Failure(format!("line {line}: ${name} is not one of {known}")));
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The tags from a variable of the experiment: one text, or a list of texts.
fn extra_tags(variable: Option<&str>, run: &Run<'_>) -> Vec<Value> {
    let Some(variable) = variable else { return Vec::new() };
    match run.value("/experiment/variable_map").get(variable) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(tag)) => vec![tag.as_str().into()],
        Some(Value::Array(tags)) => tags.clone(),
        Some(other) => {
            run.log.line(&format!(
                "variable {variable} is {other}, neither a string nor a list, so it provides no \
                tags"
            ));
            Vec::new()
        }
    }
}

async fn post(kind: &str, body: Value, system: &str, run: &Run<'_>) -> Result<Outcome, Failure> {
    let url = format!("{}/api/v1/{kind}", run.system(system)?);
    let web = Web::new(run, Duration::from_mins(1))?;
    let what = format!("POST {}", shown(&url));
    run.log.line(&what);
    let answer = send(web.request(Method::POST, &url)?.json(&body), &what).await?;
    let (status, hint) = (answer.status().as_u16(), hint_of(&answer));
    let answered = text(answer, &what).await?;
    run.log.line(&format!("returned status {status}"));
    let read: Value = serde_json::from_str(&answered).unwrap_or_default();
    // A group has `url` instead.
    let uri = read.get("uri").or_else(|| read.get("url")).cloned().unwrap_or_default();
    let outcome = Outcome::success(json!({
        "response_status_code": status,
        "response_text": answered,
        "task_info": body,
        "task_uri": uri,
    }));
    if status != 200 && status != 201 {
        let reason = format!("{what} returned status {status}{hint}: {}", beginning(&answered));
        return Ok(outcome.but_failed(reason, None));
    }
    if uri.is_null() {
        let reason = format!("{what}: the response has no uri: {}", beginning(&answered));
        return Ok(outcome.but_failed(reason, None));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_what_is_none_is_told_with_its_line() {
        let value = |name: &str| match name {
            "LABEL" => Some(Ok("session-1")),
            "SUBJECT_ID" => Some(Err(Failure("no id".to_owned()))),
            _ => None,
        };
        assert_eq!(fill("a $LABEL ${LABEL}x $$LABEL", value).unwrap(), "a session-1 session-1x $LABEL");
        assert_eq!(fill("ü$LABEL", value).unwrap(), "üsession-1");
        assert_eq!(fill("$SUBJECT_ID", value).unwrap_err().0, "no id");
        assert!(fill("a\nb $OTHER", value).unwrap_err().0.starts_with("line 2: $OTHER is not one of"));
        assert!(fill("cost: 5$", value).unwrap_err().0.contains("single $"));
    }
}
