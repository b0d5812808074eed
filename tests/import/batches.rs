//! Importing many sessions at once has the same result as importing them one by one; refused rows and differences are
//! reported.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder};
use studygovernor::engine::NewExperiment;
use studygovernor::entity::kind::ExecutionStatus;
use studygovernor::entity::{
    action, audit_event, callback_execution, cohort, experiment, external_experiment_links, scan, scantype, subject,
    variable,
};
use studygovernor::import::{self, Difference, Intake, ScanKind, Session, Summary};
use studygovernor::study::{Label, VariableValue};

use super::{WORKFLOW, write};
use crate::support::{Backend, Study, ctx, ledger_problems, moment, on_every_database};

on_every_database! {
    e5_many_experiments_begin_as_one_would;
    what_differs_is_reported_and_left_alone;
    a_protocol_has_one_modality;
}

/// The first state has two callbacks.
const WITH_CALLBACKS: &str = "label: c\nstates:\n\
    - {label: r, transitions: [{destination: s}]}\n\
    - {label: s, callbacks: [{label: a, function: sleep}, {label: b, function: sleep, retries: 2}], transitions: [{destination: e}]}\n\
    - {label: e}\n";
/// A variable decides whether a callback runs.
const WITH_CONDITIONS: &str = "label: d\nstates:\n\
    - {label: r, transitions: [{destination: s}]}\n\
    - {label: s, callbacks: [{label: a, function: sleep, condition: 'experiment.variables[\"n\"] % 2 == 0'}], transitions: [{destination: e}]}\n\
    - {label: e}\n";

fn session(number: usize, workflow: &str) -> Session {
    let label = |text: String| Label::parse(&text).unwrap();
    Session {
        place: format!("line {}", number + 2),
        cohort: label(format!("cohort {}", number % 2)),
        // Two experiments of each subject, also across batches.
        subject: label(format!("s{}", number % 600)),
        date_of_birth: Some("1950-02-03".parse().unwrap()),
        experiment: label(format!("e{number}")),
        scandate: moment("2024-01-02T10:00:00"),
        workflow: Some(workflow.to_owned()),
        variables: vec![
            ("n".to_owned(), VariableValue::Int(i64::try_from(number).unwrap())),
            ("site".to_owned(), VariableValue::Str("north".to_owned())),
        ],
        scans: vec![ScanKind { modality: "MR".to_owned(), protocol: "T1w".to_owned() }; 2],
        external_ids: vec![(label("XNAT".to_owned()), format!("X{number}"))],
    }
}

fn intake(sessions: Vec<Session>) -> Intake {
    Intake { sessions, ..Intake::default() }
}

