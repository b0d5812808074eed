//! Tests that [`super::scope`] would detect a query whose author forgot the context: each query that is restricted to
//! certain cohorts is opened in turn, in a separate server (`STUDYGOV_FAULT`, debug builds only), and a response must
//! then show more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::scope::{HIDDEN, Question, hidden_ids, questions, shows_hidden, two_cohorts_with};
use super::{GOOD, House, Visitor};
use crate::api::Caller;
use crate::support::Backend;

/// Queries behind other queries, so that opening them alone shows nothing: file and function. The test writes this file
/// if `UPDATE_REFERENCE` is set.
const BEHIND_OTHERS: &str = "tests/people/opened.txt";

/// The browser and the API client of Rita, who may do everything in one of two cohorts.
async fn rita(house: &House) -> (Visitor, Caller) {
    house.add("rita", &["user"]).await;
    house.scope("rita", "keeper", &json!(["plain-cohort"])).await;
    (Visitor::logged_in(house.url(), "rita", GOOD).await, house.server.basic("rita", GOOD))
}

/// The function in the source at a line, with its file.
fn function_at(place: &str) -> String {
    let (file, line) = place.rsplit_once(':').unwrap();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let above = text.lines().take(line.parse().unwrap()).filter_map(|line| line.split_once("fn "));
    let name = above.last().map_or("", |(_, rest)| rest);
    format!("{file} {}", name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap())
}

/// The response without durations (`5 s ago`, `just now`).
async fn answer(question: &Question, visitor: &Visitor, api: &Caller) -> (u16, String) {
    let (status, text) = question.ask(visitor, api).await;
    let text = text.replace("just now", "1 s ago");
    let parts = text.split(" ago").map(|part| part.trim_end_matches(|c: char| c.is_alphanumeric() || c == ' '));
    (status, parts.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_query_is_found_by_the_walk() {
    let folder = tempfile::tempdir().unwrap();
    let (passed, open) = (folder.path().join("passed"), folder.path().join("open"));
    let fault = format!("open-query:{}", folder.path().display());
    let house = two_cohorts_with(Backend::Sqlite, &[("STUDYGOV_FAULT", &fault)]).await;
    let (visitor, api) = rita(&house).await;
    let hidden = hidden_ids(&house.server.admin()).await;
    let questions = questions(&api, true).await;
    // The questions that use each query.
    let mut askers: BTreeMap<String, Vec<&Question>> = BTreeMap::new();
    for question in &questions {
        std::fs::write(&passed, "").unwrap();
        question.ask(&visitor, &api).await;
        let places: BTreeSet<String> = std::fs::read_to_string(&passed).unwrap().lines().map(str::to_owned).collect();
        for place in places {
            askers.entry(place).or_default().push(question);
        }
    }
    assert!(askers.len() > 30, "the queries were not found: {askers:?}", askers = askers.keys());
    let mut unseen = BTreeSet::new();
    for (place, questions) in &askers {
        let mut is_seen = false;
        for question in questions {
            // Twice, so that an unrelated change at this moment is not taken for it.
            let mut differs = true;
            for _ in 0..2 {
                std::fs::write(&open, place).unwrap();
                let opened = answer(question, &visitor, &api).await;
                is_seen |= shows_hidden(opened.0, &opened.1, &hidden);
                std::fs::write(&open, "").unwrap();
                differs = differs && !is_seen && opened != answer(question, &visitor, &api).await;
            }
            // A changed number is detected by the test below.
            is_seen |= differs;
            if is_seen {
                break;
            }
        }
        if !is_seen {
            unseen.insert(function_at(place));
        }
    }
    let unseen: String = unseen.iter().map(|one| format!("{one}\n")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(BEHIND_OTHERS);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &unseen).unwrap();
    }
    assert_eq!(unseen, std::fs::read_to_string(&path).unwrap(), "of {} queries", askers.len());
}

/// Additions to a cohort that a user cannot see change no response, including numbers.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_changes_with_another_cohort() {
    let house = two_cohorts_with(Backend::Sqlite, &[]).await;
    let (visitor, api) = rita(&house).await;
    // Her account page shows until when she is logged in.
    let mut questions = questions(&api, false).await;
    questions.retain(|question| !question.name().starts_with("/account"));
    let mut answers = [Vec::new(), Vec::new()];
    for answers in &mut answers {
        for question in &questions {
            answers.push(answer(question, &visitor, &api).await);
        }
    }
    let admin = house.server.admin();
    let label = |kind: &str| format!("{HIDDEN}-{kind}-more");
    let subject = json!({ "label": label("subject"), "cohort_label": format!("{HIDDEN}-cohort") });
    let subject = admin.post("/api/v2/subjects", subject).await.expect(201);
    let experiment = json!({ "label": label("experiment"), "scandate": "2024-03-01", "subject_id": subject["id"] });
    let experiment = admin.post("/api/v2/experiments", experiment).await.expect(201);
    let ids = json!({ "external_ids": { "XNAT": label("XE") } });
    admin.post(&format!("/api/v2/experiments/{}/external_ids", experiment["id"]), ids).await.expect(201);
    let scan = json!({ "scantype_protocol": "T1w", "experiment_id": experiment["id"] });
    admin.post("/api/v2/scans", scan).await.expect(201);
    let mut compared = 0;
    let [first, second] = answers;
    for ((question, first), second) in questions.iter().zip(first).zip(second) {
        // Responses that change anyway prove nothing.
        if first == second {
            compared += 1;
            assert_eq!(answer(question, &visitor, &api).await, second, "{}", question.name());
        }
    }
    assert!(compared * 2 > questions.len(), "{compared} of {} are the same each time", questions.len());
}
