//! The direction of dependencies, read from the imports.

mod context;
mod dependencies;
mod moment;
mod scripts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who may know whom: a room may use what stands before it, never what stands after it or beside it in the same line.
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

/// What a room uses of another one in its own line, and why that is no reversal.
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

/// The room that a file belongs to, with its text.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let room = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap().as_os_str();
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    sources(&root).into_iter().map(|path| (room(&path), path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// All names that follow `crate::` in a text, and those in braces behind it.
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

/// What belongs to a cohort is read for a context, which may see certain cohorts only. The compiler demands a context of
/// `visible`, and cannot forbid `find`.
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

/// Reads that are not for somebody, and why.
const FOR_THE_PROGRAM: &[(&str, &str)] = &[
    // Of an experiment that was locked for somebody, so it is visible.
    ("src/engine/locked.rs", "callback_execution::Entity::find()"),
    // Ids of the newest actions of the study; nothing else of them.
    ("src/study/listing/cursor.rs", "action::Entity::find()"),
    // Names of cohorts for those who give roles for them: that is about the whole study.
    ("src/account/scope.rs", "cohort::Entity::find()"),
    // What a workflow cannot lose, whoever upgrades it.
    ("src/workflow/upgrade.rs", "experiment::Entity::find()"),
    // What runs, for the program; and the run of a worker that has shown its secret.
    ("src/engine/running.rs", "Entity::find_by_id("),
    ("src/engine/timeout.rs", "Entity::find()"),
    ("src/engine/lease.rs", "Entity::find()"),
];

/// Ways to begin a statement that read what is hidden too.
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
        // `Entity` alone is that of the table which the file imports it from.
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

/// Ways to bring another table into a statement; the name of the table comes next.
const JOINS: &[&str] = &["related(", "linked(", "load_one(", "load_many(", "Relation::"];

/// A table that is joined is as visible as the one the statement begins with: where that one is of no cohort (as a state), its
/// rows would be read unseen by the test above.
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
            // Statements are put together in steps: what is visible stands somewhere above in the same function.
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

/// MariaDB and MySQL commit each change of a table immediately, so a migration that was killed is run again from its begin. The steps of
/// `migration::steps` can be repeated; a statement that a migration gives to the database directly cannot.
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
            // It is handed on, or named as a parameter; nothing is called on it.
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
