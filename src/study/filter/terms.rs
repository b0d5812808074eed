//! Interprets the terms of a filter.

use chrono::{NaiveDateTime, TimeDelta};

use crate::study::listing::ExperimentOrder;

use super::syntax::{RawTerm, RawValue};
use super::value::{self, Bounds};
use super::{Filter, Mistake, Sort, suggestion};

/// A term: it matches if one of its tests is true, or, with a minus, if none is.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub negated: bool,
    /// At least one.
    pub tests: Vec<Test>,
}

impl Term {
    pub(super) fn is_archived(&self) -> bool {
        !self.negated && matches!(self.tests[..], [Test::Is(Situation::Archived)])
    }
}

/// A test that is true or false for an experiment.
#[derive(Debug, Clone)]
pub(super) enum Test {
    /// Matches part of the label of the experiment or its subject.
    Text(String),
    Named(Kind, Name),
    Label(String),
    Subject(String),
    Variable(String, VariableTest),
    ExternalId(Name, String),
    Has(Thing),
    Is(Situation),
    State(StateKind),
    /// An execution failed with this text in its log.
    Error(String),
    InState(Bounds<TimeDelta>),
    Age(Bounds<TimeDelta>),
    ScanDate(Bounds<NaiveDateTime>),
}

/// A name to look up, with its position in the filter.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub at: usize,
    pub text: String,
}

/// The kind of row that a name refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Cohort,
    Workflow,
    State,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Cohort => "cohort",
            Self::Workflow => "workflow",
            Self::State => "state",
        }
    }
}

/// A test of the value of a variable.
#[derive(Debug, Clone)]
pub(super) enum VariableTest {
    Equal(String),
    Numbers(Bounds<f64>),
    Times(Bounds<NaiveDateTime>),
}

/// Values of `has:` and `no:`.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    /// An execution that failed or timed out at any time.
    Error,
    Scan,
    AnyVariable,
    AnyExternalId,
    Variable(String),
    ExternalId(Name),
}

/// Values of `is:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Situation {
    Running,
    Waiting,
    Problem,
    Overdue,
    Held,
    Final,
    Archived,
}

const SITUATIONS: [(&str, Situation); 7] = [
    ("running", Situation::Running),
    ("waiting", Situation::Waiting),
    ("problem", Situation::Problem),
    ("overdue", Situation::Overdue),
    ("held", Situation::Held),
    ("final", Situation::Final),
    ("archived", Situation::Archived),
];

/// Kinds of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateKind {
    /// It has callbacks.
    Callbacks,
    /// It has no callbacks; a person chooses the next state.
    Person,
    /// It has no outgoing transitions.
    Final,
}

const STATE_KINDS: [(&str, StateKind); 3] =
    [("callbacks", StateKind::Callbacks), ("person", StateKind::Person), ("final", StateKind::Final)];

/// All keys, for suggestions.
const KEYS: [&str; 16] = [
    "state",
    "cohort",
    "workflow",
    "subject",
    "label",
    "var.NAME",
    "id.SYSTEM",
    "has",
    "no",
    "is",
    "kind",
    "error",
    "instate",
    "age",
    "scandate",
    "sort",
];

const ORDERS: [(&str, ExperimentOrder); 4] = [
    ("instate", ExperimentOrder::StateSince),
    ("scandate", ExperimentOrder::Scandate),
    ("label", ExperimentOrder::Label),
    ("id", ExperimentOrder::Id),
];

/// Interprets the terms.
///
/// # Errors
/// All mistakes in the terms.
pub(super) fn read(raw: Vec<RawTerm>) -> Result<Filter, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut terms = Vec::new();
    let mut sort = None;
    for term in &raw {
        let read = match term.key.as_deref() {
            Some("sort") => read_sort(term, sort).map(|read| sort = Some(read)),
            _ => read_term(term).map(|read| terms.push(read)),
        };
        mistakes.extend(read.err());
    }
    if mistakes.is_empty() { Ok(Filter { raw, terms, sort }) } else { Err(mistakes) }
}

