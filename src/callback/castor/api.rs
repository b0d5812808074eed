//! Client for the parts of Castor's API that are needed.

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::callback::Failure;
use crate::callback::web::{Web, beginning, hint_of, parse, segment, send, shown, text};

/// A study by its id.
pub(super) struct Study {
    pub(super) id: String,
}

impl Study {
    /// The path of the study in the API.
    fn path(&self) -> Result<String, Failure> {
        Ok(format!("study/{}", segment(&self.id)?))
    }
}

/// A field of the study.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) id: String,
    /// Whether it represents a repeated measurement; each measurement is an instance.
    pub(super) is_repeated: bool,
    /// Id of the repeated measurement.
    pub(super) report_id: String,
}

/// A session with Castor.
pub(super) struct Castor<'a> {
    web: &'a Web<'a>,
    base: String,
    token: String,
    /// Reason for changes; Castor stores it with each change.
    reason: String,
}

/// Rows per page of a list.
const PAGE_SIZE: u64 = 500;

impl<'a> Castor<'a> {
    /// Logs in with the client id and secret from the worker's logins.
    pub(super) async fn log_in(web: &'a Web<'a>, address: &str, reason: String) -> Result<Self, Failure> {
        let url = format!("{address}/oauth/token");
        let login = web.login(&parse(&url)?);
        let login = login.ok_or_else(|| Failure(format!("there is no login for {} in .netrc", shown(address))))?;
        let body = json!({
            "grant_type": "client_credentials",
            "client_id": login.name,
            "client_secret": login.password,
        });
        let what = format!("POST {}", shown(&url));
        let answer = send(web.plain(Method::POST, &url)?.json(&body), &what).await?;
        let (status, hint) = (answer.status().as_u16(), hint_of(&answer));
        let text = text(answer, &what).await?;
        let read: Value = serde_json::from_str(&text).unwrap_or_default();
        match read.get("access_token").and_then(Value::as_str).filter(|_| status == 200) {
            Some(token) => Ok(Self { web, base: format!("{address}/api"), token: token.to_owned(), reason }),
            None => {
                let why = read.get("error_description").and_then(Value::as_str).unwrap_or("no access_token");
                Err(Failure(format!("{what}: login failed with status {status}{hint}: {why}")))
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        Ok(self.web.plain(method, &format!("{}/{path}", self.base))?.bearer_auth(&self.token))
    }

    async fn post(&self, path: &str, body: &Value, expected: &[u16]) -> Result<(u16, Value), Failure> {
        let what = format!("POST {}/{path}", shown(&self.base));
        let answer = send(self.request(Method::POST, path)?.json(body), &what).await?;
        let (status, hint) = (answer.status().as_u16(), hint_of(&answer));
        let text = text(answer, &what).await?;
        if !expected.contains(&status) {
            return Err(Failure(format!("{what} returned status {status}{hint}: {}", beginning(&text))));
        }
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Reads all rows of a list, page by page. `None` on 404, which is Castor's answer for an empty list.
    async fn list(&self, path: &str, key: &str) -> Result<Option<Vec<Value>>, Failure> {
        let mut rows = Vec::new();
        for page in 1.. {
            let address = format!("{path}?page_size={PAGE_SIZE}&page={page}");
            let what = format!("GET {}/{address}", shown(&self.base));
            let answer = send(self.request(Method::GET, &address)?, &what).await?;
            let (status, hint) = (answer.status().as_u16(), hint_of(&answer));
            if status == 404 && page == 1 {
                return Ok(None);
            }
            let text = text(answer, &what).await?;
            if status != 200 {
                return Err(Failure(format!("{what} returned status {status}{hint}: {}", beginning(&text))));
            }
            let body: Value = serde_json::from_str(&text)
                .map_err(|error| Failure(format!("{what}: the response is not valid JSON: {error}")))?;
            let found = body.pointer(&format!("/_embedded/{key}")).and_then(Value::as_array);
            let found = found.ok_or_else(|| Failure(format!("{what}: the response has no _embedded.{key}")))?;
            rows.extend(found.iter().cloned());
            let number = |name: &str| body.get(name).and_then(Value::as_u64);
            if found.is_empty() || page >= number("page_count").unwrap_or(1) {
                let total = number("total_items").unwrap_or(rows.len() as u64);
                if rows.len() as u64 != total {
                    return Err(Failure(format!("{what}: received {} rows, but {total} were announced", rows.len())));
                }
                break;
            }
        }
        Ok(Some(rows))
    }

    async fn named(&self, path: &str, key: &str, column: &str, name: &str, id: &str) -> Result<String, Failure> {
        let rows = self.list(path, key).await?.unwrap_or_default();
        let row = rows.iter().find(|row| row.get(column).and_then(Value::as_str) == Some(name));
        let found = row.and_then(|row| row.get(id)).and_then(Value::as_str).map(str::to_owned);
        found.ok_or_else(|| Failure(format!("Castor has no {} '{name}'", path.rsplit('/').next().unwrap_or(key))))
    }

    pub(super) async fn study(&self, name: &str) -> Result<Study, Failure> {
        Ok(Study { id: self.named("study", "study", "name", name, "study_id").await? })
    }

    /// The id of a site.
    pub(super) async fn site(&self, study: &Study, name: &str) -> Result<String, Failure> {
        self.named(&format!("{}/site", study.path()?), "sites", "name", name, "id").await
    }

    /// The id of a visit.
    pub(super) async fn visit(&self, study: &Study, name: &str) -> Result<String, Failure> {
        self.named(&format!("{}/visit", study.path()?), "visits", "visit_name", name, "id").await
    }

    /// The fields by variable name; fields without one by their label, in lower case with underscores.
    pub(super) async fn fields(&self, study: &Study) -> Result<BTreeMap<String, Field>, Failure> {
        let rows = self.list(&format!("{}/field", study.path()?), "fields").await?.unwrap_or_default();
        let mut fields = BTreeMap::new();
        // Variable names are inserted last, so they take precedence over labels.
        for by_label in [true, false] {
            for row in &rows {
                let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
                let variable = text("field_variable_name");
                let key = match (variable.is_empty(), by_label) {
                    (true, true) => text("field_label").to_lowercase().replace(' ', "_"),
                    (false, false) => variable.to_owned(),
                    _ => continue,
                };
                if key.is_empty() || text("id").is_empty() {
                    continue;
                }
                let field = Field {
                    id: text("id").to_owned(),
                    is_repeated: text("field_type") == "repeated_measures",
                    report_id: text("report_id").to_owned(),
                };
                fields.insert(key, field);
            }
        }
        Ok(fields)
    }

    /// Returns whether the participant already existed.
    pub(super) async fn create_participant(&self, study: &Study, label: &str, site: &str) -> Result<bool, Failure> {
        let body = json!({ "participant_id": label, "site_id": site });
        let (status, _) = self.post(&format!("{}/participant", study.path()?), &body, &[201, 422]).await?;
        Ok(status == 422)
    }

    /// The stored data points of a participant, by id of the field.
    pub(super) async fn study_points(
        &self,
        study: &Study,
        participant: &str,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let path = format!("{}/data-points/study", of(study, participant)?);
        let rows = self.list(&path, "items").await?.unwrap_or_default();
        Ok(rows
            .iter()
            .filter_map(|row| Some((plain(row.get("field_id")?)?, plain(row.get("field_value")?)?)))
            .collect())
    }

    pub(super) async fn add_study_points(
        &self,
        study: &Study,
        participant: &str,
        points: &[(String, String)],
    ) -> Result<(), Failure> {
        self.add_points(&format!("{}/data-points/study", of(study, participant)?), points, None).await
    }

    /// The instances of repeated measurements: ids by name.
    pub(super) async fn instances(
        &self,
        study: &Study,
        participant: &str,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let path = format!("{}/repeating-data-instance", of(study, participant)?);
        let rows = self.list(&path, "repeatingDataInstance").await?.unwrap_or_default();
        Ok(rows.iter().filter_map(|row| Some((plain(row.get("name")?)?, plain(row.get("id")?)?))).collect())
    }

    /// The stored data points of an instance, by variable name or id of the field.
    pub(super) async fn instance_points(
        &self,
        study: &Study,
        participant: &str,
        instance: &str,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let path = format!("{}/data-point/repeating-data/{}", of(study, participant)?, segment(instance)?);
        let rows = self.list(&path, "RepeatingDataDataPoints").await?.unwrap_or_default();
        let mut points = BTreeMap::new();
        for row in &rows {
            let value = row.get("value").or_else(|| row.get("field_value")).and_then(plain).unwrap_or_default();
            for name in ["field_variable_name", "field_id"] {
                if let Some(key) = row.get(name).and_then(plain) {
                    points.insert(key, value.clone());
                }
            }
        }
        Ok(points)
    }

    /// Creates an instance and returns its id.
    pub(super) async fn create_instance(
        &self,
        study: &Study,
        participant: &str,
        report_id: &str,
        name: &str,
        visit: &str,
    ) -> Result<String, Failure> {
        let body = json!({ "repeating_data_id": report_id, "repeating_data_name_custom": name, "parent_id": visit });
        let path = format!("{}/repeating-data-instance", of(study, participant)?);
        let (_, answer) = self.post(&path, &body, &[201]).await?;
        let id = answer.get("id").and_then(plain);
        id.ok_or_else(|| Failure(format!("the response for the new instance {name} has no id")))
    }

    pub(super) async fn add_instance_points(
        &self,
        study: &Study,
        participant: &str,
        instance: &str,
        points: &[(String, String)],
    ) -> Result<(), Failure> {
        if points.is_empty() {
            return Ok(());
        }
        let path = format!("{}/data-points/repeating-data-instance/{}", of(study, participant)?, segment(instance)?);
        self.add_points(&path, points, Some(instance)).await
    }

    async fn add_points(&self, path: &str, points: &[(String, String)], instance: Option<&str>) -> Result<(), Failure> {
        let entry = |(field, value): &(String, String)| {
            let mut entry = json!({
                "field_id": field,
                "field_value": value,
                "change_reason": self.reason,
                "confirmed_changes": true,
            });
            if let Some(instance) = instance {
                entry["instance_id"] = instance.into();
            }
            entry
        };
        let body = json!({
            "common": { "change_reason": self.reason, "confirmed_changes": true },
            "data": points.iter().map(entry).collect::<Vec<_>>(),
        });
        let (_, answer) = self.post(path, &body, &[201]).await?;
        // Castor accepts what it can and reports the rejected values only here.
        match answer.get("total_failed").and_then(Value::as_u64) {
            Some(failed) if failed > 0 => {
                let which = answer.get("failed").map(Value::to_string).unwrap_or_default();
                Err(Failure(format!("Castor rejected {failed} values: {}", beginning(&which))))
            }
            _ => Ok(()),
        }
    }
}

/// The path of a participant, whose label may contain any characters.
fn of(study: &Study, participant: &str) -> Result<String, Failure> {
    Ok(format!("{}/participant/{}", study.path()?, segment(participant)?))
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null => Some(String::new()),
        _ => None,
    }
}

/// A value in the form that Castor expects; `None` for null. Several options of one field are separated by semicolons.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(text_of).collect::<Vec<_>>().join(";")),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// Whether two texts are equal, also as numbers: `7` equals `7.0`.
pub(super) fn same(there: &str, new: &str) -> bool {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    there == new
        || matches!((number(there), number(new)), (Some(there), Some(new)) if (there - new).abs() < f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_sent_as_castor_wants_them() {
        for (value, text) in [
            (json!(true), Some("true")),
            (json!(7), Some("7")),
            (json!(1.5), Some("1.5")),
            (json!("text"), Some("text")),
            (json!(["a", 2, null]), Some("a;2")),
            (json!(null), None),
        ] {
            assert_eq!(text_of(&value).as_deref(), text);
        }
        assert!(same("7", "7.0") && same("a", "a") && !same("7", "8") && !same("", "0"));
        let study = Study { id: "S/../T".to_owned() };
        assert_eq!(of(&study, "sub 01/x").unwrap(), "study/S%2F..%2FT/participant/sub%2001%2Fx");
        assert!(of(&study, "..").is_err());
    }
}