#[expect(clippy::too_many_lines, reason = "one story, or one table of cases")]
async fn e5_many_experiments_begin_as_one_would(study: Study) {
    for workflow in [WORKFLOW, WITH_CALLBACKS, WITH_CONDITIONS] {
        study.load(workflow).await;
    }
    let connection = study.engine.database().reader();
    let all: Vec<Session> = (0..1200)
        .map(|number| {
            session(
                number,
                if number < 1100 {
                    "c"
                } else if number < 1160 {
                    "w"
                } else {
                    "d"
                },
            )
        })
        .collect();
    // Experiments with conditions are created one by one.
    let (plain, conditional) = (intake(all[..1160].to_vec()), intake(all[1160..].to_vec()));
    let planned = write(&study, &plain, true).await;
    assert_eq!(planned, Summary { cohorts: 2, subjects: 600, experiments: 1160, scans: 2320, ..Summary::default() });
    assert_eq!(cohort::Entity::find().count(connection).await.unwrap(), 0, "a dry run keeps nothing");
    let events = audit_event::Entity::find().filter(audit_event::Column::SubjectType.ne("workflow"));
    assert_eq!(events.count(connection).await.unwrap(), 0);
    assert_eq!(write(&study, &plain, false).await, planned);
    let wanted = Summary { experiments: 40, scans: 80, ..Summary::default() };
    for dry_run in [true, false] {
        assert_eq!(write(&study, &conditional, dry_run).await, wanted);
    }
    assert_eq!(write(&study, &intake(all), false).await, Summary { known: 1200, ..Summary::default() });

    let rows = experiment::Entity::find().order_by_asc(experiment::Column::Id).all(connection).await.unwrap();
    let actions = action::Entity::find().all(connection).await.unwrap();
    let executions = callback_execution::Entity::find().all(connection).await.unwrap();
    assert_eq!(ledger_problems(&study.engine).await, Vec::<String>::new());
    // One by one, the result is the same, except for names and numbers.
    for (of, workflow, number) in [(0, "c", 2000), (1100, "w", 2001), (1160, "d", 2002), (1161, "d", 2003)] {
        let one = session(number, workflow);
        let new = NewExperiment {
            subject_id: rows[of].subject_id,
            label: one.experiment.clone(),
            scandate: one.scandate,
            workflow: one.workflow,
            variables: vec![("n".to_owned(), VariableValue::Int(i64::try_from(of).unwrap()))],
        };
        let alone = study.engine.create_experiment(ctx(), &new).await.unwrap();
        let many = rows.iter().find(|row| row.label == format!("e{of}")).unwrap();
        assert_eq!(
            (many.state_id, many.version, many.workflow_id, many.state_since),
            (alone.state_id, alone.version, alone.workflow_id, alone.state_since)
        );
        let of_many: Vec<&action::Model> = actions.iter().filter(|row| row.experiment_id == many.id).collect();
        let of_alone = study.actions(alone.id).await;
        assert_eq!(many.last_action_id, of_many.last().map(|row| row.id));
        let facts = |row: &action::Model| {
            (row.transition_id, row.success, row.start_time, row.end_time, row.user_id, row.origin)
        };
        assert_eq!(of_many.into_iter().map(facts).collect::<Vec<_>>(), of_alone.iter().map(facts).collect::<Vec<_>>());
        let facts = |row: &callback_execution::Model| {
            (
                row.callback_id,
                row.status,
                row.attempt,
                row.max_attempts,
                row.available_at,
                row.relay_at,
                row.queue.clone(),
            )
        };
        let of_many: Vec<_> =
            executions.iter().filter(|row| Some(row.action_id) == many.last_action_id).map(facts).collect();
        let of_alone: Vec<_> = callback_execution::Entity::find()
            .filter(callback_execution::Column::ActionId.eq(alone.last_action_id))
            .order_by_asc(callback_execution::Column::Id)
            .all(connection)
            .await
            .unwrap();
        assert_eq!(of_many, of_alone.iter().map(facts).collect::<Vec<_>>(), "e{of}");
    }
    let open = executions.iter().filter(|row| row.status == ExecutionStatus::Created).count();
    assert_eq!((executions.len(), open), (2200 + 40, 2200 + 20));
    let events = |verb: &str, kind: &str| {
        let of = audit_event::Entity::find().filter(audit_event::Column::Verb.eq(verb));
        of.filter(audit_event::Column::SubjectType.eq(kind))
            .filter(audit_event::Column::SubjectName.not_like("e200_"))
            .count(connection)
    };
    for (verb, kind, wanted) in [
        ("create", "cohort", 2),
        ("create", "subject", 600),
        ("create", "experiment", 1200),
        ("add_scan", "experiment", 1200),
        ("link", "experiment", 1200),
        ("create", "scantype", 1),
        ("create", "external_system", 1),
    ] {
        assert_eq!(events(verb, kind).await.unwrap(), wanted, "{verb} {kind}");
    }
    assert_eq!(
        variable::Entity::find().filter(variable::Column::Label.eq("site")).count(connection).await.unwrap(),
        1200
    );
    assert_eq!(scan::Entity::find().count(connection).await.unwrap(), 2400);
    let link =
        external_experiment_links::Entity::find().filter(external_experiment_links::Column::ExternalId.eq("X1199"));
    let linked = rows.iter().find(|row| row.label == "e1199").unwrap();
    assert_eq!(link.one(connection).await.unwrap().unwrap().experiment_id, linked.id);
}

async fn what_differs_is_reported_and_left_alone(study: Study) {
    study.load(WORKFLOW).await;
    study.load(WITH_CALLBACKS).await;
    let mut old = session(0, "w");
    old.scandate = moment("2024-01-02T10:00:00.123456");
    write(&study, &intake(vec![old.clone(), session(600, "w")]), false).await;
    let mut changed = old.clone();
    changed.date_of_birth = Some("1951-02-03".parse().unwrap());
    changed.scandate = moment("2024-02-02T10:00:00");
    changed.workflow = Some("c".to_owned());
    changed.variables = vec![
        ("n".to_owned(), VariableValue::Str("0".to_owned())),
        ("site".to_owned(), VariableValue::None),
        ("new".to_owned(), VariableValue::Int(1)),
        ("unknown".to_owned(), VariableValue::None),
    ];
    changed.scans = vec![ScanKind { modality: "MR".to_owned(), protocol: "T1w".to_owned() }];
    changed.external_ids = vec![(Label::parse("XNAT").unwrap(), "Y".to_owned())];
    let mut other = session(600, "w");
    other.date_of_birth = changed.date_of_birth;
    let wanted = |summary: &Summary| {
        let told: Vec<String> = summary.differences.iter().map(Difference::to_string).collect();
        assert_eq!(
            told,
            [
                "line 2: s0: date_of_birth: stored value is 1950-02-03, new value is 1951-02-03",
                "line 2: e0 of s0: scan_date: stored value is 2024-01-02T10:00:00.123456, new value is 2024-02-02T10:00:00",
                "line 2: e0 of s0: workflow: stored value is w, new value is c",
                "line 2: e0 of s0: var:n: stored value is 0 (int), new value is 0 (str)",
                "line 2: e0 of s0: var:new: stored value is nothing, new value is 1",
                "line 2: e0 of s0: var:site: stored value is north, new value is nothing",
                "line 2: e0 of s0: scans of T1w: stored value is 2, new value is 1",
                "line 2: e0 of s0: id:XNAT: stored value is X0, new value is Y",
            ]
        );
        assert_eq!((summary.known, summary.experiments), (2, 0));
    };
    let again = intake(vec![changed, other]);
    for dry_run in [true, false, false] {
        wanted(&write(&study, &again, dry_run).await);
    }
    let same = write(&study, &intake(vec![old.clone()]), false).await;
    assert_eq!(same, Summary { known: 1, ..Summary::default() });
    // An archived experiment is neither reported nor changed.
    let connection = study.engine.database().reader();
    let of = subject::Entity::find().one(connection).await.unwrap().unwrap();
    study.engine.archive_subject(ctx(), of.id, "withdrew").await.unwrap();
    assert_eq!(write(&study, &again, false).await, Summary { known: 2, ..Summary::default() });
}

