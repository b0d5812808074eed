//! A context is created at the edges, and sees more than its caller only where the source states that by name.

use std::path::Path;

use super::files;

/// Functions that create a context that sees more than its caller, or has no caller, and the files that may use them.
const WAYS: &[(&str, &[&str])] = &[
    ("Context::request(", &["src/http/server.rs"]),
    ("Context::command_line(", &["src/cli/mod.rs"]),
    (
        "Context::system(",
        &[
            "src/http/metrics.rs",
            "src/http/queues.rs",
            "src/project/keeper.rs",
            "src/worker/local.rs",
            "src/worker/service.rs",
        ],
    ),
    // The secret of an attempt was shown: by workers, and in reports of other programs.
    (".seeing_everything()", &["src/api/history.rs", "src/api/v2/worker.rs"]),
];

/// Task-local values that are not passed on; none of them identifies the user: whether a page refreshes automatically,
/// a session error, and the number of commits.
const TASK_LOCAL: &[&str] = &["src/http/session.rs", "src/database/counted.rs"];

#[test]
fn a_context_is_made_at_the_edges() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let mut used = Vec::new();
    for (_, path, text) in files() {
        let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (way, places) in WAYS {
            let count = code.matches(way).count();
            if count > 0 && path != "src/context.rs" {
                used.push((*way, path.clone()));
                if !places.contains(&path.as_str()) {
                    wrong.push(format!("{path}: {way}"));
                }
            }
        }
        if code.contains("task_local!") && !TASK_LOCAL.contains(&path.as_str()) {
            wrong.push(format!("{path}: task_local!"));
        }
        if code.contains("Default for Context")
            || path == "src/context.rs" && code.contains("Default)]\npub struct Context")
        {
            wrong.push(format!("{path}: a context that comes from nowhere"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (way, places) in WAYS {
        for place in *places {
            assert!(used.iter().any(|one| one.0 == *way && one.1 == *place), "{place} has no {way} any longer");
        }
    }
}
