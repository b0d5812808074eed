//! Decides which conditions may be compiled: exactly one expression, of bounded size and depth, without assignment.
//!
//! The limits apply before parsing, because parser, compiler and interpreter recurse over the tree, and a stack overflow ends the process:
//! it cannot be caught.

use std::{collections::BTreeSet, str::FromStr};

use monty_types::{BuiltinsFunctions, ExcType};
use ruff_python_ast::{
    Expr, ExprContext, Mod, Parameter,
    token::TokenKind,
    visitor::{Visitor, walk_expr, walk_parameter},
};
use ruff_python_parser::{Mode, ParseOptions, Parsed, lexer, parse};
use ruff_text_size::Ranged;
use serde::{Deserialize, Serialize};

use super::rewrite;

/// Maximum length of a text in bytes. The longest condition seen in use has about 200.
pub(super) const MAX_TEXT: usize = 10_000;

/// Maximum number of tokens. `a.b.c.d…` is parsed without recursion into a tree as deep as it has tokens, and dropping that tree recurses:
/// so the number is limited before a tree is built.
const MAX_TOKENS: usize = 1_500;

/// Maximum depth while parsing (parentheses, `not not …`, `lambda: lambda: …`), and of the resulting tree. It is below the limits of the
/// parser and of monty (about 200), which assume a stack of their own.
const MAX_DEPTH: u16 = 64;

/// Builtins of monty that conditions do not need: they access the host, write, or bypass the rule about names with two underscores. The
/// sandbox also refuses everything that needs the host. `pow` with three arguments can run for hours in one step, which no limit
/// interrupts; with two it is rewritten to `**`, which has a limit.
const DENIED: [&str; 10] = ["open", "print", "pow", "id", "getattr", "hasattr", "setattr", "type", "object", "input"];

/// Builtins that monty implements as types, besides those in [`BuiltinsFunctions`].
const TYPES: [&str; 15] = [
    "bool",
    "bytes",
    "dict",
    "float",
    "frozenset",
    "int",
    "iter",
    "list",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "type",
];

/// The text is not one acceptable expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    /// The error, in one line.
    pub message: String,
    /// Line inside the text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// The names that the expression reads, so that only those become Python values.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The name `experiment` occurs.
    pub(super) experiment: bool,
    /// `callbacks` occurs other than as `callbacks['label']`.
    pub(super) all_callbacks: bool,
    /// The labels of each `callbacks['label']`.
    pub(super) labels: BTreeSet<String>,
    /// `now` or `today` occurs: the interpreter will ask the host for the time.
    pub(super) clock: bool,
    /// A part that is refused during evaluation: a line such as `NameError: …`.
    pub(super) refused: Option<String>,
}

/// Parses the text and visits every node once.
pub(super) fn read(text: &str) -> Result<Reads, SyntaxError> {
    let parsed = parse_body(text)?;
    let start = text.len() - text.trim_start().len();
    let mut walk = Walk { reads: Reads::default(), depth: 0, error: None };
    if let Some(expression) = expression(&parsed) {
        walk.visit_expr(expression);
    }
    match walk.error {
        Some((offset, message)) => Err(error_at(text, start + offset, message)),
        None => Ok(walk.reads),
    }
}

/// Parses the text without surrounding blanks: `eval` strips leading ones, and YAML blocks add them.
pub(super) fn parse_body(text: &str) -> Result<Parsed<Mod>, SyntaxError> {
    refuse_size(text)?;
    let start = text.len() - text.trim_start().len();
    let options = ParseOptions::from(Mode::Expression).with_max_recursion_depth(MAX_DEPTH);
    parse(text.trim(), options)
        .map_err(|e| error_at(text, start + usize::from(e.location.start()), &e.error.to_string()))
}

/// The parsed expression.
pub(super) fn expression(parsed: &Parsed<Mod>) -> Option<&Expr> {
    if let Mod::Expression(module) = parsed.syntax() { Some(&module.body) } else { None }
}

/// Names that a condition cannot use, except in a few harmless forms ([`rewrite::is_harmless`]).
pub(super) fn is_refused(name: &str) -> bool {
    name.starts_with("__") || DENIED.contains(&name)
}

fn refuse_size(text: &str) -> Result<(), SyntaxError> {
    if text.len() > MAX_TEXT {
        return Err(error_at(text, 0, &format!("a condition has at most {MAX_TEXT} characters")));
    }
    if let Some(at) = text.find('\0') {
        return Err(error_at(text, at, "a condition cannot contain null bytes"));
    }
    let mut tokens = lexer::lex(text.trim(), Mode::Expression);
    let small = (0..MAX_TOKENS).any(|_| tokens.next_token() == TokenKind::EndOfFile);
    if small { Ok(()) } else { Err(error_at(text, 0, "the condition is too long")) }
}