fn read_sort(term: &RawTerm, earlier: Option<Sort>) -> Result<Sort, Mistake> {
    let mistake = |at, message: &str| Mistake { at, message: message.to_owned() };
    let [value] = &term.values[..] else { return Err(mistake(term.at, "'sort' takes one value")) };
    if term.negated {
        return Err(mistake(term.at, "write the minus behind the colon, as in 'sort:-instate'"));
    }
    if earlier.is_some() {
        return Err(mistake(term.at, "'sort' is there twice"));
    }
    plain(value, "sort")?;
    let (descending, word) = value.text.strip_prefix('-').map_or((false, &value.text[..]), |word| (true, word));
    let order = choice(value.at, word, "sort", &ORDERS)?;
    // The longest time in a state is the earliest time of entering it.
    Ok(Sort { order, descending: descending != (order == ExperimentOrder::StateSince) })
}

/// The term that requests this order.
pub(super) fn written(sort: Sort) -> RawTerm {
    let word = ORDERS.iter().find(|(_, order)| *order == sort.order).map_or("id", |(word, _)| *word);
    let is_reversed = sort.descending != (sort.order == ExperimentOrder::StateSince);
    let text = format!("{}{word}", if is_reversed { "-" } else { "" });
    let value = RawValue { at: 1, operator: "", text, is_quoted: false };
    RawTerm { at: 1, negated: false, key: Some("sort".to_owned()), values: vec![value] }
}

fn read_term(term: &RawTerm) -> Result<Term, Mistake> {
    let Some(key) = term.key.as_deref() else {
        let text = |value: &RawValue| Test::Text(format!("{}{}", value.operator, value.text));
        return Ok(Term { negated: term.negated, tests: term.values.iter().map(text).collect() });
    };
    let read = |value: &RawValue| read_test(term, key, value);
    let tests: Vec<Test> = term.values.iter().map(read).collect::<Result<_, _>>()?;
    let is_archived = |test: &Test| matches!(test, Test::Is(Situation::Archived));
    if tests.iter().any(is_archived) && (tests.len() > 1 || term.negated) {
        let message = "'is:archived' stands alone: lists have either archived experiments or those in use".to_owned();
        return Err(Mistake { at: term.at, message });
    }
    // `no:scan` means `-has:scan`.
    Ok(Term { negated: term.negated != (key == "no"), tests })
}

fn read_test(term: &RawTerm, key: &str, value: &RawValue) -> Result<Test, Mistake> {
    let at_value = |message| Mistake { at: value.at, message };
    let text = || plain(value, key).map(|()| value.text.clone());
    let name = || text().map(|text| Name { at: value.at, text });
    Ok(match key {
        "state" => Test::Named(Kind::State, name()?),
        "cohort" => Test::Named(Kind::Cohort, name()?),
        "workflow" => Test::Named(Kind::Workflow, name()?),
        "subject" => Test::Subject(text()?),
        "label" => Test::Label(text()?),
        "error" => Test::Error(text()?),
        "has" | "no" => Test::Has(thing(value, key)?),
        "is" => Test::Is(choice(value.at, &text()?, key, &SITUATIONS)?),
        "kind" => Test::State(choice(value.at, &text()?, key, &STATE_KINDS)?),
        "instate" => Test::InState(value::bounds(value, value::duration).map_err(at_value)?),
        "age" => Test::Age(value::bounds(value, value::duration).map_err(at_value)?),
        "scandate" => Test::ScanDate(value::times(value).map_err(at_value)?),
        key => match key.split_once('.') {
            Some(("var", name)) if !name.is_empty() => {
                Test::Variable(name.to_owned(), variable(value).map_err(at_value)?)
            }
            Some(("id", system)) if !system.is_empty() => {
                Test::ExternalId(Name { at: term.at, text: system.to_owned() }, text()?)
            }
            _ => return Err(unknown_key(term.at, key)),
        },
    })
}

