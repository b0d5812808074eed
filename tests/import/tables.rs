//! Tables from spreadsheets and data managers, valid and invalid.

use std::path::Path;

use studygovernor::engine::Report;
use studygovernor::entity::kind::{ExecutionResult, VariableKind};
use studygovernor::entity::variable;
use studygovernor::import::{Intake, SourceError, Summary, table};
use studygovernor::study::Label;
use studygovernor::study::variable::{VariableValue, variables_of};

use sea_orm::{EntityTrait, QueryOrder};

use super::{WORKFLOW, write};
use crate::support::{Backend, Said, Study, ctx, on_every_database, studygovernor};

on_every_database! {
    cells_come_back_as_they_were;
}

fn read_bytes(bytes: &[u8]) -> Result<Intake, SourceError> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("t.csv");
    std::fs::write(&file, bytes).unwrap();
    let cohort = Some(Label::parse("c").unwrap());
    let options = table::Options { cohort, workflow: None, date_of_birth_default: None, delimiter: None };
    table::read(&file, &options)
}

fn read(text: &str) -> Intake {
    read_bytes(text.as_bytes()).unwrap()
}

/// `line N: the beginning of the message`.
fn assert_problems(intake: &Intake, wanted: &[(u64, &str)]) {
    let told: Vec<String> = intake.problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), wanted.len(), "{told:#?}");
    for (told, (line, words)) in told.iter().zip(wanted) {
        assert!(
            told.starts_with(&format!("line {line}: ")) && told.contains(words),
            "{told}, wanted line {line}: {words}"
        );
    }
}

fn subjects(intake: &Intake) -> Vec<&str> {
    intake.sessions.iter().map(|session| session.subject.as_str()).collect()
}

#[test]
fn a_broken_quote_takes_no_row_along() {
    for delimiter in [",", ";", "\t"] {
        let table = |rows: [&str; 4]| {
            let head = "subject,date_of_birth,experiment,scan_date,var:note,var:site";
            format!("{head}\n{}\n", rows.join("\n")).replace(',', delimiter)
        };
        let second = "s2,1950-02-03,e2,2024-01-02,right,a";
        let third = "s3,1950-02-03,e3,2024-01-02,both,b";
        for (first, last, words) in [
            ("s1,1950-02-03,e1,2024-01-02,left,\"x", "s4,1950-02-03,e4,2024-01-02,,", "a quote is not closed"),
            ("s1,1950-02-03,e1,2024-01-02,\"left,x", "s4,1950-02-03,e4,2024-01-02,,", "a quote is not closed"),
            ("\"s1,1950-02-03,e1,2024-01-02,left,x", "s4,1950-02-03,e4,2024-01-02,,", "a quote is not closed"),
            ("s1,1950-02-03,e1,2024-01-02,\"left\" side,x", "s4,1950-02-03,e4,2024-01-02,,", "after a closing quote"),
            ("s1,1950-02-03,e1,2024-01-02,\"left,x", "s4,1950-02-03,e4,2024-01-02,5\",c", "ends in line 5"),
            ("s1,1950-02-03,e1,2024-01-02,left,\"x", "s4,1950-02-03,e4,2024-01-02,a,c\"", "look like separate rows"),
        ] {
            let intake = read(&table([first, second, third, last]));
            assert_problems(&intake, &[(2, words)]);
            assert_eq!(subjects(&intake), ["s2", "s3", "s4"], "{first}");
        }
    }
}

#[test]
fn tables_of_spreadsheets_are_read_as_they_are_meant() {
    let intake = read(
        "Subject,DATE_OF_BIRTH,Experiment,Scan_Date,Cohort,Var:age,ID:XNAT,WorkFlow\n\
         s1,1950-02-03,e1,2024-01-02,leiden,70,X1,w\n",
    );
    assert_eq!((intake.problems.len(), intake.notes.len()), (0, 0), "{intake:?}");
    let session = &intake.sessions[0];
    assert_eq!((session.cohort.as_str(), session.workflow.as_deref()), ("leiden", Some("w")));
    assert_eq!(session.variables, [("age".to_owned(), VariableValue::Int(70))]);
    assert_eq!(session.external_ids, [(Label::parse("XNAT").unwrap(), "X1".to_owned())]);

    let row = "s1;1950-02-03;e1;2024-01-02";
    let head = "subject;date_of_birth;experiment;scan_date";
    for text in [
        format!("{head};;;\n{row};;;\n"),
        format!("{head};;;\n{row}\n"),
        format!("{head}\n{row};;\n"),
        format!("sep=;\n{head}\n{row}\n"),
        format!("\u{feff}sep=;\r\n{head}\r\n{row}\r\n"),
        format!("\n;;;\n{head}\n{row}"),
        format!("{head}\r{row}\r"),
        format!("{}\n{}\n", head.replace(';', "\t"), row.replace(';', "\t")),
        format!("{},\"var:left;right\"\n{},3\n", head.replace(';', ","), row.replace(';', ",")),
        format!("{},\"var:a;b;c;d;e\"\n{},3\n", head.replace(';', ","), row.replace(';', ",")),
    ] {
        let intake = read(&text);
        assert_problems(&intake, &[]);
        assert_eq!((subjects(&intake), intake.notes.len()), (vec!["s1"], 0), "{text}");
    }
    let quoted = read(
        "subject\tdate_of_birth\texperiment\tscan_date\tvar:note\ns1\t1950-02-03\te1\t2024-01-02\t\"says \"\"no\"\", twice\"\n",
    );
    assert_eq!(quoted.sessions[0].variables[0].1, VariableValue::Str("says \"no\", twice".to_owned()));
    // The lines of a multi-line cell are counted.
    let lines = read(
        "subject,date_of_birth,experiment,scan_date,var:note\r\ns1,1950-02-03,e1,2024-01-02,\"two\r\nlines\"\r\ns2,soon,e2,2024-01-02,x\r\n",
    );
    assert_problems(&lines, &[(4, "'soon' is not a valid date")]);
    assert_eq!(lines.sessions[0].variables[0].1, VariableValue::Str("two\r\nlines".to_owned()));
}