/// Converts a byte offset to line and column, counted as in editors.
pub(super) fn error_at(text: &str, offset: usize, message: &str) -> SyntaxError {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    SyntaxError {
        message: one_line(message),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// A message that fits in a log line and a form field. It may quote the text of a condition, so it is shortened.
pub(super) fn one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 200 { line } else { line.chars().take(200).chain(['…']).collect() }
}

struct Walk {
    reads: Reads,
    depth: u16,
    error: Option<(usize, &'static str)>,
}

impl Walk {
    fn name(&mut self, name: &str) {
        match name {
            "experiment" => self.reads.experiment = true,
            "callbacks" => self.reads.all_callbacks = true,
            _ if is_refused(name) => {
                self.reads.refused.get_or_insert_with(|| one_line(&format!("NameError: name '{name}' is not defined")));
            }
            _ => {}
        }
    }

    fn attribute(&mut self, name: &str) {
        match name {
            // `__class__` and the like lead from any value to the internals of the interpreter.
            _ if name.starts_with("__") => {
                self.reads
                    .refused
                    .get_or_insert_with(|| one_line(&format!("AttributeError: '{name}' is not available")));
            }
            "now" | "today" | "utcnow" => self.reads.clock = true,
            _ => {}
        }
    }

    /// Refuses builtins as variables: monty reads the builtin even where a comprehension or a lambda binds the name, so that
    /// `[id for id in [1]] == [1]` would be false. A wrong answer is worse than none.
    fn bind(&mut self, name: &str, at: usize) {
        let builtin =
            TYPES.contains(&name) || BuiltinsFunctions::from_str(name).is_ok() || ExcType::from_str(name).is_ok();
        if builtin {
            self.error.get_or_insert((at, "the name of a builtin cannot be used as a variable"));
        }
    }

    fn refuse(&mut self, at: &Expr, message: &'static str) {
        self.error.get_or_insert((usize::from(at.start()), message));
    }

    /// `callbacks['label']` needs only that one callback. A missing label is a `KeyError` either way.
    fn label(&mut self, expr: &Expr) -> bool {
        if let Expr::Subscript(subscript) = expr
            && let Expr::Name(name) = &*subscript.value
            && name.id == "callbacks"
            && let Expr::StringLiteral(label) = &*subscript.slice
        {
            self.reads.labels.insert(label.value.to_str().to_owned());
            return true;
        }
        false
    }
}

impl<'a> Visitor<'a> for Walk {
    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            _ if self.error.is_some() || self.label(expr) => return,
            _ if self.depth >= MAX_DEPTH => return self.refuse(expr, "the condition is nested too deeply"),
            // A condition reads and changes nothing, not even its own names.
            Expr::Named(_) => return self.refuse(expr, "':=' is not allowed in a condition"),
            Expr::Await(_) => return self.refuse(expr, "'await' is not allowed in a condition"),
            Expr::Yield(_) | Expr::YieldFrom(_) => return self.refuse(expr, "'yield' is not allowed in a condition"),
            Expr::Starred(_) if self.depth == 0 => return self.refuse(expr, "cannot use starred expression here"),
            // The result of `type` may be compared; a call of it would create an object.
            Expr::Call(call) if matches!(&*call.func, Expr::Call(inner) if rewrite::is_harmless(inner)) => {
                self.reads.refused.get_or_insert_with(|| "TypeError: this result cannot be called".to_owned());
            }
            Expr::Call(call) if rewrite::is_harmless(call) => {
                self.depth += 1;
                for argument in &*call.arguments.args {
                    self.visit_expr(argument);
                }
                self.depth -= 1;
                return;
            }
            Expr::Name(name) if name.ctx == ExprContext::Load => self.name(&name.id),
            Expr::Name(name) => self.bind(&name.id, usize::from(name.start())),
            Expr::Attribute(attribute) => self.attribute(&attribute.attr),
            _ => {}
        }
        self.depth += 1;
        walk_expr(self, expr);
        self.depth -= 1;
    }

    fn visit_parameter(&mut self, parameter: &'a Parameter) {
        self.bind(parameter.name.as_str(), usize::from(parameter.name.start()));
        walk_parameter(self, parameter);
    }
}
