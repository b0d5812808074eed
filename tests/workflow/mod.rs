//! Workflow files: checked, loaded, upgraded, drawn.

mod yaml;

use studygovernor::callback::FUNCTIONS;
use studygovernor::workflow::{self, Severity, StateKind, WorkflowError, check, draw, to_dot, upgrade};

use crate::support::{Backend, Study, ctx, on_every_database};

const RECORDED: &str = include_str!("../data/imaging_qc_2024.yaml");
const EXAMPLE: &str = include_str!("../../examples/faces/workflow.yaml");

on_every_database! {
    a_workflow_reads_back_as_it_was_written;
    a_workflow_of_300_states_loads;
    an_upgrade_is_planned_and_then_done;
    an_upgrade_takes_nothing_away_that_the_history_refers_to;
}

async fn a_workflow_reads_back_as_it_was_written(study: Study) {
    for text in [RECORDED, EXAMPLE] {
        let definition = check(text, &FUNCTIONS).definition.unwrap();
        let row = workflow::load(ctx(), study.engine.database(), &definition).await.unwrap();
        let again = workflow::load(ctx(), study.engine.database(), &definition).await;
        assert!(matches!(again, Err(WorkflowError::Exists(_))));
        let connection = study.engine.database().reader();
        assert_eq!(workflow::read_definition(connection, &row).await.unwrap(), definition);
        assert_eq!(workflow::find(connection, &definition.label).await.unwrap(), row);
        assert_eq!(workflow::find(connection, &row.id.to_string()).await.unwrap(), row);
    }
    let newest = workflow::newest(study.engine.database().reader()).await.unwrap().unwrap();
    assert_eq!(newest.label, "faces_quality_control_1");
}

async fn a_workflow_of_300_states_loads(study: Study) {
    let mut text = "label: large\nstates:\n  - {label: root, transitions: [{destination: state_0}]}\n".to_owned();
    for number in 0..299 {
        text.push_str(&format!(
            "  - label: state_{number}\n    callbacks: [{{label: run, function: sleep, callback_arguments: {{seconds: {number}}}}}]\n    \
             transitions:\n      - {{destination: state_{}, condition: \"callbacks['run'].result == 'success'\"}}\n      - destination: end\n",
            (number + 1) % 299
        ));
    }
    text.push_str("  - label: end\n");
    let checked = check(&text, &FUNCTIONS);
    assert_eq!(checked.problems, []);
    let definition = checked.definition.unwrap();
    let row = workflow::load(ctx(), study.engine.database(), &definition).await.unwrap();
    assert_eq!(workflow::read_definition(study.engine.database().reader(), &row).await.unwrap(), definition);
    assert_eq!(draw(&definition).boxes.len(), 301);
}

async fn an_upgrade_is_planned_and_then_done(study: Study) {
    study.load(RECORDED).await;
    let database = study.engine.database();
    let same = check(RECORDED, &FUNCTIONS).definition.unwrap();
    assert!(upgrade::plan(database, &same).await.unwrap().is_empty());
    let changed = RECORDED
        .replace("freetext: All finished", "freetext: Finished")
        .replace("run_timeout: 1440", "run_timeout: 2880\n        retries: 2")
        .replace("      - destination: failed\n  - label: processing", "      - destination: failed\n        condition: \"1 < 2\"\n      - destination: archive\n  - label: processing")
        + "  - label: archive\n    callbacks: [{label: pack, function: command, callback_arguments: {binary: \"true\"}}]\n    transitions: [{destination: done}]\n";
    let definition = check(&changed, &FUNCTIONS).definition.unwrap();
    let plan = upgrade::plan(database, &definition).await.unwrap();
    let wanted = [
        "add state archive",
        "change the text of state done",
        "add callback pack to state archive",
        "change callback pipeline of state processing: run_timeout, retries",
        "add transition manual_qc → archive (always)",
        "add transition archive → done (always)",
        "change transition manual_qc → failed: (always) becomes (if 1 < 2)",
    ];
    assert_eq!(plan.changes, wanted);
    assert_eq!(plan.obstacles, Vec::<String>::new());
    // Planning changes nothing.
    assert_eq!(upgrade::plan(database, &definition).await.unwrap(), plan);
    assert_eq!(upgrade::apply(ctx(), database, &definition).await.unwrap(), plan);
    assert!(upgrade::plan(database, &definition).await.unwrap().is_empty());
    let row = workflow::find(database.reader(), "imaging_qc_2024").await.unwrap();
    assert_eq!(workflow::read_definition(database.reader(), &row).await.unwrap(), definition);
    // And back again: no removed element has been used.
    upgrade::apply(ctx(), database, &same).await.unwrap();
    assert_eq!(workflow::read_definition(database.reader(), &row).await.unwrap(), same);
}

