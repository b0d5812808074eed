//! Crates that are in `Cargo.lock` but must never be compiled.

use std::collections::BTreeSet;
use std::process::Command;

/// Other targets that the program may be built for.
const OTHER_TARGETS: [&str; 4] =
    ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-unknown-linux-musl", "aarch64-apple-darwin"];

/// The names of all crates that are compiled for a target (`None`: this machine), including those of build scripts and
/// tests. Returns `None` if cargo would have to download crates that only that target needs.
fn crates(target: Option<&str>) -> Option<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--workspace", "--locked", "--offline", "--edges", "normal,build,dev", "--all-features"])
        .args(["--prefix", "none", "--format", "{p}"])
        .args(target.into_iter().flat_map(|target| ["--target", target]))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if target.is_some() && error.contains("offline") {
        return None;
    }
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// `atomic-polyfill` has no maintainer. `heapless` 0.7 needs it only on processors without compare-and-swap: docs/decisions/0002.
#[test]
fn a_crate_without_a_maintainer_is_never_compiled() {
    let own = crates(None).unwrap();
    let others = OTHER_TARGETS.into_iter().filter_map(|target| crates(Some(target)));
    for crates in others.chain([own]) {
        assert!(crates.contains("heapless") && crates.contains("studygovernor"), "{crates:?}");
        assert!(!crates.contains("atomic-polyfill"), "{crates:?}");
    }
}