#[test]
fn encodings_are_read_or_named() {
    let text = "subject\tdate_of_birth\texperiment\tscan_date\tvar:site\ns1\t1950-02-03\te1\t2024-01-02\tRenée\n";
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let with_mark = format!("\u{feff}{text}");
    for bytes in [text.as_bytes(), with_mark.as_bytes(), &wide[..]] {
        let intake = read_bytes(bytes).unwrap();
        assert_eq!(intake.sessions[0].variables[0].1, VariableValue::Str("Renée".to_owned()));
    }
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    assert_problems(&read_bytes(&latin).unwrap(), &[(2, "is not UTF-8 text (byte 0xE9); save the table as UTF-8")]);
    assert_problems(&read(&text.replace("Ren", "R\0n")), &[(2, "null character")]);
    for (bytes, words) in [(&wide[2..], "UTF-16"), (&b"PK\x03\x04...."[..], "workbook"), (&b""[..], "is empty")] {
        let error = read_bytes(bytes).unwrap_err().0;
        assert!(error.contains(words) && error.contains("t.csv"), "{error}");
    }
}

#[test]
fn the_limits_of_the_api_hold_for_tables() {
    let head = "subject,date_of_birth,experiment,scan_date,id:XNAT,var:note";
    let intake = read(&format!(
        "{head}\n\
         s1,50-02-03,e1,2024-01-02,,\n\
         s2,0999-12-31,e2,2024-01-02,,\n\
         s3,1850-02-03,e3,2016-12-31T23:59:60,,\n\
         s4,1850-02-03,e4,24-01-02,,\n\
         s5,1850-02-03,e5,+12024-01-02,,\n\
         {},1850-02-03,e6,2024-01-02,,\n\
         s7,1850-02-03,e7,2024-01-02,{},\n\
         s8,1850-02-03,e8,2024-01-02,,{}\n\
         s9,1850-02-03,e9,2024-01-02T10:00:00+0200,,12-10-05\n",
        "s".repeat(101),
        "x".repeat(1025),
        "x".repeat(1024 * 1024 + 1),
    ));
    assert_problems(
        &intake,
        &[
            (2, "date_of_birth: '50-02-03' must be in a year from 1000 to 9999"),
            (3, "must be in a year from 1000 to 9999"),
            (4, "scan_date: '2016-12-31T23:59:60' must have seconds from 0 to 59"),
            (5, "scan_date: '24-01-02' must be in a year"),
            (6, "must be in a year"),
            (7, "subject: must be at most 100 characters (got 101)"),
            (8, "id:XNAT: must be at most 1024 characters (got 1025)"),
            (9, "var:note: must be at most 1048576 bytes (got 1048577)"),
        ],
    );
    assert_eq!(intake.sessions[0].scandate.to_string(), "2024-01-02 08:00:00");
    for (column, words) in [
        (format!("var:{}", "q".repeat(256)), "(got 256)"),
        ("var:".to_owned(), "is empty"),
        ("Var: note,var:note".to_owned(), "mean the same"),
        ("Subject".to_owned(), "mean the same"),
        ("colour,colour".to_owned(), "two columns 'colour'"),
        ("id:".to_owned(), "the system is empty"),
    ] {
        let text = format!("subject,date_of_birth,experiment,scan_date,{column}\n");
        let error = read_bytes(text.as_bytes()).unwrap_err().0;
        assert!(error.contains(words), "{column}: {error}");
    }
}

