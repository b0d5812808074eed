//! Compiles and runs one expression in monty, and holds every limit on it.
//!
//! monty asks its host for whatever it cannot do itself (the time, files, unknown names, methods of our objects).
//! The host here knows the time and denies the rest.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use monty::{MontyRun, RunProgress};
use monty_types::{
    CompileOptions, ExcType, ExtFunctionResult, MontyException, MontyObject, NameLookupResult, OsFunctionCall,
    PrintWriter, ResourceLimits, ResourceTracker,
};

use super::{
    EvaluationError, Facts,
    syntax::{self, Reads, SyntaxError, error_at, one_line},
    values,
};

/// Time on the clock for running. A usual condition takes a few microseconds.
pub(super) const MAX_DURATION: Duration = Duration::from_millis(50);

/// Runs before [`EvaluationError::TooSlow`]. The limit is on the clock, not on the processor, so a machine that is
/// busy elsewhere can make an innocent condition late; it will hardly do so twice.
const ATTEMPTS: usize = 2;

/// Bytes of one large result (`'x' * n`, `10 ** n`), refused before it is made. Without its allocator monty does
/// not count what small pieces add up to; those are bounded by [`MAX_DURATION`].
const MAX_RESULT: usize = 100_000;

/// Calls inside calls, and values inside values. Each costs native stack somewhere.
const MAX_RECURSION: usize = 64;

/// Questions to the host. The clock of monty stands still while the host answers, so they are counted.
const MAX_QUESTIONS: usize = 100;

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Program {
    run: Result<MontyRun, String>,
    reads: Reads,
}

/// Checks and compiles. The expression was found to be one expression on its own, so the parentheses around it
/// cannot be closed by it; they let it go over several lines and end in a comment.
/// It is asked for its truth in there: the value itself could be large, and would be copied out.
pub(super) fn compile(text: &str) -> Result<Program, SyntaxError> {
    let reads = syntax::read(text)?;
    if let Some(refused) = &reads.refused {
        return Ok(Program { run: Err(refused.clone()), reads });
    }
    let code = format!("import datetime\nTrue if (\n{}\n) else False", text.trim());
    let names = vec!["experiment".to_owned(), "callbacks".to_owned()];
    let compiled = catch_unwind(|| MontyRun::new(code, "condition", names, CompileOptions::default()));
    let run = compiled
        .map_err(|panic| error_at(text, 0, &format!("the compiler failed: {}", panic_text(&*panic))))?
        .map_err(|exception| error_in(text, &exception))?;
    Ok(Program { run: Ok(run), reads })
}

/// Where monty found an error: two lines stand before the text, and blanks before it were taken off.
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

/// Runs a condition against facts.
pub(super) fn run(program: &Program, facts: &Facts) -> Result<bool, EvaluationError> {
    let run = program.run.as_ref().map_err(|refused| EvaluationError::Raised(refused.clone()))?;
    let mut outcome = Err(EvaluationError::TooSlow);
    for _ in 0..ATTEMPTS {
        outcome = attempt(run, &program.reads, facts);
        if outcome != Err(EvaluationError::TooSlow) {
            break;
        }
    }
    outcome
}

/// One run. A panic in the interpreter must not become one of ours: nothing it worked on outlives it.
fn attempt(run: &MontyRun, reads: &Reads, facts: &Facts) -> Result<bool, EvaluationError> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let inputs = values::inputs(facts, reads);
        // Asking for the time means suspending, for which monty wants the program for itself; others need no copy.
        if reads.clock { answering(run, inputs, facts) } else { run.run(inputs, tracker(), PrintWriter::Disabled) }
    }));
    match outcome {
        Ok(Ok(MontyObject::Bool(truth))) => Ok(truth),
        Ok(Ok(other)) => Err(EvaluationError::Broken(format!("answered {}", other.type_name()))),
        Ok(Err(exception)) => Err(raised(&exception)),
        Err(panic) => Err(EvaluationError::Broken(panic_text(&*panic))),
    }
}

/// Runs and answers what the host is asked.
fn answering(run: &MontyRun, inputs: Vec<MontyObject>, facts: &Facts) -> Result<MontyObject, MontyException> {
    let mut progress = run.clone().start(inputs, tracker(), PrintWriter::Disabled)?;
    for _ in 0..MAX_QUESTIONS {
        progress = match progress {
            RunProgress::Complete(value) => return Ok(value),
            RunProgress::OsCall(call) => call.resume_with(PrintWriter::Disabled, |call| answer(&call, facts))?,
            RunProgress::NameLookup(lookup) => lookup.resume(NameLookupResult::Undefined, PrintWriter::Disabled)?,
            RunProgress::FunctionCall(call) => {
                let denied = denied(&call.function_name);
                call.resume(ExtFunctionResult::Error(denied), PrintWriter::Disabled)?
            }
            RunProgress::ResolveFutures(_) => return Err(denied("await")),
        };
    }
    Err(MontyException::runtime_error("a condition may ask for the time at most 100 times"))
}

/// The clock is ours; nothing else of the system is.
fn answer(call: &OsFunctionCall, facts: &Facts) -> ExtFunctionResult {
    match call {
        OsFunctionCall::DateTimeNow(None) => values::date_time(facts.now).into(),
        OsFunctionCall::DateToday => values::date(facts.now.date()).into(),
        other => denied(other.name()).into(),
    }
}

fn denied(name: &str) -> MontyException {
    MontyException::new(ExcType::PermissionError, Some(format!("'{name}' is not available in a condition")))
}

fn tracker() -> ResourceTracker {
    let limits =
        ResourceLimits::default().max_duration(MAX_DURATION).max_memory(MAX_RESULT).max_recursion_depth(MAX_RECURSION);
    ResourceTracker::new(limits)
}

fn raised(exception: &MontyException) -> EvaluationError {
    match exception.exc_type() {
        ExcType::TimeoutError => EvaluationError::TooSlow,
        ExcType::MemoryError => EvaluationError::TooLarge,
        _ => EvaluationError::Raised(one_line(&exception.summary())),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    one_line(text.unwrap_or("no message"))
}
