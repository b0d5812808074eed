//! Arguments, results and failures of each callback function.

use std::path::Path;

use serde_json::json;
use studygovernor::entity::kind::ExecutionResult;
use studygovernor::queue;

use super::{is_gone, run, running_study, values};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn sleep_sleeps_and_hands_back_the_rest() {
    let study = running_study().await;
    let ended = run(&study, "function: sleep, callback_arguments: {seconds: 0, colour: blue}").await;
    let wanted = json!({"sleep_duration": 0, "extra_kwargs": {"colour": "blue"}, "__success__": true});
    assert_eq!(values(&ended), wanted);
    assert_eq!(study.state(1).await, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_runs_a_program_with_substitutions_and_values() {
    let study = running_study().await;
    let script = r#"echo "args: $*"; echo oops >&2; cat; printf '__VALUES__ = {"n": 3}\n'; echo "label $STUDYGOV_EXPERIMENT_LABEL""#;
    let ended = run(
        &study,
        &format!(
            "function: command, callback_arguments: {{binary: sh, args: [-c, {}, name, $EXPERIMENT, $SUBJECT, $CALLBACK_EXECUTION, $CALLBACK_SECRET, 5, true], kwargs: {{--key: $EXPERIMENT}}}}",
            json!(script)
        ),
    )
    .await;
    let values = values(&ended);
    assert_eq!(values["return_code"], 0, "{values}");
    assert_eq!(values["values"], json!({"n": 3}));
    assert_eq!(values["stderr"], "oops\n");
    let stdout = values["stdout"].as_str().unwrap();
    let api = "http://test/prefix/api/v2";
    let arguments = format!(
        "args: {api}/experiments/1 {api}/subjects/1 {api}/callback_executions/1 *** 5 True --key {api}/experiments/1\n"
    );
    assert!(stdout.starts_with(&arguments), "{stdout}");
    assert!(stdout.contains("label session"), "{stdout}");
    assert!(ended.run_log.unwrap().contains("oops"));
    // Q2: the secret was passed to the program and appears nowhere else.
    let secret = queue::execution_secret("key", 1, 1);
    let row = format!("{:?}", study.execution(1).await);
    assert!(!row.contains(&secret));
}

/// Q2: as a key in the values, broken into lines, and escaped.
#[tokio::test(flavor = "multi_thread")]
async fn q2_the_secret_is_taken_out_however_a_program_shows_it() {
    let study = running_study().await;
    let script = r#"printf '__VALUES__ = {"%s": {"x%s": ["%s"]}, "n": 1}\n' $1 $1 $1; echo $1 | fold -w 9; echo $1 | fold -w 5 | tr '\n' ' '
        echo $1 | sed 's/./&\n/20'; printf '"%s\\n%s"\n' $(echo $1 | cut -c-10) $(echo $1 | cut -c11-); echo $1 | od -An -tx1 | tr -d '\n' | sed 's/ /\\u00/g'"#;
    let callback = format!(
        "function: command, variable_map: {{kept: /values}}, callback_arguments: {{binary: sh, args: [-c, {}, sh, $CALLBACK_SECRET]}}",
        json!(script)
    );
    let ended = run(&study, &callback).await;
    let shown = values(&ended);
    assert_eq!(shown["values"], json!({ "***": { "x***": ["***"] }, "n": 1 }), "{shown}");
    let secret = queue::execution_secret("key", 1, 1);
    let codes: String = secret.bytes().map(|byte| format!("\\u00{byte:02x}")).collect();
    let row = format!("{:?} {}", ended, ended.run_log.as_deref().unwrap()).replace("\\n", "").replace(['\n', ' '], "");
    for part in [&secret[..20], &secret[12..], &codes[..60]] {
        assert!(!row.contains(part) && !row.contains(&part.replace('\\', "\\\\")), "{part} in {row}");
    }
}

/// Values that Python's `json` writes although they are not valid JSON.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_python_writes_are_kept() {
    let study = running_study().await;
    let line = r#"{"n": 3, "snr": NaN, "most": [Infinity, -Infinity], "half": "\ud800", "uid": 123456789012345678901234567890}"#;
    let callback = format!(
        "function: command, variable_map: {{n: /values/n, snr: /values/snr}}, callback_arguments: {{binary: echo, args: [{}]}}",
        json!(format!("__VALUES__ = {line}"))
    );
    let ended = run(&study, &callback).await;
    let kept = &values(&ended)["values"];
    let wanted = json!({ "n": 3, "snr": null, "most": [null, null], "half": "\u{fffd}", "uid": kept["uid"] });
    assert_eq!(*kept, wanted, "{ended:?}");
    assert_eq!(kept["uid"].to_string(), "123456789012345678901234567890");
    assert_eq!(ended.result, ExecutionResult::Success);
    let log = ended.run_log.unwrap();
    assert!(log.contains("__VALUES__: NaN is stored as null") && log.contains("-Infinity is stored as null"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_is_a_failed_run_with_the_reason() {
    for (callback, result, words) in [
        ("function: command, callback_arguments: {binary: no-such-program}", "failed", "cannot run no-such-program"),
        ("function: command, callback_arguments: {binary: \"false\"}", "failed", "return code 1"),
        ("function: command, callback_arguments: {binary: \"false\", expected_return_code: 1}", "success", ""),
        ("function: command, callback_arguments: {binary: \"false\", expected_return_code: [0, 1]}", "success", ""),
        ("function: command, callback_arguments: {binary: \"false\", expected_return_code: null}", "success", ""),
        ("function: command, callback_arguments: {binary: sh, args: [-c, \"kill -9 $$\"]}", "failed", "return code -9"),
        ("function: command, callback_arguments: {args: [x]}", "failed", "missing field `binary`"),
        (
            "function: command, callback_arguments: {binary: echo, args: [$XNAT]}",
            "failed",
            "unknown external system 'XNAT'",
        ),
        (
            "function: command, callback_arguments: {binary: echo, args: [\"__VALUES__ = {\"]}",
            "failed",
            "not valid JSON on one line",
        ),
        (
            "function: command, callback_arguments: {binary: sh, args: [-c, \"printf '__VALUES__ = '; head -c 1048577 /dev/zero | tr '\\\\0' 1\"]}",
            "failed",
            "is longer than 1 MiB",
        ),
        (
            "function: external_program, callback_arguments: {binary: windows.sh}",
            "failed",
            "it has Windows line endings",
        ),
        (
            "function: external_program, callback_arguments: {binary: lost.sh}",
            "failed",
            "/no/such/sh, which does not exist on this",
        ),
        ("function: external_program, callback_arguments: {binary: plain.sh}", "failed", "is not executable"),
        (
            "function: external_program, callback_arguments: {binary: bare.sh}",
            "failed",
            "does not specify an interpreter",
        ),
        ("function: sleep, callback_arguments: {seconds: long}", "failed", "'long' is not a number"),
        (
            "function: external_program, callback_arguments: {binary: ../outside}",
            "failed",
            "directly in the project's bin",
        ),
        ("function: external_program, callback_arguments: {binary: absent.sh}", "failed", "cannot find"),
        ("function: castor, callback_arguments: {}", "failed", "missing field `field_files`"),
    ] {
        let study = running_study().await;
        let bin = study.home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        write_script(&bin.join("windows.sh"), "#!/bin/sh\r\necho hi\r\n");
        write_script(&bin.join("lost.sh"), "#!/no/such/sh\necho hi\n");
        write_script(&bin.join("bare.sh"), "echo hi\n");
        std::fs::write(bin.join("plain.sh"), "#!/bin/sh\necho hi\n").unwrap();
        let ended = run(&study, callback).await;
        assert_eq!(ended.result.to_string(), result, "{callback}: {ended:?}");
        let values = values(&ended);
        assert_eq!(values["__success__"], result == "success");
        assert!(values["__exception__"].as_str().unwrap_or("").contains(words), "{callback}: {values}");
        assert_eq!(study.state(1).await, if result == "success" { "good" } else { "bad" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_values_are_found_in_output_that_is_too_long_to_keep() {
    let study = running_study().await;
    let noise = "head -c 1500000 /dev/zero | tr '\\0' x; echo";
    let script = format!("{noise}; echo '__VALUES__ = {{\"n\": 5}}'; {noise}");
    let ended =
        run(&study, &format!("function: command, callback_arguments: {{binary: sh, args: [-c, {}]}}", json!(script)))
            .await;
    let values = values(&ended);
    assert_eq!(values["values"], json!({"n": 5}));
    assert!(values["stdout"].as_str().unwrap().contains("bytes omitted"));
    assert!(ended.run_log.unwrap().len() < 1_100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_what_a_program_leaves_in_the_background_is_not_waited_for() {
    let study = running_study().await;
    let ended =
        run(&study, "function: command, callback_arguments: {binary: sh, args: [-c, \"sleep 1000 & echo $!\"]}").await;
    assert_eq!(ended.result, ExecutionResult::Success);
    let left: i32 = values(&ended)["stdout"].as_str().unwrap().trim().parse().unwrap();
    eventually("it to be gone", async || is_gone(left).then_some(())).await;
    assert!(ended.run_log.unwrap().contains("a process that it started"));
}

#[tokio::test(flavor = "multi_thread")]
async fn external_program_runs_what_is_in_the_projects_bin() {
    let study = running_study().await;
    let bin = study.home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    write_script(&bin.join("hello.sh"), "#!/bin/sh\necho \"hello $1\"\n");
    let ended =
        run(&study, "function: external_program, callback_arguments: {binary: hello.sh, args: [world], unknown: 1}")
            .await;
    assert_eq!(values(&ended)["stdout"], "hello world\n");
    assert!(ended.run_log.unwrap().contains("unknown argument unknown is ignored"));
}

fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Unquoted arguments reach the program as PyYAML would read them.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_numbers_as_pyyaml_reads_them() {
    let study = running_study().await;
    let arguments = "binary: echo, args: [08, 019, 1e3, 12e5, 0o17, 010, 0x1F, 1_000, 12:30, 1.50, 12345678901234567890123, 2024-01-01, y], kwargs: {--ses: 09}";
    let ended = run(&study, &format!("function: command, callback_arguments: {{{arguments}}}")).await;
    let wanted = "08 019 1e3 12e5 0o17 8 31 1000 750 1.5 12345678901234567890123 2024-01-01 y --ses 09\n";
    assert_eq!(values(&ended)["stdout"], wanted);
}
