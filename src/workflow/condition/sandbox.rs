//! Compiles and runs one expression in monty and enforces every limit on it.
//!
//! monty asks its host for everything that it cannot do itself (the time, files, unknown names, methods of our objects). This host
//! provides the time and denies the rest.

use std::{
    any::Any,
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use chrono::NaiveDateTime;
use monty::{MontyRun, RunProgress};
use monty_types::{
    CompileOptions, ExcType, ExtFunctionResult, MontyException, MontyObject, NameLookupResult, OsFunctionCall,
    PrintWriter, ResourceLimits, ResourceTracker,
};

use super::{
    EvaluationError, rewrite,
    syntax::{self, Reads, SyntaxError, error_at, one_line},
    values,
    worker::{Verdict, processor_time},
};

/// Maximum processor time of a run. A usual condition takes a few microseconds.
pub(super) const MAX_DURATION: Duration = Duration::from_millis(50);

/// Maximum time on the clock. monty's own limit uses the clock, so a busy machine, or a signal that stops the process, can end a harmless
/// run. Such a run does not count; the next one gets twice the time, up to this.
const MAX_PATIENCE: Duration = Duration::from_secs(4);

/// Number of times that a limit must be reached before it counts as the condition's own error.
pub(super) const REACHED: u32 = 2;

/// Maximum size in bytes of one large result (`'x' * n`, `10 ** n`), refused before it is created; monty checks no smaller ones. Most
/// oversized expressions end here with an ordinary error; the others end with the worker.
const MAX_RESULT: usize = 100_000;

/// Maximum nesting of calls and of values. Each level needs native stack.
const MAX_RECURSION: usize = 64;

/// Maximum number of questions to the host. They are counted because the clock of monty stops while the host answers.
const MAX_QUESTIONS: usize = 100;

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Program {
    run: MontyRun,
    pub(super) reads: Reads,
}

/// Checks and compiles a text. Since it is one expression on its own, it cannot close the parentheses added around it; they allow several
/// lines and a comment at the end. The compiled code returns the truth of the value: the value itself could be large, and would be copied.
pub(super) fn compile(text: &str) -> Result<Program, SyntaxError> {
    let reads = syntax::read(text)?;
    let parsed = syntax::parse_body(text)?;
    let body = text.trim();
    let body = syntax::expression(&parsed).map_or(Cow::Borrowed(body), |parsed| rewrite::supported(body, parsed));
    let code = format!("import datetime\nTrue if (\n{body}\n) else False");
    let names = vec!["experiment".to_owned(), "callbacks".to_owned()];
    let compiled = catch_unwind(|| MontyRun::new(code, "condition", names, CompileOptions::default()));
    let run = compiled
        .map_err(|panic| error_at(text, 0, &format!("the compiler failed: {}", panic_text(&*panic))))?
        .map_err(|exception| error_in(text, &exception))?;
    Ok(Program { run, reads })
}

/// Converts the place of an error from monty: two lines were added before the text, and blanks before it were removed.
fn error_in(text: &str, exception: &MontyException) -> SyntaxError {
    let mut error =
        error_at(text, text.len() - text.trim_start().len(), exception.message().unwrap_or("is not supported"));
    if let Some(frame) = exception.traceback().last() {
        let (line, column) = (frame.start.line as usize, frame.start.column as usize);
        if line > 3 {
            error.column = column;
        } else {
            error.column += column.saturating_sub(1);
        }
        error.line += line.saturating_sub(3);
    }
    error
}

/// Runs a condition on the values of its two names.
pub(super) fn run(program: &Program, inputs: &[MontyObject], now: NaiveDateTime) -> Verdict {
    let mut patience = MAX_DURATION;
    let mut reached = 0;
    loop {
        let began = processor_time();
        let outcome = attempt(program, inputs.to_vec(), now, patience);
        match outcome {
            Err(EvaluationError::TooLarge) => reached += 1,
            // 90 % of the limit count, because the clocks do not agree to the microsecond.
            Err(EvaluationError::TooSlow) if processor_time().saturating_sub(began) * 10 >= MAX_DURATION * 9 => {
                reached += 1;
            }
            Err(EvaluationError::TooSlow) if patience >= MAX_PATIENCE => return Verdict::Starved,
            Err(EvaluationError::TooSlow) => patience *= 2,
            outcome => return Verdict::Evaluated(outcome),
        }
        if reached >= REACHED {
            return Verdict::Evaluated(outcome);
        }
    }
}

/// One run. A panic in the interpreter becomes an error: the worker can continue, because nothing of the run outlives it.
fn attempt(
    program: &Program,
    inputs: Vec<MontyObject>,
    now: NaiveDateTime,
    patience: Duration,
) -> Result<bool, EvaluationError> {
    let run = &program.run;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // Questions for the time suspend the run, for which monty consumes the program; other conditions need no copy.
        if program.reads.clock {
            answering(run.clone(), inputs, now, patience)
        } else {
            run.run(inputs, tracker(patience), PrintWriter::Disabled)
        }
    }));
    match outcome {
        Ok(Ok(MontyObject::Bool(truth))) => Ok(truth),
        Ok(Ok(other)) => Err(EvaluationError::Broken(format!("answered {}", other.type_name()))),
        Ok(Err(exception)) => Err(raised(&exception)),
        Err(panic) => Err(EvaluationError::Broken(panic_text(&*panic))),
    }
}