fn unknown_key(at: usize, key: &str) -> Mistake {
    let nearest = suggestion(key, KEYS);
    Mistake { at, message: format!("'{key}' is not a key{nearest} (put a text with a colon in quotes)") }
}

/// Accepts a value without a comparison or a range.
fn plain(value: &RawValue, key: &str) -> Result<(), Mistake> {
    if value.operator.is_empty() {
        return Ok(());
    }
    let message = format!("'{key}' cannot be compared with '{}'", value.operator);
    Err(Mistake { at: value.at, message })
}

fn choice<T: Copy>(at: usize, word: &str, key: &str, choices: &[(&str, T)]) -> Result<T, Mistake> {
    let found = choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice);
    found.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Mistake { at, message: format!("'{word}' is not a value of '{key}'; use one of {}", names.join(", ")) }
    })
}

fn thing(value: &RawValue, key: &str) -> Result<Thing, Mistake> {
    plain(value, key)?;
    Ok(match &value.text[..] {
        "error" => Thing::Error,
        "scan" => Thing::Scan,
        "var" => Thing::AnyVariable,
        "id" => Thing::AnyExternalId,
        text => match text.split_once('.') {
            Some(("var", name)) if !name.is_empty() => Thing::Variable(name.to_owned()),
            Some(("id", name)) if !name.is_empty() => Thing::ExternalId(Name { at: value.at, text: name.to_owned() }),
            _ => {
                let message =
                    format!("'{text}' is not a value of '{key}'; use one of error, scan, var, var.NAME, id, id.SYSTEM");
                return Err(Mistake { at: value.at, message });
            }
        },
    })
}

fn variable(value: &RawValue) -> Result<VariableTest, String> {
    if value.operator.is_empty() && value::range(value).is_none() {
        return Ok(VariableTest::Equal(value.text.clone()));
    }
    if let Ok(numbers) = value::bounds(value, value::number) {
        return Ok(VariableTest::Numbers(numbers));
    }
    let wrong = |_| format!("'{}' can be compared neither as a number nor as a date", value.text);
    value::times(value).map(VariableTest::Times).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        Filter::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_mistakes_are_reported_with_their_place_and_the_nearest_names() {
        assert_eq!(
            mistakes("stat:a is:lost"),
            [
                "at character 1: 'stat' is not a key; the nearest are 'state', 'sort' and 'has' (put a text with a colon in quotes)",
                "at character 11: 'lost' is not a value of 'is'; use one of running, waiting, problem, overdue, held, final, archived",
            ]
        );
        for (text, part) in [
            ("instate:>30", "'30' is not a duration"),
            ("scandate:2026-02-30", "'2026-02-30' is not a date"),
            ("scandate:..", "needs a value before or behind it"),
            ("state:>a", "'state' cannot be compared with '>'"),
            ("var.q:>many", "neither as a number nor as a date"),
            ("is:archived,final", "stands alone"),
            ("-is:archived", "stands alone"),
            ("sort:instate sort:id", "is there twice"),
            ("sort:size", "use one of instate, scandate, label, id"),
            ("-sort:id", "write the minus behind the colon"),
            ("has:everything", "use one of error, scan"),
            ("var.:1", "'var.' is not a key"),
        ] {
            assert!(mistakes(text)[0].contains(part), "{text}: {:?}", mistakes(text));
        }
    }

    #[test]
    fn a_filter_has_limits() {
        assert!(mistakes(&"x".repeat(2001))[0].contains("at most 2000"));
        assert!(mistakes(&"x ".repeat(51))[0].starts_with("at character 101: the filter has 51 terms"));
    }

    #[test]
    fn words_without_a_key_may_begin_with_an_operator() {
        let filter = Filter::parse(">3 -\"a:b\"").unwrap();
        assert!(matches!(&filter.terms[0].tests[..], [Test::Text(text)] if text == ">3"));
        assert!(filter.terms[1].negated);
    }
}
