//! The targets of the Makefile: each has its line of help, and `make watch` checks again after a change.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::eventually;

#[test]
fn each_target_of_make_has_its_line_of_help() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("Makefile")).unwrap();
    let targets = text.lines().filter_map(|line| line.strip_prefix(".PHONY: "));
    let targets: BTreeSet<&str> = targets.flat_map(str::split_whitespace).collect();
    assert!(targets.len() > 12);
    let output = Command::new("make").arg("help").current_dir(root).output().expect("make is installed");
    let help = String::from_utf8(output.stdout).unwrap();
    let listed: BTreeSet<&str> =
        help.lines().filter_map(|line| line.strip_prefix("make ")?.split_whitespace().next()).collect();
    assert_eq!(listed, targets, "{help}");
}

#[tokio::test]
async fn make_watch_checks_again_after_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in [".ci", "src", "bin"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/watch"), path(".ci/watch")).unwrap();
    std::fs::write(path("src/lib.rs"), "").unwrap();
    // A check that fails the first time; no tool that watches is found.
    let cargo = "#!/bin/sh\necho \"$*\" >> calls\n[ \"$(wc -l < calls)\" != 1 ]\n";
    std::fs::write(path("bin/cargo"), cargo).unwrap();
    std::fs::set_permissions(path("bin/cargo"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let tools = format!("{}:/usr/bin:/bin", path("bin").display());
    let mut watch = Command::new("bash")
        .arg(path(".ci/watch"))
        .env("PATH", tools)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for count in 1..=3 {
        eventually("a check", async || {
            let calls = std::fs::read_to_string(path("calls")).unwrap_or_default();
            (calls.lines().count() >= count).then_some(())
        })
        .await;
        // File systems may count time in steps of some milliseconds: the change is to be later than the check.
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::fs::write(path("src/lib.rs"), format!("// {count}\n")).unwrap();
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(std::fs::read_to_string(path("calls")).unwrap().lines().all(|call| call == "check --workspace --locked"));
}
