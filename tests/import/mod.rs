//! Import of data sets and tables.

mod batches;
mod data_sets;
mod tables;

use std::path::{Path, PathBuf};

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use studygovernor::entity::{experiment, external_experiment_links, external_system, scan, scantype, subject};
use studygovernor::import::{self, Intake, Summary, bids, table};
use studygovernor::study::Label;
use studygovernor::study::variable::{VariableValue, variables_of};

use crate::support::{Backend, Study, ctx, moment, on_every_database};

const WORKFLOW: &str = "{label: w, states: [{label: r, transitions: [{destination: s}]}, {label: s, transitions: [{destination: e}]}, {label: e}]}";

on_every_database! {
    the_faces_come_in_once;
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read_bids(folder: &Path) -> Intake {
    let options = bids::Options {
        cohort: Label::parse("cohort").unwrap(),
        workflow: None,
        date_of_birth_default: None,
        scan_date_default: None,
    };
    bids::read(folder, &options).unwrap()
}

async fn write(study: &Study, intake: &Intake, dry_run: bool) -> Summary {
    import::write(ctx(), &study.engine, &intake.sessions, dry_run, |_| {}).await.unwrap()
}

async fn the_faces_come_in_once(study: Study) {
    study.load(WORKFLOW).await;
    let intake = read_bids(&folder("examples/faces/ds000117"));
    assert_eq!(intake.problems, []);
    assert!(intake.notes.iter().any(|note| note.contains("sub-emptyroom")), "{:?}", intake.notes);
    assert!(intake.notes.iter().any(|note| note.starts_with("16 dates of birth: 1 January")), "{:?}", intake.notes);
    assert!(intake.notes.iter().any(|note| note.starts_with("16 scan dates: the earliest date")), "{:?}", intake.notes);
    let planned = write(&study, &intake, true).await;
    assert_eq!(
        planned,
        Summary { cohorts: 1, subjects: 16, experiments: 32, scans: planned.scans, ..Summary::default() }
    );
    let connection = study.engine.database().reader();
    assert!(experiment::Entity::find().all(connection).await.unwrap().is_empty(), "a dry run writes nothing");

    assert_eq!(write(&study, &intake, false).await, planned);
    assert_eq!(write(&study, &intake, true).await, Summary { known: 32, ..Summary::default() });
    assert_eq!(write(&study, &intake, false).await, Summary { known: 32, ..Summary::default() });
    assert_eq!(scan::Entity::find().all(connection).await.unwrap().len(), planned.scans);

    let subjects = subject::Entity::find().all(connection).await.unwrap();
    let first = subjects.iter().find(|row| row.label == "sub-01").unwrap();
    assert_eq!(first.date_of_birth, Some("1978-01-01".parse().unwrap()));
    let experiments = experiment::Entity::find().all(connection).await.unwrap();
    let meg = experiments.iter().find(|row| row.label == "sub-01_ses-meg").unwrap();
    assert_eq!(meg.scandate, moment("2009-04-09T12:04:14"));
    let variables = variables_of(ctx(), connection, meg.id).await.unwrap();
    let wanted = [
        ("age", VariableValue::Int(31)),
        ("first_ses", VariableValue::Str("meg".into())),
        ("sex", VariableValue::Str("M".into())),
    ];
    assert_eq!(variables, wanted.map(|(label, value)| (label.to_owned(), value)).to_vec());
    let kinds = scantype::Entity::find().all(connection).await.unwrap();
    let mut kinds: Vec<(&str, &str)> = kinds.iter().map(|row| (row.modality.as_str(), row.protocol.as_str())).collect();
    kinds.sort_unstable();
    let wanted = [
        ("MEG", "meg_task-facerecognition"),
        ("MR", "FLASH"),
        ("MR", "T1w_acq-mprage"),
        ("MR", "bold_task-facerecognition"),
        ("MR", "dwi"),
        ("MR", "magnitude1"),
        ("MR", "magnitude2"),
        ("MR", "phasediff"),
    ];
    assert_eq!(kinds, wanted);
}

#[tokio::test]
async fn e10_what_was_archived_is_known_to_the_dry_run_too_and_stays_archived() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    let intake = read_bids(&folder("tests/data/bids-synthetic"));
    write(&study, &intake, false).await;
    let connection = study.engine.database().reader();
    let subjects = subject::Entity::find().all(connection).await.unwrap();
    let id = |label: &str| subjects.iter().find(|row| row.label == label).unwrap().id;
    study.engine.archive_subject(ctx(), id("sub-01"), "withdrew").await.unwrap();
    let of_another = experiment::Entity::find().filter(experiment::Column::SubjectId.eq(id("sub-02")));
    let mistake = of_another.one(connection).await.unwrap().unwrap();
    study.engine.archive_experiment(ctx(), mistake.id, "wrong subject").await.unwrap();
    for dry_run in [true, false] {
        assert_eq!(write(&study, &intake, dry_run).await, Summary { known: 10, ..Summary::default() });
    }
    assert_eq!(subject::Entity::find().all(connection).await.unwrap().len(), 5);
    assert_eq!(experiment::Entity::find().all(connection).await.unwrap().len(), 10);
}

