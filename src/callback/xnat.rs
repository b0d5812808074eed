//! Finds the newest file of a name in XNAT.

use reqwest::Method;
use serde_json::Value;

use super::web::{Web, beginning, hint_of, send, shown, text};
use super::{Failure, python_json};

/// A name with a placeholder for a timestamp: the texts before and behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dated<'a> {
    before: &'a str,
    behind: &'a str,
}

impl<'a> Dated<'a> {
    /// `placeholder` stands for the timestamp; `None` when the name does not contain it exactly once.
    pub(super) fn new(name: &'a str, placeholder: &str) -> Option<Self> {
        let (before, behind) = name.split_once(placeholder)?;
        (!behind.contains(placeholder)).then_some(Self { before, behind })
    }

    /// The timestamp in a name: empty if it has none, `None` for another name. A timestamp is `YYYY-MM-DDTHH:MM:SS` with or
    /// without a fraction, and may have an underscore on each side.
    fn moment_in<'n>(&self, name: &'n str) -> Option<&'n str> {
        let middle = name.strip_prefix(self.before)?.strip_suffix(self.behind)?;
        if middle.is_empty() {
            return Some("");
        }
        let middle = middle.strip_prefix('_').unwrap_or(middle);
        let middle = middle.strip_suffix('_').unwrap_or(middle);
        let (seconds, fraction) = middle.split_once('.').unwrap_or((middle, "0"));
        let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
        let is_moment = seconds.chars().map(shape).eq("0000-00-00T00:00:00".chars());
        let is_fraction = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
        (is_moment && is_fraction).then_some(middle)
    }

    /// The name with the newest timestamp; a name without one counts as the oldest.
    fn newest<'n>(&self, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
        names
            .filter_map(|name| Some((self.moment_in(name)?, name)))
            .max_by_key(|(moment, _)| *moment)
            .map(|(_, name)| name)
    }
}

/// The newest file of a resource. `resource` is its URL, without `/files`.
///
/// # Errors
/// When XNAT does not list it, or no file has such a name.
pub(super) async fn newest_file(web: &Web<'_>, resource: &str, name: Dated<'_>) -> Result<String, Failure> {
    let url = format!("{resource}/files?format=json");
    let list = json(web, &url).await?;
    let rows = list.pointer("/ResultSet/Result").and_then(Value::as_array);
    let rows = rows.ok_or_else(|| Failure(format!("GET {}: the response is not a list of files", shown(&url))))?;
    let names: Vec<&str> = rows.iter().filter_map(|row| row.get("Name")?.as_str()).collect();
    let newest = name.newest(names.iter().copied()).map(str::to_owned);
    newest.ok_or_else(|| {
        let there = if names.is_empty() { "no files".to_owned() } else { beginning(&names.join(", ")) };
        Failure(format!("{} has no file {}<moment>{}; available: {there}", shown(resource), name.before, name.behind))
    })
}

/// The JSON response of a URL.
///
/// # Errors
/// When there is no response, its status is not 200, or it is not JSON.
pub(super) async fn json(web: &Web<'_>, url: &str) -> Result<Value, Failure> {
    let what = format!("GET {}", shown(url));
    let answer = send(web.request(Method::GET, url)?, &what).await?;
    let (status, hint) = (answer.status().as_u16(), hint_of(&answer));
    let body = text(answer, &what).await?;
    if status != 200 {
        return Err(Failure(format!("{what} returned status {status}{hint}: {}", beginning(&body))));
    }
    // The raters' form files are written by Python.
    python_json::read(&body, &what, web.log())
        .map_err(|error| Failure(format!("{what}: the response is not valid JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_moment_wins_and_other_names_do_not_count() {
        let name = Dated::new("fields{timestamp}.json", "{timestamp}").unwrap();
        for (text, moment) in [
            ("fields.json", Some("")),
            ("fields2020-01-01T00:00:00.json", Some("2020-01-01T00:00:00")),
            ("fields_2020-01-01T00:00:00_.json", Some("2020-01-01T00:00:00")),
            ("fields_2020-01-01T00:00:00.123456.json", Some("2020-01-01T00:00:00.123456")),
            ("fields_.json", None),
            ("fields__2020-01-01T00:00:00.json", None),
            ("fields2020-01-01T00:00:00Z.json", None),
            ("fields2020-01-01T00:00:00..json", None),
            ("xfields.json", None),
            ("fieldsXjson", None),
            ("fields-2020.json", None),
        ] {
            assert_eq!(name.moment_in(text), moment, "{text}");
        }
        let names = ["fields_2020-01-01T00:00:00.json", "fields.json", "fields_2021-01-01T00:00:00.5.json", "other"];
        assert_eq!(name.newest(names.into_iter()), Some(names[2]));
        assert_eq!(name.newest(["fields.json"].into_iter()), Some("fields.json"));
        assert_eq!(Dated::new("fields.json", "{timestamp}"), None);
        assert_eq!(Dated::new("{t}{t}", "{t}"), None);
    }
}
