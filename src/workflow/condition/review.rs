//! Finds uses of Python in a condition that the sandbox does not support, with their places, when a workflow is checked and before an
//! experiment gets stuck. The tables list what works in version 0.0.23 of the interpreter and in `rewrite`, as found by trying.

use std::{collections::HashSet, str::FromStr};

use monty_types::{BuiltinsFunctions, ExcType};
use ruff_python_ast::{
    CmpOp, Expr, ExprAttribute, ExprContext, Operator, Parameter,
    visitor::{Visitor, walk_expr, walk_parameter},
};
use ruff_text_size::{Ranged, TextSize};

use super::{
    SyntaxError, percent,
    rewrite::{is_datetime_class, is_harmless, is_now, is_of_sets, is_set, is_text_method},
    syntax,
};

/// A part of a condition that will fail when it is evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line inside the text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    pub message: String,
}

/// Known names besides the builtin functions and exceptions.
const NAMES: [&str; 18] = [
    "Ellipsis",
    "bool",
    "bytes",
    "callbacks",
    "datetime",
    "dict",
    "experiment",
    "float",
    "frozenset",
    "int",
    "iter",
    "list",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "property",
];

/// Attributes of `experiment` and of each of `callbacks`.
const EXPERIMENT: [&str; 4] = ["label", "scandate", "state", "variables"];
const CALLBACK: [&str; 3] = ["status", "result", "result_values"];

/// The classes of the module `datetime`, and their class attributes.
const MODULE: [&str; 5] = ["date", "datetime", "time", "timedelta", "timezone"];
const CLASSES: [(&str, &[&str]); 5] = [
    ("date", &["fromisoformat", "today"]),
    ("datetime", &["fromisoformat", "now", "strptime"]),
    ("time", &["fromisoformat"]),
    ("timedelta", &[]),
    ("timezone", &["utc"]),
];

/// Attributes and methods of values of any type.
const ATTRIBUTES: [&str; 99] = [
    // texts and bytes
    "capitalize",
    "casefold",
    "center",
    "count",
    "decode",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "hex",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
    // lists, mappings, sets
    "add",
    "append",
    "clear",
    "copy",
    "difference",
    "discard",
    "extend",
    "fromkeys",
    "fromhex",
    "get",
    "insert",
    "intersection",
    "isdisjoint",
    "issubset",
    "issuperset",
    "items",
    "keys",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "symmetric_difference",
    "union",
    "update",
    "values",
    // times
    "date",
    "day",
    "days",
    "dst",
    "fold",
    "hour",
    "isoformat",
    "isoweekday",
    "microsecond",
    "microseconds",
    "minute",
    "month",
    "second",
    "seconds",
    "strftime",
    "time",
    "timestamp",
    "timetz",
    "total_seconds",
    "tzinfo",
    "tzname",
    "utcoffset",
    "weekday",
    "year",
    // errors, numbers
    "args",
    "is_integer",
    "stop",
];

/// Checks a condition like [`check`](super::check), and lists its parts that the sandbox does not support.
///
/// # Errors
/// The first error for which the condition is refused.
pub fn review(text: &str) -> Result<Vec<Finding>, SyntaxError> {
    super::check(text)?;
    if super::is_blank(text) {
        return Ok(Vec::new());
    }
    let start = text.len() - text.trim_start().len();
    let parsed = syntax::parse_body(text)?;
    let Some(expression) = syntax::expression(&parsed) else { return Ok(Vec::new()) };
    let mut bound = Bound::default();
    bound.visit_expr(expression);
    let mut walk = Walk { bound: bound.names, found: Vec::new() };
    walk.visit_expr(expression);
    let finding = |(at, message): (TextSize, String)| {
        let place = syntax::error_at(text, start + usize::from(at), &message);
        Finding { line: place.line, column: place.column, message: place.message }
    };
    Ok(walk.found.into_iter().map(finding).collect())
}

/// Names that comprehensions and lambdas bind.
#[derive(Default)]
struct Bound {
    names: HashSet<String>,
}

impl<'a> Visitor<'a> for Bound {
    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Name(name) = expr
            && name.ctx != ExprContext::Load
        {
            self.names.insert(name.id.to_string());
        }
        walk_expr(self, expr);
    }

    fn visit_parameter(&mut self, parameter: &'a Parameter) {
        self.names.insert(parameter.name.to_string());
        walk_parameter(self, parameter);
    }
}

struct Walk {
    bound: HashSet<String>,
    found: Vec<(TextSize, String)>,
}

impl Walk {
    fn say(&mut self, at: TextSize, message: String) {
        self.found.push((at, message));
    }