async fn a_protocol_has_one_modality(study: Study) {
    study.load(WORKFLOW).await;
    let scan = |modality: &str| vec![ScanKind { modality: modality.to_owned(), protocol: "Head".to_owned() }];
    let sessions: Vec<Session> = ["CT", "MR", "CT"]
        .into_iter()
        .enumerate()
        .map(|(number, modality)| Session { scans: scan(modality), ..session(number, "w") })
        .collect();
    // Conflicts between sessions are detected before anything is written …
    let found = import::check(&study.engine, &sessions).await.unwrap();
    let told: Vec<String> = found.iter().map(|(index, problem)| format!("{index} {problem}")).collect();
    assert_eq!(
        told,
        ["1 line 3: a scan is MR Head, but this protocol is used with the modality CT in line 2; protocols are unique"]
    );
    // … and if all are written anyway, the valid ones are imported.
    let summary = write(&study, &intake(sessions.clone()), false).await;
    assert_eq!((summary.experiments, summary.failed.len()), (2, 1), "{summary:?}");
    assert_eq!(summary.failed[0].place, "line 3");
    assert!(summary.failed[0].message.contains("'Head' already has the modality CT, not MR"), "{summary:?}");
    let connection = study.engine.database().reader();
    let kinds = scantype::Entity::find().all(connection).await.unwrap();
    assert_eq!(kinds.len(), 1);
    assert_eq!(scan::Entity::find().count(connection).await.unwrap(), 2);
    let found = import::check(&study.engine, &sessions).await.unwrap();
    assert!(found[0].1.message.contains("already stored with the modality CT"), "{found:?}");
}

/// The database refuses a row for a reason that cannot be detected in advance.
#[tokio::test]
async fn a_row_that_the_database_refuses_keeps_no_other_out() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    let refuse = |name: &str, when: &str| {
        format!(
            "CREATE TRIGGER {name} BEFORE INSERT ON experiment WHEN {when} BEGIN SELECT RAISE(ABORT, 'no room for it'); END"
        )
    };
    let connection = study.engine.database().reader();
    connection.execute_unprepared(&refuse("refuse_two", "NEW.label IN ('e7', 'e1005')")).await.unwrap();
    let all = intake((0..1010).map(|number| session(number, "w")).collect());
    let few = intake(all.sessions[..20].to_vec());
    for (intake, dry_run, wanted) in [(&few, true, &["line 9"][..]), (&all, false, &["line 9", "line 1007"])] {
        let summary = write(&study, intake, dry_run).await;
        let failed: Vec<&str> = summary.failed.iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(failed, wanted, "{:?}", summary.stopped);
        assert_eq!(summary.experiments, intake.sessions.len() - wanted.len());
        assert!(summary.failed[0].message.contains("no room for it"), "{:?}", summary.failed);
    }
    assert_eq!(experiment::Entity::find().count(connection).await.unwrap(), 1008);
    connection.execute_unprepared("DROP TRIGGER refuse_two").await.unwrap();
    let again = write(&study, &all, false).await;
    assert_eq!((again.experiments, again.known), (2, 1008));

    // If nothing can be written, the rows are not the reason.
    connection.execute_unprepared(&refuse("refuse_all", "NEW.label > 'f'")).await.unwrap();
    let mut more = intake((2000..3010).map(|number| session(number, "w")).collect());
    for one in more.sessions.iter_mut().skip(1000) {
        one.experiment = Label::parse(&format!("g{}", one.experiment)).unwrap();
    }
    let stopped = write(&study, &more, false).await;
    assert_eq!((stopped.experiments, stopped.failed.len()), (1000, 0));
    assert_eq!(stopped.stopped.unwrap().place, "line 3002");
    assert_eq!(ledger_problems(&study.engine).await, Vec::<String>::new());
}