async fn an_upgrade_takes_nothing_away_that_the_history_refers_to(study: Study) {
    study.load(RECORDED).await;
    study.create("session").await;
    let smaller = "
label: imaging_qc_2024
states:
  - {label: start, transitions: [{destination: done}]}
  - {label: done, freetext: New words}
";
    let definition = check(smaller, &FUNCTIONS).definition.unwrap();
    let database = study.engine.database();
    let refused = upgrade::apply(ctx(), database, &definition).await;
    let Err(WorkflowError::InUse(obstacles)) = refused else { panic!("{refused:?}") };
    let wanted = [
        "state check has experiments",
        "callback count_scans of state check has been run",
        "callback notify of state check has been run",
        "transition untracked → check has been taken",
    ];
    assert_eq!(obstacles, wanted);
    let before = check(RECORDED, &FUNCTIONS).definition.unwrap();
    assert!(upgrade::plan(database, &before).await.unwrap().is_empty(), "all or nothing");
    let unknown = check(&smaller.replace("imaging_qc_2024", "other"), &FUNCTIONS).definition.unwrap();
    assert!(matches!(upgrade::apply(ctx(), database, &unknown).await, Err(WorkflowError::Unknown(_))));
}

/// Line, column and message of one error.
type Expected = (u32, u32, &'static str);

#[test]
fn every_problem_has_its_place() {
    let table: &[(&str, &[Expected])] = &[
        ("", &[(1, 1, "the file is empty")]),
        ("12\n", &[(1, 1, "not of type")]),
        (
            "label: \"a\\0b\"\nstates: [{label: a, transitions: [{destination: b}]}, {label: b}]\n",
            &[(1, 8, "null character"), (1, 8, "does not match")],
        ),
        (
            "label: x\nstates:\n  - {label: a, transitions: [{destination: zz}]}\n  - {label: b}\n  - {label: c}\n  - {label: d}\n",
            &[
                (3, 44, "unknown state 'zz'"),
                (4, 5, "must be exactly one root"),
                (5, 5, "must be exactly one root"),
                (6, 5, "must be exactly one root"),
            ],
        ),
        (
            "label: x\nstates:\n  - label: a\n    transitions:\n      - destination: b\n        condition: >\n          1 ==\n          == 2\n      - {destination: b, condition: \"1 == == 2\"}\n  - label: b\n",
            &[(3, 5, "exactly one transition"), (7, 11, "condition"), (9, 43, "condition")],
        ),
        ("label: [x\nstates: []\n", &[(2, 7, "YAML")]),
        ("states: []\n", &[(1, 1, "\"label\" is a required property"), (1, 9, "states: ")]),
        (
            "label: x\nstates:\n  - {label: a, transitions: [{destination: b}]}\n  - {label: b, transitoins: []}\n",
            &[(4, 5, "'transitoins' was unexpected")],
        ),
        (
            "label: x\nstates:\n  - label: a\n    transitions:\n      - destination: nowhere\n  - label: b\n  - label: b\n",
            &[(5, 22, "unknown state 'nowhere'"), (7, 12, "state 'b' already exists in line 6")],
        ),
        (
            "label: x\nstates:\n  - label: a\n    transitions:\n      - {destination: abd}\n  - label: abc\n    callbacks:\n      - {label: c, function: slep}\n",
            &[(5, 23, "did you mean 'abc'?"), (8, 30, "did you mean 'sleep'?")],
        ),
        (
            "label: x\nstates:\n  - label: a\n    transitions:\n      - destination: b\n        condition: 1 +* 2\n  - label: b\n",
            &[(6, 23, "condition: ")],
        ),
        (
            "label: x\nstates:\n  - {label: a, transitions: [{destination: b}]}\n  - label: b\n    callbacks:\n      - label: c\n        function: sleep\n        condition: x = 1\n        run_timeout: -1\n        callback_arguments: '[1, 2]'\n",
            &[(8, 22, "condition"), (9, 22, "run_timeout: -1"), (10, 29, "not a mapping")],
        ),
        (
            "label: x\nstates:\n  - {label: a, transitions: [{destination: b}]}\n  - label: b\n    callbacks:\n      - {label: c, function: sleep}\n      - {label: c, function: sleep}\n",
            &[(7, 17, "callback 'c' already exists in line 6")],
        ),
        (
            "label: x\nstates:\n  - {label: a, transitions: [{destination: b}]}\n  - label: b\n    callbacks:\n      - {label: c, function: sleep, callback_arguments: {queue: two words}}\n      - {label: d, function: sleep, callback_arguments: '{queue: \"\"}'}\n      - {label: e, function: sleep, callback_arguments: {queue: [gpu]}}\n      - {label: f, function: sleep, callback_arguments: {queue: gpu-2}}\n",
            &[
                (6, 65, "queue is not a valid queue name"),
                (7, 57, "queue is not a valid queue name"),
                (8, 65, "queue is not a valid queue name"),
            ],
        ),
        (&TOO_LONG, &[(1, 8, "longer than 100")]),
    ];
    for (text, expected) in table {
        let checked = check(text, &FUNCTIONS);
        assert!(checked.definition.is_none(), "{text}");
        let errors: Vec<_> = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        for (line, column, words) in *expected {
            let found = errors.iter().any(|error| {
                (error.place.line, error.place.column) == (*line, *column) && error.message.contains(words)
            });
            assert!(found, "{text}\nwanted {line}:{column} {words}\nfound {errors:#?}");
        }
        assert_eq!(errors.len(), expected.len(), "{text}\n{errors:#?}");
    }
}

static TOO_LONG: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    format!(
        "label: {}\nstates:\n  - {{label: a, transitions: [{{destination: b}}]}}\n  - {{label: b}}\n",
        "x".repeat(101)
    )
});

