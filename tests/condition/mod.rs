//! Tables of expressions that any interpreter behind this module has to pass.

mod answers;
mod expressions;
mod hostile;

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use serde_json::json;

use studygovernor::workflow::condition::{
    CallbackFacts, EvaluationError, ExperimentFacts, Facts, Value, check, evaluate, review,
};

fn at(year: i32, month: u32, day: u32, hour: u32) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(year, month, day).unwrap().and_hms_opt(hour, 30, 0).unwrap()
}

/// The experiment that all tables use: scanned on a Thursday, 31 days before now.
fn facts() -> Facts {
    crate::support::use_condition_worker();
    bare_facts()
}

fn bare_facts() -> Facts {
    let callback =
        |result: &str, result_values| CallbackFacts { status: "done".into(), result: result.into(), result_values };
    let values = json!({"n": 12, "big": u64::MAX, "ratio": 0.75, "series": [{"name": "t1", "scans": [1, 2, 3]}], "deep": {"a": {"b": null}}});
    Facts {
        experiment: ExperimentFacts {
            label: "sub-007_ses-2".into(),
            scandate: at(2024, 2, 29, 9),
            state: "scanned".into(),
            variables: vec![
                ("qc".into(), Value::Str("unsure".into())),
                ("age".into(), Value::Int(42)),
                ("weight".into(), Value::Float(71.5)),
                ("consent".into(), Value::Bool(true)),
                ("note".into(), Value::None),
                ("born".into(), Value::Date(NaiveDate::from_ymd_opt(1982, 1, 15).unwrap())),
                ("seen".into(), Value::DateTime(at(2024, 3, 1, 8))),
                ("start".into(), Value::Time(NaiveTime::from_hms_opt(8, 15, 0).unwrap())),
                ("tags".into(), Value::Json(json!(["a", "b", "c"]))),
            ],
        },
        callbacks: BTreeMap::from([
            ("count_scans".into(), callback("success", values)),
            ("pipeline".into(), callback("failure", json!({}))),
        ]),
        now: at(2024, 3, 31, 10),
    }
}

#[test]
fn blank_is_true() {
    for text in ["", "   ", "\n", "\t\n "] {
        assert_eq!(check(text), Ok(()));
        assert_eq!(evaluate(text, &facts()), Ok(true));
    }
}

#[test]
fn errors_say_where() {
    let place = |text| check(text).map_err(|e| (e.line, e.column)).unwrap_err();
    assert_eq!(place("1 +* 2"), (1, 4));
    assert_eq!(place("  1 +* 2"), (1, 6));
    assert_eq!(place("(1 and\n  (y := 2))"), (2, 4));
    assert_eq!(place("'ä' +* 1"), (1, 6));
    assert_eq!(place("x = 1").0, 1);
}

#[test]
fn errors_say_what() {
    let said = |text| evaluate(text, &facts()).unwrap_err().to_string();
    assert_eq!(said("experiment.variables['nope']"), "KeyError: 'nope'");
    assert_eq!(said("callbacks['nope'].result == 'success'"), "KeyError: 'nope'");
    assert_eq!(said("open('/etc/passwd')"), "NameError: name 'open' is not defined");
    assert_eq!(said("os.getcwd()"), "NameError: name 'os' is not defined");
    assert_eq!(said("foo(datetime.datetime.now())"), "NameError: name 'foo' is not defined");
    assert_eq!(said("experiment.nope"), "AttributeError: 'Experiment' object has no attribute 'nope'");
    assert_eq!(said("'a' + 1"), "TypeError: can only concatenate str (not \"int\") to str");
    assert_eq!(said("sum(range(10**12))"), "took longer than 50 ms");
    assert_eq!(said("'x' * 10**10"), "needed too much memory");
}

#[test]
fn facts_are_untouched() {
    let before = facts();
    for text in ["experiment.variables.clear()", "callbacks.clear()", "callbacks['count_scans'].result_values.clear()"]
    {
        assert_eq!(evaluate(text, &before), Ok(false));
    }
    assert_eq!(evaluate("len(experiment.variables) == 9 and len(callbacks) == 2", &before), Ok(true));
    assert_eq!(evaluate("callbacks['count_scans'].result_values['n'] == 12", &before), Ok(true));
}

#[test]
fn a_worker_that_ended_is_replaced() {
    for _ in 0..3 {
        let outcome = evaluate("''.join(['x' * 99_999] * 6_000)", &facts());
        assert!(matches!(outcome, Err(EvaluationError::TooLarge | EvaluationError::TooSlow)), "{outcome:?}");
        assert_eq!(evaluate("1 == 1", &facts()), Ok(true));
    }
}