/// Runs the program and answers its questions to the host.
fn answering(
    run: MontyRun,
    inputs: Vec<MontyObject>,
    now: NaiveDateTime,
    patience: Duration,
) -> Result<MontyObject, MontyException> {
    let mut progress = run.start(inputs, tracker(patience), PrintWriter::Disabled)?;
    for _ in 0..MAX_QUESTIONS {
        progress = match progress {
            RunProgress::Complete(value) => return Ok(value),
            RunProgress::OsCall(call) => call.resume_with(PrintWriter::Disabled, |call| answer(&call, now))?,
            RunProgress::NameLookup(lookup) => lookup.resume(NameLookupResult::Undefined, PrintWriter::Disabled)?,
            RunProgress::FunctionCall(call) => {
                let name = call.function_name.clone();
                // With an object it is a method of ours, and we have none; without an object the name is unknown.
                let answer =
                    if call.object_id.is_some() { denied(&name).into() } else { ExtFunctionResult::NotFound(name) };
                call.resume(answer, PrintWriter::Disabled)?
            }
            RunProgress::ResolveFutures(_) => return Err(denied("await")),
        };
    }
    Err(MontyException::runtime_error("a condition can request the time at most 100 times"))
}

/// Provides the time; denies everything else of the system.
fn answer(call: &OsFunctionCall, now: NaiveDateTime) -> ExtFunctionResult {
    match call {
        OsFunctionCall::DateTimeNow(None) => values::date_time(now).into(),
        OsFunctionCall::DateTimeNow(Some(zone)) => values::date_time_in(now, zone).into(),
        OsFunctionCall::DateToday => values::date(now.date()).into(),
        other => denied(other.name()).into(),
    }
}

fn denied(name: &str) -> MontyException {
    MontyException::new(ExcType::PermissionError, Some(format!("'{name}' is not available in a condition")))
}

fn tracker(patience: Duration) -> ResourceTracker {
    let limits =
        ResourceLimits::default().max_duration(patience).max_memory(MAX_RESULT).max_recursion_depth(MAX_RECURSION);
    ResourceTracker::new(limits)
}

fn raised(exception: &MontyException) -> EvaluationError {
    match exception.exc_type() {
        ExcType::TimeoutError => EvaluationError::TooSlow,
        ExcType::MemoryError => EvaluationError::TooLarge,
        // monty reports the bare key, Python its repr; both are the same for a number.
        ExcType::KeyError => match exception.message() {
            Some(key) if key.parse::<f64>().is_err() => {
                EvaluationError::Raised(one_line(&format!("KeyError: '{key}'")))
            }
            _ => EvaluationError::Raised(one_line(&exception.summary())),
        },
        _ => EvaluationError::Raised(one_line(&exception.summary())),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    one_line(text.unwrap_or("no message"))
}