/// Each of these took minutes when a message was created, or a name compared, for each pair of states.
#[test]
fn tens_of_thousands_of_errors_are_counted_and_the_first_are_listed() {
    let states = |state: fn(usize) -> String| (0..20_000).map(state).collect::<String>();
    let nowhere = states(|at| format!("- {{label: s{at}, transitions: [{{destination: nowhere{at}}}]}}\n"));
    let roots = states(|at| format!("- {{label: s{at}}}\n"));
    let mapped = states(|at| format!("      v{at}: {at}\n"));
    let mapped = format!(
        "- label: a\n  callbacks:\n  - label: c\n    function: sleep\n    variable_map:\n{mapped}  transitions: [{{destination: b}}]\n- label: b\n"
    );
    let one_line: String = (0..12_000)
        .map(|at| format!("{{label: s{at}, transitions: [{{destination: s{}, condition: \"1 +* 2\"}}]}},", at + 1))
        .collect();
    let began = std::time::Instant::now();
    for (text, least) in [
        (format!("label: x\nstates:\n{nowhere}"), 20_000),
        (format!("label: x\nstates:\n{roots}"), 19_999),
        (format!("label: x\nstates:\n{mapped}"), 20_000),
        (format!("label: x\nstates: [{one_line}{{label: s12000}}]\n"), 12_000),
    ] {
        let checked = check(&text, &FUNCTIONS);
        assert!(checked.definition.is_none() && checked.errors >= least, "{}", checked.errors);
        let listed = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        assert_eq!(listed, 201);
        let last = checked.problems.iter().rfind(|problem| problem.severity == Severity::Error).unwrap();
        assert_eq!(last.message, format!("and {} more errors", checked.errors - 200));
    }
    assert!(began.elapsed() < std::time::Duration::from_mins(2), "{:?}", began.elapsed());
}