#[tokio::test]
async fn the_synthetic_set_comes_in_with_the_columns_of_its_sessions() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    let intake = read_bids(&folder("tests/data/bids-synthetic"));
    assert_eq!(intake.problems, []);
    let summary = write(&study, &intake, false).await;
    assert_eq!(summary, Summary { cohorts: 1, subjects: 5, experiments: 10, scans: 40, ..Summary::default() });
    let connection = study.engine.database().reader();
    let experiments = experiment::Entity::find().all(connection).await.unwrap();
    let first = experiments.iter().find(|row| row.label == "sub-01_ses-01").unwrap();
    assert_eq!(first.scandate, moment("1880-01-10T05:17:54"));
    let variables = variables_of(ctx(), connection, first.id).await.unwrap();
    assert!(variables.contains(&("systolic_blood_pressure".to_owned(), VariableValue::Int(112))), "{variables:?}");
}

#[test]
fn what_a_data_set_does_not_say_is_a_problem_or_a_stated_default() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("sub-1/anat")).unwrap();
    std::fs::write(home.path().join("sub-1/anat/sub-1_T1w.nii"), "").unwrap();
    let intake = read_bids(home.path());
    assert!(intake.sessions.is_empty());
    assert!(intake.problems[0].message.contains("--scan-date-default"), "{:?}", intake.problems);
    let mut options = bids::Options {
        cohort: Label::parse("c").unwrap(),
        workflow: None,
        date_of_birth_default: None,
        scan_date_default: Some(moment("2020-05-05T00:00:00")),
    };
    let intake = bids::read(home.path(), &options).unwrap();
    assert!(intake.problems[0].message.contains("--date-of-birth-default"), "{:?}", intake.problems);
    options.date_of_birth_default = Some("1990-01-01".parse().unwrap());
    let intake = bids::read(home.path(), &options).unwrap();
    let [session] = &intake.sessions[..] else { panic!("{intake:?}") };
    assert_eq!((session.experiment.as_str(), session.scans.len()), ("sub-1", 1));
    assert_eq!(intake.notes.len(), 2, "{:?}", intake.notes);
    assert!(bids::read(&home.path().join("sub-1"), &options).is_err());
    assert!(bids::read(&home.path().join("absent"), &options).is_err());
}

fn read_table(text: &str, cohort: Option<&str>) -> Result<Intake, import::SourceError> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("table.csv");
    std::fs::write(&file, text).unwrap();
    let options = table::Options {
        cohort: cohort.map(|label| Label::parse(label).unwrap()),
        workflow: None,
        date_of_birth_default: None,
        delimiter: None,
    };
    table::read(&file, &options)
}

#[tokio::test]
async fn a_table_comes_in_with_variables_and_ids() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    let text = "subject;date_of_birth;experiment;scan_date;var:age;var:site;id:XNAT;colour\n\
                s1;1950-02-03;s1_v1;2024-01-02T10:30:00;74;north;XNAT_E1;red\n\
                s1;1950-02-03;s1_v2;2024-06-02;;south;;blue\n\n\
                \"s;2\";1960-01-01;s2_v1;2024-01-03 09:00;64;;XNAT_E3;\n";
    let intake = read_table(text, Some("visits")).unwrap();
    assert_eq!(intake.problems, []);
    assert!(intake.notes[0].contains("'colour'"), "{:?}", intake.notes);
    let summary = write(&study, &intake, false).await;
    assert_eq!(summary, Summary { cohorts: 1, subjects: 2, experiments: 3, scans: 0, ..Summary::default() });
    assert_eq!(write(&study, &intake, false).await.known, 3);
    let connection = study.engine.database().reader();
    let links = external_experiment_links::Entity::find().all(connection).await.unwrap();
    assert_eq!(links.iter().map(|link| link.external_id.as_str()).collect::<Vec<_>>(), ["XNAT_E1", "XNAT_E3"]);
    assert_eq!(external_system::Entity::find().all(connection).await.unwrap()[0].system_name, "XNAT");
    let second = variables_of(ctx(), connection, 2).await.unwrap();
    assert_eq!(second[0], ("age".to_owned(), VariableValue::None));
}

