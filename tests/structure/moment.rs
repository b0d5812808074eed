//! Pages and the API read data that is shown together in one snapshot (E13): checked in the source.

use std::collections::BTreeMap;
use std::path::Path;

use super::files;

/// Functions whose reads each belong to another moment. `Accounts` of [`App::at`] reads from a snapshot; the program's
/// own does not.
const OF_ITS_OWN_MOMENT: &[&str] = &[
    ".statement()",
    "app.accounts.failures(",
    "app.accounts.find(",
    "app.accounts.holders(",
    "app.accounts.mailing(",
    "app.accounts.mailings(",
    "app.accounts.recipients(",
    "app.accounts.role(",
    "app.accounts.role_cohorts(",
    "app.accounts.roles(",
    "app.accounts.search(",
    "app.accounts.sessions(",
    "app.accounts.tokens(",
    "app.accounts.waiting(",
    "app.accounts.weak_passwords(",
    "app.accounts.has_weak_password(",
];

/// Functions that read more than once without a snapshot, and why the data is not shown together.
const SEVERAL: &[(&str, &str, &str)] = &[
    ("src/api/people.rs", "set_role", "looks up what is named, before it is changed"),
    ("src/api/people.rs", "give", "looks up what is named, before it is changed"),
    ("src/api/sample.rs", "create_experiment", "looks up what is named, before it is made"),
    ("src/api/sample.rs", "create_scan", "looks up what is named, before it is made"),
    ("src/api/link.rs", "read_link", "looks up what is named, before it is set"),
    ("src/api/link.rs", "link_subject", "looks up what is named; the answer reads the link again"),
    ("src/api/link.rs", "link_experiment", "looks up what is named; the answer reads the link again"),
    ("src/api/state.rs", "change_state", "one row; the label of a state never changes"),
    ("src/web/audit.rs", "download_events", "events are only added, and come by their ids"),
    ("src/web/role.rs", "update_role", "looks up who would lose access, before it is changed"),
];

/// The names of the functions of a text, each with its source up to the next function.
fn functions(text: &str) -> Vec<(String, &str)> {
    let starts: Vec<usize> = text.match_indices("fn ").map(|(at, _)| at).filter(|at| is_declared(text, *at)).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let name = |text: &str| text[3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    starts.iter().zip(ends).map(|(from, to)| (name(&text[*from..]), &text[*from..to])).collect()
}

/// Whether a line begins with the declaration at this position.
fn is_declared(text: &str, at: usize) -> bool {
    let line = text[..at].rsplit('\n').next().unwrap_or_default();
    line.split_whitespace()
        .all(|word| word == "async" || word == "const" || word.starts_with("pub") || word.ends_with(')'))
}

#[test]
fn e13_pages_and_the_api_read_at_one_moment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let (mut snapshots, mut used) = (0, BTreeMap::new());
    for (_, path, text) in files().into_iter().filter(|(room, _, _)| room == "web" || room == "api") {
        let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        snapshots += text.matches(".snapshot().await").count() + text.matches("reread::<").count();
        for (name, source) in functions(&text) {
            if source.contains(".reader()") {
                wrong.push(format!("{path}: {name} goes past `App::snapshot` and `App::statement`"));
            }
            let reads: usize = OF_ITS_OWN_MOMENT.iter().map(|way| source.matches(way).count()).sum();
            // A named connection is meant to be used more than once.
            let reads = reads + source.matches("connection = app.statement()").count();
            if reads < 2 {
                continue;
            }
            match SEVERAL.iter().find(|(file, function, _)| *file == path && *function == name) {
                Some(entry) => *used.entry(entry).or_insert(0) += 1,
                None => wrong.push(format!("{path}: {name} reads {reads} times, each at another moment")),
            }
        }
    }
    assert!(snapshots > 60, "{snapshots}: the snapshots were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for entry in SEVERAL {
        assert!(used.contains_key(entry), "{entry:?} does not read several times");
    }
}