#[test]
fn conditions_that_the_sandbox_does_not_know_are_warnings_with_their_place() {
    let text = "
label: odd
states:
  - {label: a, transitions: [{destination: b}]}
  - label: b
    callbacks: [{label: c, function: sleep, condition: \"math.floor(1.5) == 1\"}]
    transitions:
      - {destination: c, condition: \"datetime.datetime.utcnow() - experiment.scandate > datetime.timedelta(days=30)\"}
      - {destination: c, condition: type(experiment.label) == str}
      - destination: c
        condition: |
          (experiment.label == 'x' and
            experiment.id == 3)
      - {destination: c, condition: 'experiment.subject.label == ''x'' '}
  - {label: c}
";
    let checked = check(text, &FUNCTIONS);
    assert!(checked.definition.is_some());
    let told: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
    for words in [
        "line 6, column 57: warning: condition: the module 'math' is not available",
        "line 6, column 62: warning: condition: '.floor' is not available",
        "line 13, column 24: warning: condition: 'experiment' has no 'id' in a condition",
        // In a text with doubled quotes, the position is the beginning of the text.
        "line 14, column 37: warning: condition: 'experiment' has no 'subject' in a condition",
    ] {
        assert!(told.iter().any(|line| line.starts_with(words)), "{words}\n{told:#?}");
    }
    assert_eq!(told.len(), 4, "{told:#?}");
}

#[test]
fn a_file_of_another_kind_is_refused_with_a_true_sentence() {
    let said = |bytes: &[u8]| {
        let checked = workflow::check_file(bytes, &FUNCTIONS);
        assert_eq!((checked.errors, checked.problems.len()), (1, 1), "{checked:?}");
        checked.problems[0].to_string()
    };
    assert!(said(b"").contains("line 1, column 1: error: the file is empty"));
    assert!(said(b"\xef\xbb\xbf\n").contains("the file is empty"));
    assert!(said(b"# only a remark\n").contains("the file is empty: it contains only comments, or no value"));
    assert!(
        said(b"---\nlabel: a\n---\nlabel: b\n")
            .contains("line 3, column 1: error: invalid YAML: the text has more than one document")
    );
    assert!(said(b"label: caf\xe9\n").contains("line 1, column 11: error: the byte 0xe9 is not UTF-8"));
    let sound = "label: x\nstates: [{label: a, transitions: [{destination: 08}]}, {label: 08}]\n";
    let utf16: Vec<u8> = format!("\u{feff}{sound}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let checked = workflow::check_file(&utf16, &FUNCTIONS);
    assert_eq!(checked.definition.unwrap().states[1].label, "08");
    assert_eq!(checked.problems, []);
}

#[test]
fn what_is_odd_is_a_warning() {
    let text = "
label: odd
external_systems: []
scantypes: []
colour: blue
states:
  - label: a
    transitions: [{destination: b}]
    callbacks: [{label: never, function: sleep}]
  - {label: b, freetext: one, freetext: two, transitions: [{destination: end}, {destination: trap}]}
  - {label: trap, transitions: [{destination: trap}]}
  - {label: island, transitions: [{destination: island}]}
  - {label: end, callbacks: [{label: last, function: sleep}]}
";
    let checked = check(text, &FUNCTIONS);
    assert_eq!(checked.definition.unwrap().states[1].freetext.as_deref(), Some("two"));
    let told: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
    for words in [
        "line 3, column 1: warning: 'external_systems' is no longer part",
        "line 4, column 1: warning: 'scantypes' is no longer part",
        "line 5, column 1: warning: 'colour' is not used",
        "line 7, column 5: warning: callbacks of the root state 'a' never run",
        "line 10, column 31: warning: 'freetext' is given twice",
        "warning: no final state can be reached from state 'trap'",
        "warning: state 'island' cannot be reached",
        "warning: state 'end' has callbacks but no outgoing transition",
    ] {
        assert!(told.iter().any(|line| line.contains(words)), "{words}\n{told:#?}");
    }
    assert_eq!(told.len(), 8, "{told:#?}");
}

#[test]
fn arguments_may_be_a_text_of_yaml_and_limits_have_defaults() {
    let text = "
label: x
states:
  - {label: a, transitions: [{destination: b}]}
  - label: b
    callbacks:
      - {label: text, function: sleep, callback_arguments: \"{seconds: 1}\"}
      - {label: null_limits, function: sleep, run_timeout: null, wait_timeout: null, condition: true}
    transitions: [{destination: c, condition: '  '}]
  - {label: c}
";
    let definition = check(text, &FUNCTIONS).definition.unwrap();
    let [given, null] = &definition.states[1].callbacks[..] else { panic!() };
    assert_eq!(
        (given.callback_arguments.as_str(), given.run_timeout, given.wait_timeout),
        ("{seconds: 1}", Some(60), Some(0))
    );
    assert_eq!((null.run_timeout, null.wait_timeout, null.condition.as_deref()), (None, None, Some("True")));
    assert_eq!(definition.states[1].transitions[0].condition, None);
}

#[test]
fn a_workflow_can_be_drawn() {
    let definition = check(RECORDED, &FUNCTIONS).definition.unwrap();
    let dot = to_dot(&definition);
    assert!(dot.starts_with("digraph \"imaging_qc_2024\" {"));
    assert_eq!(dot.matches(" -> ").count(), 9);
    let drawing = draw(&definition);
    assert_eq!((drawing.boxes.len(), drawing.arrows.len()), (6, 9));
    let kinds: Vec<StateKind> = drawing.boxes.iter().map(|one| one.kind).collect();
    let automatic = StateKind::Automatic;
    assert_eq!(kinds, [StateKind::Root, automatic, StateKind::Manual, automatic, StateKind::End, StateKind::Manual]);
    for one in &drawing.boxes {
        assert!(one.x - one.width / 2.0 >= 0.0 && one.x + one.width / 2.0 <= drawing.width);
        assert!(one.y - one.height / 2.0 >= 0.0 && one.y + one.height / 2.0 <= drawing.height);
        let overlaps = |other: &&workflow::Box| {
            (one.x - other.x).abs() < f64::midpoint(one.width, other.width)
                && (one.y - other.y).abs() < f64::midpoint(one.height, other.height)
        };
        assert_eq!(drawing.boxes.iter().filter(overlaps).count(), 1, "{} lies on another box", one.label);
    }
}

#[tokio::test]
async fn the_example_study_has_a_sound_workflow() {
    let study = Study::new(Backend::Sqlite).await;
    assert_eq!(check(EXAMPLE, &FUNCTIONS).problems, []);
    study.load(EXAMPLE).await;
}
