//! `sleep`: waits, and returns its other arguments. For testing workflows.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Failure, Outcome, RunLog};

pub(super) async fn run(mut arguments: Map<String, Value>, log: &RunLog) -> Result<Outcome, Failure> {
    let seconds = match arguments.remove("seconds") {
        None | Some(Value::Null) => 0.0,
        Some(Value::Number(number)) => number.as_f64().unwrap_or(0.0),
        Some(Value::String(text)) => {
            text.trim().parse().map_err(|_| Failure(format!("seconds: '{text}' is not a number")))?
        }
        Some(other) => return Err(Failure(format!("seconds: {other} is not a number"))),
    };
    let duration =
        Duration::try_from_secs_f64(seconds).map_err(|_| Failure(format!("seconds: {seconds} is not a duration")))?;
    log.line(&format!("sleeping for {seconds} seconds"));
    tokio::time::sleep(duration).await;
    let mut values = Map::new();
    values.insert("sleep_duration".to_owned(), whole(seconds));
    values.insert("extra_kwargs".to_owned(), Value::Object(arguments));
    Ok(Outcome { is_success: true, values })
}

/// Whole seconds as an integer: `5`, not `5.0`.
fn whole(seconds: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number that fits")]
    if seconds.fract() == 0.0 && seconds.abs() < 1e15 { json!(seconds as i64) } else { json!(seconds) }
}
