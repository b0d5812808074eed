//! The direction of dependencies, read from the imports.

mod context;
mod dependencies;
mod make;
mod moment;
mod scripts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The order of the modules: each may use the modules of earlier lines, but not those of later lines or of its own
/// line.
const ORDER: &[&[&str]] = &[
    &["entity", "clock", "config", "fault"],
    &["context", "database"],
    &["audit", "mail"],
    &["study"],
    &["queue"],
    &["workflow"],
    &["engine", "account", "callback"],
    &["import", "view", "project"],
    &["app"],
    &["http"],
    &["web", "api", "worker"],
    &["cli"],
];

/// Exceptions within a line, and the reason for each.
const ALLOWED: &[(&str, &str)] = &[
    // The embedded pool is a client of the engine like any other.
    ("worker", "callback"),
];

/// Libraries that belong to the edges and services.
const EDGE_LIBRARIES: &[&str] = &["axum", "minijinja", "lapin", "lettre", "tower_http", "axum_login", "clap"];
const ROOMS: &[&str] = &["audit", "study", "workflow", "engine", "callback", "account", "import"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// All files with their text and the module that they belong to.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let room = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap().as_os_str();
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    sources(&root).into_iter().map(|path| (room(&path), path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// All names that follow `crate::` in a text, including those in braces.
fn used_rooms(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let list = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or(rest, |(list, _)| list);
        let parts = if rest.starts_with('{') { list.split(',').collect() } else { vec![rest] };
        for part in parts {
            let name: String = part.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            names.push(name);
        }
    }
    names
}

#[test]
fn dependencies_point_one_way() {
    let rank: BTreeMap<&str, usize> =
        ORDER.iter().enumerate().flat_map(|(rank, line)| line.iter().map(move |room| (*room, rank))).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (room, path, text) in files() {
        if room == "lib" || room == "main" {
            continue;
        }
        let own = rank.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no place in the order"));
        for used in used_rooms(&text) {
            let Some(other) = rank.get(used.as_str()) else { continue };
            seen += 1;
            let allowed = used == room || other < own || ALLOWED.contains(&(room.as_str(), used.as_str()));
            if !allowed {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(seen > 100, "the imports were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_know_no_library_of_the_edges() {
    let mut wrong = Vec::new();
    for (room, path, text) in files().into_iter().filter(|(room, _, _)| ROOMS.contains(&room.as_str())) {
        for library in EDGE_LIBRARIES {
            if text.contains(&format!("use {library}::")) || text.contains(&format!(" {library}::")) {
                wrong.push(format!("{} of {room} uses {library}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Data of cohorts is read for a context, which may be limited to certain cohorts. The compiler enforces a context for
/// `visible`, but cannot forbid `find`.
const OF_COHORTS: &[&str] = &[
    "cohort",
    "subject",
    "experiment",
    "scan",
    "variable",
    "action",
    "callback_execution",
    "external_cohort_urls",
    "external_subject_links",
    "external_experiment_links",
];

/// Reads that are not for a user, and the reason for each.
const FOR_THE_PROGRAM: &[(&str, &str)] = &[
    // For an experiment that was locked for a user, so it is visible.
    ("src/engine/locked.rs", "callback_execution::Entity::find()"),
    // Only ids of the newest actions of the study.
    ("src/study/listing/cursor.rs", "action::Entity::find()"),
    // Names of cohorts for users who give roles, which requires the whole study.
    ("src/account/scope.rs", "cohort::Entity::find()"),
    // Elements that a workflow cannot lose, for any user who upgrades it.
    ("src/workflow/upgrade.rs", "experiment::Entity::find()"),
    // Running executions, for the program; and the execution of a worker that has shown its secret.
    ("src/engine/running.rs", "Entity::find_by_id("),
    ("src/engine/timeout.rs", "Entity::find()"),
    ("src/engine/lease.rs", "Entity::find()"),
];

/// Beginnings of statements that also read hidden rows.
const BEGINNINGS: &[&str] = &["Entity::find()", "Entity::find_by_id(", "Entity::in_use()"];

#[test]
fn what_belongs_to_a_cohort_is_read_for_somebody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let (mut seen, mut used) = (0, vec![false; FOR_THE_PROGRAM.len()]);
    let rooms = ["study", "engine", "workflow", "import", "account", "http", "api", "web", "view"];
    for (_, path, text) in files().into_iter().filter(|(room, _, _)| rooms.contains(&room.as_str())) {
        let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        seen += text.matches("::visible").count() + text.matches("_in_use(").count();
        // `Entity` alone refers to the table that the file imports it from.
        let own = OF_COHORTS.iter().any(|table| {
            text.lines().any(|line| {
                line.trim_start().starts_with("use ") && line.contains(&format!("{table}::")) && line.contains("Entity")
            })
        });
        for beginning in BEGINNINGS {
            for (at, _) in text.match_indices(beginning) {
                let before = &text[..at];
                let word = before.strip_suffix("::").map(|before| {
                    let from = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
                    &before[from..]
                });
                let is_of_cohort = word.map_or(own, |word| OF_COHORTS.contains(&word));
                let shown = word.map_or_else(|| (*beginning).to_owned(), |word| format!("{word}::{beginning}"));
                let allowed = FOR_THE_PROGRAM.iter().position(|(file, one)| *file == path && *one == shown);
                match allowed {
                    Some(index) => used[index] = true,
                    None if is_of_cohort => wrong.push(format!("{path}: {shown}; begin with `visible`")),
                    None => {}
                }
            }
        }
    }
    assert!(seen > 60, "{seen}: the reads were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (one, used) in FOR_THE_PROGRAM.iter().zip(used) {
        assert!(used, "{one:?} is not there any more");
    }
}

/// Functions that add another table to a statement; the name of the table follows.
const JOINS: &[&str] = &["related(", "linked(", "load_one(", "load_many(", "Relation::"];

/// A joined table is as visible as the first table of the statement: if that belongs to no cohort (such as a state),
/// the test above would not detect the read.
#[test]
fn what_belongs_to_a_cohort_is_joined_to_what_is_visible() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    let rooms = ["study", "engine", "workflow", "import", "account", "http", "api", "web", "view"];
    for (_, path, text) in files().into_iter().filter(|(room, _, _)| rooms.contains(&room.as_str())) {
        for (at, way) in JOINS.iter().flat_map(|way| text.match_indices(way)) {
            let from = at + way.len();
            let name = text[from..].split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap();
            let is_of_cohort = OF_COHORTS.iter().any(|table| table.replace('_', "") == name.to_lowercase());
            let is_of_cohort = is_of_cohort || OF_COHORTS.contains(&name);
            if !is_of_cohort {
                continue;
            }
            seen += 1;
            // Statements are built in steps: `visible` is used earlier in the same function.
            let function = text[..at].rfind("fn ").unwrap_or(0);
            if !text[function..at].contains("visible") {
                let line = text[..at].lines().count();
                wrong.push(format!(
                    "{}:{line}: joins {name} to what is not `visible`",
                    path.strip_prefix(root).unwrap().display()
                ));
            }
        }
    }
    assert!(seen > 8, "{seen}: the joins were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// MariaDB and MySQL commit each change of a table immediately, so an interrupted migration is run again from its
/// beginning. The steps of `migration::steps` can be repeated; statements that a migration executes directly cannot.
#[test]
fn migrations_are_made_of_steps_that_can_be_repeated() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migration/src");
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in sources(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("m2") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        seen += text.matches("manager").count();
        for (at, _) in text.match_indices("manager") {
            let next = text[at + "manager".len()..].trim_start().chars().next();
            // It is passed on, or named as a parameter; no method is called on it.
            if !matches!(next, Some(',' | ')' | ':')) {
                wrong.push(format!("{name}:{}: use a step of migration::steps", text[..at].lines().count()));
            }
        }
        for way in ["get_connection", "execute_unprepared", "Statement::", "SchemaManager::"] {
            if text.contains(way) {
                wrong.push(format!("{name}: {way}; use a step of migration::steps"));
            }
        }
    }
    assert!(seen > 100, "{seen}: the migrations were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