#[test]
fn every_bad_row_is_told_with_its_line() {
    let text = "subject,date_of_birth,experiment,scan_date\n\
                s1,1950-02-03,a,2024-01-02\n\
                ,1950-02-03,b,2024-01-02\n\
                s1,soon,c,2024-01-02\n\
                s1,1950-02-03,d,someday\n\
                s1,1951-02-03,e,2024-01-02\n\
                s1,1950-02-03,a,2024-01-02\n\
                s1,1950-02-03\n\
                s2,,f,2024-01-02\n\
                s3,2050-01-01,g,2024-01-02\n";
    let intake = read_table(text, Some("c")).unwrap();
    let told: Vec<String> = intake.problems.iter().map(ToString::to_string).collect();
    let wanted = [
        "line 3: subject: is empty",
        "line 4: date_of_birth: 'soon' is not a valid date (expected e.g. 1980-12-31)",
        "line 5: scan_date: 'someday' is not a valid date and time (expected e.g. 2024-03-01T10:00:00)",
        "line 6: date_of_birth: line 2 has 1950-02-03 for s1",
        "line 7: experiment: a of s1 is already in line 2",
        "line 8: has 2 cells, but the header has 4",
        "line 9: date_of_birth: is empty; use --date-of-birth-default to fill it in",
        "line 10: date_of_birth: 2050-01-01 is after the scan date 2024-01-02",
    ];
    assert_eq!(told, wanted);
    assert_eq!(intake.sessions.len(), 1);
    assert!(read_table("subject,experiment\n", None).unwrap_err().0.contains("there is no column 'scan_date'"));
    let without_cohort = read_table("subject,date_of_birth,experiment,scan_date\ns,1950-01-01,e,2024-01-01\n", None);
    assert!(without_cohort.unwrap().problems[0].message.contains("--cohort"));
}

/// Names, protocols and passwords of a configuration are texts; values that YAML would read differently than written
/// are refused.
#[test]
fn a_configuration_says_texts_as_they_are_written() {
    let text = "
users:
- {username: 2026, email: a@example.com, password: 012345678901, name: 08, roles: [007x, 12]}
- {username: b, email: b@example.com, password: 1e3}
scantypes:
- {modality: MR, protocol: 08}
- {modality: MR, protocol: 1e3}
- {modality: MR, protocol: 2024-01-01}
external_systems:
- {system_name: 3, url: http://x}
roles:
- {name: 12, description: 1.5, permissions: user_read}
";
    let read = import::read_configuration(text).unwrap();
    let [ada, bob] = &read.users[..] else { panic!("{:?}", read.users) };
    assert_eq!(
        (ada.username.as_str(), ada.password.as_str(), ada.name.as_deref()),
        ("2026", "012345678901", Some("08"))
    );
    assert_eq!((bob.password.as_str(), ada.roles.clone().unwrap()), ("1e3", vec!["007x".to_owned(), "12".to_owned()]));
    let protocols: Vec<&str> = read.scantypes.iter().map(|one| one.protocol.as_str()).collect();
    assert_eq!(protocols, ["08", "1e3", "2024-01-01"]);
    assert_eq!((read.external_systems[0].system_name.as_str(), read.roles[0].name.as_str()), ("3", "12"));

    let wrong = "
users:
- {username: 0755, email: a@example.com, password: 01234567}
- {username: b, email: b@example.com, password: yes}
scantypes:
- {modality: MR, protocol: 1_000}
- {modality: on, protocol: x}
";
    let problems: Vec<String> =
        import::read_configuration(wrong).unwrap_err().iter().map(ToString::to_string).collect();
    for words in [
        "line 3: username: 0755 without quotes is the number 493; write '0755' or '493' in quotes",
        "line 3: password: YAML reads this as another value unless it is quoted; put it in quotes",
        "line 4: password: YAML reads this as another value",
        "line 6: protocol: 1_000 without quotes is the number 1000",
        "line 7: modality: on without quotes means true",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(words)), "{words}\n{problems:#?}");
    }
    assert!(
        problems.iter().all(|problem| !problem.contains("01234567")),
        "a password stands in no message: {problems:?}"
    );

    // Thousands of problems are counted, and the first ones are listed.
    let many: String =
        (0..5_000).map(|number| format!("- {{modality: MR, protocol: {number}, x: [1], x-{number}: 0}}\n")).collect();
    let many = format!("scantypes:\n- {{modality: [MR], protocol: x}}\n{many}{}", "- 3\n".repeat(5_000));
    let problems = import::read_configuration(&many).unwrap_err();
    assert!(
        problems.len() <= 201 && problems.last().unwrap().to_string().contains("more problems"),
        "{}",
        problems.len()
    );
}