/// The type and the text that are stored for cells.
async fn cells_come_back_as_they_were(study: Study) {
    study.load(WORKFLOW).await;
    let cells = [
        ("12345678901234567890", VariableKind::Int),
        ("-98765432109876543210987654321", VariableKind::Int),
        ("9223372036854775807", VariableKind::Int),
        ("12E5", VariableKind::Str),
        ("1.10", VariableKind::Str),
        ("1-2-3", VariableKind::Str),
        ("+31612345678", VariableKind::Str),
        ("-007", VariableKind::Str),
        ("2024-02-29", VariableKind::Date),
        ("2024-02-29T10:00:00", VariableKind::DateTime),
        ("2024-02-29 10:00", VariableKind::Str),
        ("0024-02-29", VariableKind::Str),
        ("0.25", VariableKind::Float),
        ("-3", VariableKind::Int),
    ];
    let columns: String = (0..cells.len()).map(|index| format!(";var:{index:02}")).collect();
    let values: String = cells.iter().map(|(cell, _)| format!(";{cell}")).collect();
    let head = "subject;date_of_birth;experiment;scan_date";
    let intake = read(&format!("{head}{columns}\ns1;1950-02-03;e1;2024-01-02{values}\n"));
    assert_eq!(write(&study, &intake, false).await.experiments, 1);
    let connection = study.engine.database().reader();
    let stored = variable::Entity::find().order_by_asc(variable::Column::Label).all(connection).await.unwrap();
    let stored: Vec<(String, VariableKind)> = stored.into_iter().map(|row| (row.value.unwrap(), row.kind)).collect();
    assert_eq!(stored, cells.map(|(cell, kind)| (cell.to_owned(), kind)));
    let read = variables_of(ctx(), connection, 1).await.unwrap();
    assert_eq!(read[0].1.to_json().to_string(), cells[0].0);
    // Importing the same table again reports the same.
    assert_eq!(write(&study, &intake, false).await, Summary { known: 1, ..Summary::default() });
}

fn run(home: &Path, arguments: &[&str]) -> std::process::Output {
    studygovernor(home, arguments).output().unwrap()
}

#[test]
fn the_program_writes_nothing_of_a_broken_table_and_the_sound_rows_on_request() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("w.yaml"), WORKFLOW).unwrap();
    run(home.path(), &["workflow", "load", "w.yaml"]);
    let table = "subject,date_of_birth,experiment,scan_date,var:note\n\
                 s1,1950-02-03,e1,2024-01-02,\"left\n\
                 s2,1950-02-03,e2,2024-01-02,right\n\
                 s3,1950-02-03,e3,2024-01-02,both\n";
    std::fs::write(home.path().join("t.csv"), table).unwrap();
    let import = |more: &[&str]| run(home.path(), &[&["import", "csv", "t.csv", "--cohort", "c"], more].concat());
    for more in [&[][..], &["--dry-run"]] {
        let refused = import(more);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.err());
        assert!(refused.err().contains("line 2: a quote is not closed"), "{}", refused.err());
    }
    assert_eq!(run(home.path(), &["workflow", "list"]).out(), "1\tw\t3 states\t0 experiments\n");
    assert!(import(&["--skip-bad-rows"]).out().starts_with("added: 1 cohorts, 2 subjects, 2 experiments"));
    for (option, value) in [("--date-of-birth-default", "50-01-01"), ("--date-of-birth-default", "soon")] {
        let refused = import(&[option, value]);
        assert_eq!(refused.status.code(), Some(2), "{}", refused.err());
    }
    for value in ["24-01-02", "2016-12-31T23:59:60"] {
        let refused = run(home.path(), &["import", "bids", ".", "--cohort", "c", "--scan-date-default", value]);
        assert_eq!(refused.status.code(), Some(2), "{}", refused.err());
    }
    // Other values are not imported, but reported.
    let changed = table.replace("\"left", "left").replace("right", "wrong").replace("e3,2024-01-02", "e3,2024-01-03");
    std::fs::write(home.path().join("t.csv"), changed).unwrap();
    for more in [&["--dry-run"][..], &[], &[]] {
        let said = import(more).err();
        assert!(said.contains("line 3: e2 of s2: var:note: stored value is right, new value is wrong"), "{said}");
        assert!(
            said.contains(
                "line 4: e3 of s3: scan_date: stored value is 2024-01-02T00:00:00, new value is 2024-01-03T00:00:00"
            ),
            "{said}"
        );
    }
}

/// A number that a callback reports keeps all its digits in variables and conditions.
#[tokio::test]
async fn e7_whole_numbers_of_reports_stay_whole() {
    let study = Study::new(Backend::Sqlite).await;
    let digits = "12345678901234567890123";
    let workflow = r#"{label: v, states: [{label: r, transitions: [{destination: s}]},
        {label: s, callbacks: [{label: a, function: sleep, variable_map: {uid: uid}}],
         transitions: [{destination: t, condition: "experiment.variables['uid'] % 1000 == 123"}]}, {label: t}]}"#;
    study.load(workflow).await;
    let experiment = study.create("e").await;
    let execution = study.executions(experiment.id).await["a"].id;
    let values = serde_json::from_str(&format!("{{\"uid\": {digits}}}")).unwrap();
    let report = Report { result_values: Some(values), ..Report::finished(ExecutionResult::Success) };
    study.report(execution, &report).await.unwrap();
    assert_eq!(study.state(experiment.id).await, "t");
    assert!(study.execution(execution).await.result_values.unwrap().contains(digits));
    let variables = variables_of(ctx(), study.engine.database().reader(), experiment.id).await.unwrap();
    assert_eq!(variables[0].1.to_json().to_string(), digits);
}
