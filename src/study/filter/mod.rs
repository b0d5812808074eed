//! The filter language for lists of experiments, shared by pages, API, exports and scripts.
//!
//! ```text
//! state:visual_rating,second_rating  -cohort:pilot  var.quality:>=3  instate:>30d  sub-01
//! ```
//!
//! A comma between values means *or*, a space between terms means *and*, a minus before a term means *not*. A word without a key matches
//! part of the label of the experiment or its subject. `docs/reference/filters.md` describes every key.
//!
//! A text passes through four steps: [`syntax`] splits it into terms, [`terms`] interprets them ([`Filter`]), [`resolve`] looks up the
//! names ([`Resolved`]), and [`condition`] builds the condition of a query. Each mistake is reported with its position, at the first step
//! that can find it.

mod condition;
mod resolve;
mod syntax;
mod terms;
mod value;

use std::fmt;

use crate::study::listing::ExperimentOrder;

pub use resolve::{ResolveError, Resolved};
use syntax::RawTerm;
use terms::Term;

/// Maximum length of a filter in characters.
pub const MOST_CHARACTERS: usize = 2000;
/// Maximum number of terms in a filter.
pub const MOST_TERMS: usize = 50;

/// A parsed filter. It was not checked against the database: names in it may not exist.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    raw: Vec<RawTerm>,
    terms: Vec<Term>,
    sort: Option<Sort>,
}

/// The order that a filter requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    pub order: ExperimentOrder,
    pub descending: bool,
}

/// An error in a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Position of the character where it begins; the filter begins at 1.
    pub at: usize,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at character {}: {}", self.at, self.message)
    }
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// All mistakes in the text, in order.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let length = text.chars().count();
        if length > MOST_CHARACTERS {
            let message = format!("the filter has {length} characters; at most {MOST_CHARACTERS} are allowed");
            return Err(vec![Mistake { at: MOST_CHARACTERS + 1, message }]);
        }
        let raw = syntax::read(text)?;
        if let Some(term) = raw.get(MOST_TERMS) {
            let message = format!("the filter has {} terms; at most {MOST_TERMS} are allowed", raw.len());
            return Err(vec![Mistake { at: term.at, message }]);
        }
        terms::read(raw)
    }

    /// The order that the filter requests with `sort:`.
    #[must_use]
    pub fn sort(&self) -> Option<Sort> {
        self.sort
    }

    /// Whether the filter lists archived experiments (`is:archived`) instead of those in use.
    #[must_use]
    pub fn is_archived(&self) -> bool {
        self.terms.iter().any(Term::is_archived)
    }
}

impl Filter {
    /// The same filter with another order.
    #[must_use]
    pub fn sorted_by(&self, sort: Sort) -> Self {
        let raw = self.raw.iter().filter(|term| term.key.as_deref() != Some("sort")).cloned();
        Self { raw: raw.chain([terms::written(sort)]).collect(), terms: self.terms.clone(), sort: Some(sort) }
    }
}

/// The canonical form: one space between terms, quotes only where they are needed.
impl fmt::Display for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, term) in self.raw.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(formatter, "{space}{term}")?;
        }
        Ok(())
    }
}

/// `, did you mean …` with the three names nearest to `word`; empty if there are none.
fn suggestion<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let word = word.to_lowercase();
    let mut near: Vec<(usize, &str)> =
        names.into_iter().map(|name| (strsim::damerau_levenshtein(&word, &name.to_lowercase()), name)).collect();
    near.sort_unstable();
    near.dedup();
    let near: Vec<String> = near.into_iter().take(3).map(|(_, name)| format!("'{name}'")).collect();
    match near.split_last() {
        None => String::new(),
        Some((last, [])) => format!("; the nearest is {last}"),
        Some((last, others)) => format!("; the nearest are {} and {last}", others.join(", ")),
    }
}
