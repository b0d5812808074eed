//! Roles, users, external systems and scan types from a YAML text in the format of version 8.1:
//! `roles: [{name, description, permissions}]`, `users: [{username, password, name, email, active, roles}]`,
//! `external_systems: [{system_name, url}]`, `scantypes: [{modality, protocol}]`.
//!
//! The whole text is checked before anything is written.

use std::collections::BTreeSet;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::account::Permission;
use crate::study::Label;
use crate::workflow::yaml::{self, Content, Node};

use super::RowProblem;

/// A parsed configuration.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    pub roles: Vec<RoleEntry>,
    pub users: Vec<UserEntry>,
    pub external_systems: Vec<SystemEntry>,
    pub scantypes: Vec<ScantypeEntry>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RoleEntry {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub permissions: Option<Permissions>,
}

/// A list, or a text separated by commas.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Permissions {
    List(Vec<String>),
    Text(String),
}

impl Permissions {
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::List(names) => names.iter().map(|name| name.trim().to_owned()).collect(),
            Self::Text(text) => {
                text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
            }
        }
    }
}

/// Unknown keys are errors: a mistyped `active` would create an active account.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserEntry {
    pub username: String,
    pub password: String,
    #[serde(default)]
    pub name: Option<String>,
    pub email: String,
    #[serde(default, deserialize_with = "flag")]
    pub active: Option<bool>,
    #[serde(default)]
    pub roles: Option<Vec<String>>,
}

impl std::fmt::Debug for UserEntry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Omits the password.
        write!(formatter, "UserEntry({})", self.username)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct SystemEntry {
    pub system_name: String,
    #[serde(default)]
    pub url: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ScantypeEntry {
    pub modality: String,
    pub protocol: String,
}

/// Accepts `true` and `false`, and `1` and `0`.
fn flag<'de, D: Deserializer<'de>>(given: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(given)? {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag)),
        Value::Number(number) if number == 0.into() || number == 1.into() => Ok(Some(number == 1.into())),
        other => Err(D::Error::custom(format!("'active' must be true or false, got {other}"))),
    }
}

/// Reads a text on a blocking thread, because a large one takes seconds.
///
/// # Errors
/// Those of [`read_configuration`].
pub async fn read_configuration_in_background(text: String) -> Result<Configuration, Vec<RowProblem>> {
    let read = tokio::task::spawn_blocking(move || read_configuration(&text)).await;
    read.unwrap_or_else(|error| {
        Err(vec![RowProblem { place: "line 1".to_owned(), message: format!("cannot read the configuration: {error}") }])
    })
}

/// Number of problems that are listed; the others are only counted.
const MOST_PROBLEMS: usize = 200;

/// Reads a text.
///
/// # Errors
/// The problems of the text, each with its line: the first few hundred, and the number of the others.
pub fn read_configuration(text: &str) -> Result<Configuration, Vec<RowProblem>> {
    read_all(text).map_err(|mut problems| {
        if problems.len() > MOST_PROBLEMS {
            let more = problems.len() - MOST_PROBLEMS;
            problems.truncate(MOST_PROBLEMS);
            problems.push(RowProblem { place: "and".to_owned(), message: format!("{more} more problems") });
        }
        problems
    })
}

fn read_all(text: &str) -> Result<Configuration, Vec<RowProblem>> {
    let problem = |line: u32, message: String| RowProblem { place: format!("line {line}"), message };
    let document = yaml::parse(text).map_err(|error| vec![problem(error.place.line, error.message)])?;
    if !matches!(document.content, Content::Mapping(_)) {
        let wanted = "must be a mapping with roles, users, external_systems or scantypes";
        return Err(vec![problem(1, wanted.to_owned())]);
    }
    let mut problems = Vec::new();
    for (key, _) in document.entries() {
        // `x-…` holds anchors that other entries refer to with `*`.
        if !["roles", "users", "external_systems", "scantypes"].contains(&key.text.as_str())
            && !key.text.starts_with("x-")
        {
            problems.push(problem(key.place.line, format!("unknown key '{}'", key.text)));
        }
    }
    let configuration = Configuration {
        roles: entries(&document, "roles", &mut problems),
        users: entries(&document, "users", &mut problems),
        external_systems: entries(&document, "external_systems", &mut problems),
        scantypes: entries(&document, "scantypes", &mut problems),
    };
    for role in &configuration.roles {
        for name in role.permissions.iter().flat_map(Permissions::names) {
            if !Permission::ALL.iter().any(|(_, known)| *known == name) {
                problems.push(RowProblem {
                    place: format!("role {}", role.name),
                    message: format!("unknown permission '{name}'"),
                });
            }
        }
    }
    problems.extend(too_long(&configuration));
    problems.extend(twice(&configuration));
    let labels = configuration.external_systems.iter().map(|entry| ("external system", &entry.system_name));
    let scantypes = configuration.scantypes.iter();
    let labels = labels.chain(scantypes.flat_map(|one| [("modality", &one.modality), ("protocol", &one.protocol)]));
    let labels = labels.chain(configuration.roles.iter().map(|role| ("role", &role.name)));
    for (kind, text) in labels {
        if let Err(error) = Label::parse(text) {
            problems.push(RowProblem { place: kind.to_owned(), message: format!("'{text}' {error}") });
        }
    }
    if problems.is_empty() { Ok(configuration) } else { Err(problems) }
}

