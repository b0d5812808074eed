//! Limits the size of result values, measured as the JSON that is sent.

use serde_json::Value;

use super::log::cut;
use super::{Outcome, RunLog};

/// Limit of result values in bytes of JSON. A report also contains the log (2 MiB), and a server accepts 16 MiB.
const MOST: usize = 12 * 1024 * 1024;

/// Printed or received texts, which are cut in the middle when they are too long. All other values are data and are never
/// cut.
const TEXTS: [&str; 6] = ["stdout", "stderr", "body", "response_text", "__exception__", "__traceback__"];

/// Returns the outcome if its values are small enough, otherwise with its texts cut, or else a failure with the reason.
pub(super) fn fitted(mut outcome: Outcome, log: &RunLog) -> Outcome {
    let size = |outcome: &Outcome| serde_json::to_string(&outcome.values).map_or(0, |text| text.len());
    if size(&outcome) <= MOST {
        return outcome;
    }
    for name in TEXTS {
        if let Some(Value::String(text)) = outcome.values.get_mut(name) {
            let (before, shorter) = (text.len(), cut(std::mem::take(text)));
            if shorter.len() < before {
                log.line(&format!("{name} is too long for a report ({before} bytes) and is truncated in the middle"));
            }
            *text = shorter;
        }
    }
    let size = size(&outcome);
    if size <= MOST {
        return outcome;
    }
    let (mebibytes, most) = (size.div_ceil(1 << 20), MOST >> 20);
    let reason = format!("the result values have {mebibytes} MiB as JSON; the limit is {most} MiB");
    log.line(&format!("failed: {reason}"));
    Outcome::failed(&reason)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fitted_values(values: Value) -> (Outcome, String) {
        let log = RunLog::default();
        (fitted(Outcome::success(values), &log), log.text())
    }

    #[test]
    fn texts_are_cut_and_data_is_not() {
        let long = "\u{1}".repeat(3 * 1024 * 1024);
        let (kept, log) = fitted_values(json!({ "body": long, "status": 200 }));
        assert!(kept.is_success && kept.values["status"] == 200);
        assert!(kept.values["body"].as_str().unwrap().contains("bytes omitted"));
        assert!(log.contains("body is too long"), "{log}");
        assert!(serde_json::to_string(&kept.values).unwrap().len() < MOST);
        let (failed, log) = fitted_values(json!({ "return_value": long }));
        assert!(!failed.is_success);
        assert!(log.contains("19 MiB as JSON; the limit is 12 MiB"), "{log}");
        let (kept, log) = fitted_values(json!({ "return_value": "x".repeat(MOST - 100) }));
        assert!(kept.is_success && log.is_empty());
    }
}