    fn name(&mut self, name: &str, at: TextSize) {
        let is_builtin = BuiltinsFunctions::from_str(name).is_ok() || ExcType::from_str(name).is_ok();
        let is_refused = syntax::is_refused(name);
        if self.bound.contains(name) || (!is_refused && (is_builtin || NAMES.contains(&name))) {
            return;
        }
        let message = match name {
            "math" | "re" | "json" | "os" | "sys" | "time" => {
                format!("the module '{name}' is not available in a condition; only 'datetime' is")
            }
            "type" | "getattr" | "hasattr" | "pow" => format!("'{name}' is not available in this form in a condition"),
            _ => format!("the name '{name}' is not available in a condition"),
        };
        self.say(at, message);
    }

    fn attribute(&mut self, expr: &Expr, attribute: &ExprAttribute) {
        let (name, at) = (attribute.attr.as_str(), attribute.attr.start());
        if is_now(expr) || is_text_method(expr) {
            return;
        }
        let known = |names: &[&str]| names.contains(&name);
        let message = match &*attribute.value {
            Expr::Name(value) if value.id == "experiment" && !self.bound.contains("experiment") => {
                (!known(&EXPERIMENT)).then(|| {
                    format!(
                        "'experiment' has no '{name}' in a condition; available: {}",
                        EXPERIMENT.join(
                            ", \
                        "
                        )
                    )
                })
            }
            Expr::Name(value) if value.id == "datetime" && !self.bound.contains("datetime") => {
                (!known(&MODULE)).then(|| {
                    format!(
                        "the module 'datetime' has no '{name}' in a condition; available: \
                    {}",
                        MODULE.join(", ")
                    )
                })
            }
            Expr::Name(value) if matches!(value.id.as_str(), "str" | "int" | "float" | "list" | "bool" | "tuple") => {
                Some(format!("'{}.{name}' is not available in a condition", value.id))
            }
            value if is_callback(value) => (!known(&CALLBACK)).then(|| {
                format!(
                    "a callback has no '{name}' in a condition; available: \
                    {}",
                    CALLBACK.join(", ")
                )
            }),
            value => match CLASSES.iter().find(|(class, _)| is_datetime_class(value, class)) {
                Some((class, has)) => {
                    (!known(has)).then(|| format!("'datetime.{class}.{name}' is not available in a condition"))
                }
                None => {
                    let is_known = known(&ATTRIBUTES) || known(&CALLBACK) || known(&EXPERIMENT);
                    (!is_known).then(|| format!("'.{name}' is not available in a condition"))
                }
            },
        };
        if let Some(message) = message {
            self.say(at, message);
        }
    }

    fn operation(&mut self, expr: &Expr) {
        match expr {
            Expr::BinOp(operation)
                if operation.op == Operator::Mod
                    && operation.left.is_string_literal_expr()
                    && percent::as_format(operation).is_none() =>
            {
                let message = "this form of '%' on a string is not available in a condition; use an f-string";
                self.say(expr.start(), message.to_owned());
            }
            Expr::BinOp(operation)
                if operation.op == Operator::BitOr
                    && operation.left.is_dict_expr()
                    && operation.right.is_dict_expr() =>
            {
                let message = "'|' of mappings is not available in a condition; use {**a, **b}";
                self.say(expr.start(), message.to_owned());
            }
            Expr::Compare(compare) if !is_of_sets(compare) => {
                let by_size =
                    compare.ops.iter().any(|one| matches!(one, CmpOp::Lt | CmpOp::LtE | CmpOp::Gt | CmpOp::GtE));
                let any_set = is_set(&compare.left) || compare.comparators.iter().any(is_set);
                if by_size && any_set {
                    let message = "a set can only be compared with '<' or '>' to another set; use issubset or \
                        issuperset";
                    self.say(expr.start(), message.to_owned());
                }
            }
            _ => {}
        }
    }
}

/// `callbacks['label']`
fn is_callback(expr: &Expr) -> bool {
    matches!(expr, Expr::Subscript(subscript) if matches!(&*subscript.value, Expr::Name(name) if name.id == "callbacks"))
}

impl<'a> Visitor<'a> for Walk {
    fn visit_expr(&mut self, expr: &'a Expr) {
        self.operation(expr);
        match expr {
            Expr::Name(name) if name.ctx == ExprContext::Load => self.name(&name.id, name.start()),
            Expr::Attribute(attribute) => self.attribute(expr, attribute),
            Expr::Call(call) if is_harmless(call) => {
                // The name of the function is refused in other forms only.
                for argument in &*call.arguments.args {
                    self.visit_expr(argument);
                }
                return;
            }
            _ => {}
        }
        walk_expr(self, expr);
    }
}