/// Names that occur twice: it is unclear which of two different entries is meant.
fn twice(configuration: &Configuration) -> Vec<RowProblem> {
    let users = configuration.users.iter().flat_map(|one| [("user", &one.username), ("user", &one.email)]);
    let roles = configuration.roles.iter().map(|one| ("role", &one.name));
    let systems = configuration.external_systems.iter().map(|one| ("external system", &one.system_name));
    let scantypes = configuration.scantypes.iter().map(|one| ("scantype", &one.protocol));
    // A user name may equal the e-mail address of the same user.
    let both: BTreeSet<&str> =
        configuration.users.iter().filter(|one| one.username == one.email).map(|one| one.username.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (kind, name) in users.chain(roles).chain(systems).chain(scantypes) {
        let own = kind == "user" && both.contains(name.as_str());
        if !seen.insert((kind, name.trim().to_lowercase())) && !own {
            problems.push(RowProblem { place: format!("{kind} {name}"), message: "is listed twice".to_owned() });
        }
    }
    problems
}

/// Texts that are too long for their columns.
fn too_long(configuration: &Configuration) -> Vec<RowProblem> {
    let role = |entry: &RoleEntry| {
        let place = format!("role {}", entry.name);
        let description = entry.description.clone().unwrap_or_default();
        [(place.clone(), "name", entry.name.clone(), 80), (place, "description", description, 255)]
    };
    let system = |entry: &SystemEntry| {
        (format!("external system {}", entry.system_name), "url", entry.url.clone().unwrap_or_default(), 512)
    };
    let roles = configuration.roles.iter().flat_map(role);
    let all = roles.chain(configuration.external_systems.iter().map(system));
    let wrong = all.filter(|(_, _, text, most)| text.chars().count() > *most || text.chars().any(char::is_control));
    wrong
        .map(|(place, field, _, most)| {
            let message = format!("{field} must be at most {most} characters without control characters");
            RowProblem { place, message }
        })
        .collect()
}

/// The entries of one list of the text.
fn entries<T: DeserializeOwned>(document: &Node, key: &str, problems: &mut Vec<RowProblem>) -> Vec<T> {
    let Some(list) = document.get(key) else { return Vec::new() };
    if !matches!(list.content, Content::Sequence(_)) && list.to_json() != Value::Null {
        let message = format!("{key} must be a list");
        problems.push(RowProblem { place: format!("line {}", list.place.line), message });
    }
    let mut read = Vec::new();
    for item in list.items() {
        let before = problems.len();
        let value = entry(item, problems);
        // The deserializer would report the same problem in other words.
        if problems.len() > before {
            continue;
        }
        match serde_json::from_value(value) {
            Ok(entry) => read.push(entry),
            Err(error) => problems.push(RowProblem {
                place: format!("line {}", item.place.line),
                message: format!("an entry of {key}: {error}"),
            }),
        }
    }
    read
}

/// Keys whose values are texts, whatever type YAML gives them: a user may be called `007` and a protocol `2026`.
const TEXTS: [&str; 9] =
    ["description", "email", "modality", "name", "password", "protocol", "system_name", "url", "username"];

/// Keys whose values are texts or lists of texts.
const LISTS: [&str; 2] = ["permissions", "roles"];

/// An entry as JSON, with texts where texts are expected. A number that would become another text than the written one is a problem: a
/// user with such a password could not log in.
fn entry(item: &Node, problems: &mut Vec<RowProblem>) -> Value {
    let Content::Mapping(fields) = &item.content else { return item.to_json() };
    let mut read = serde_json::Map::new();
    for (key, value) in fields {
        let name = key.text.as_str();
        let value = match &value.content {
            Content::Sequence(items) if LISTS.contains(&name) => {
                items.iter().map(|item| text_of(name, item, problems)).collect()
            }
            _ if TEXTS.contains(&name) || LISTS.contains(&name) => text_of(name, value, problems),
            _ => value.to_json(),
        };
        read.insert(name.to_owned(), value);
    }
    Value::Object(read)
}

fn text_of(name: &str, node: &Node, problems: &mut Vec<RowProblem>) -> Value {
    match node.meant_text() {
        Ok(Some(text)) => text.into(),
        Ok(None) => node.to_json(),
        Err(problem) => {
            // Messages never contain passwords.
            let problem = match name {
                "password" => "YAML reads this as another value unless it is quoted; put it in quotes".to_owned(),
                _ => problem,
            };
            problems
                .push(RowProblem { place: format!("line {}", node.place.line), message: format!("{name}: {problem}") });
            Value::Null
        }
    }
}
