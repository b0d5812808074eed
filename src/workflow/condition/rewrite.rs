//! Rewrites Python that the interpreter does not support: `datetime.datetime.utcnow()` becomes `….now()`, which is UTC here too;
//! `'%s' % x` becomes a call of `format`. Only expressions with exactly the same meaning are rewritten; others fail during evaluation, and
//! [`review`](super::review) reports them when the workflow is checked.

use std::borrow::Cow;

use ruff_python_ast::{
    CmpOp, Expr, ExprBinOp, ExprCall, ExprCompare, Number, Operator,
    visitor::{Visitor, walk_expr},
};
use ruff_text_size::{Ranged, TextRange, TextSize};

use super::percent;

/// Methods of texts that conditions may use without a text (`key=str.lower`).
const TEXT_METHODS: [&str; 14] = [
    "capitalize",
    "casefold",
    "isalnum",
    "isalpha",
    "isdigit",
    "isspace",
    "lower",
    "lstrip",
    "rstrip",
    "split",
    "strip",
    "swapcase",
    "title",
    "upper",
];

/// The parameters of `timedelta` in order, with their microseconds.
const UNITS: [(&str, u64); 7] = [
    ("days", 86_400_000_000),
    ("seconds", 1_000_000),
    ("microseconds", 1),
    ("milliseconds", 1_000),
    ("minutes", 60_000_000),
    ("hours", 3_600_000_000),
    ("weeks", 604_800_000_000),
];

/// The text in a form that the interpreter supports. `expression` was parsed from `text`.
pub(super) fn supported<'a>(text: &'a str, expression: &Expr) -> Cow<'a, str> {
    let mut rewriter = Rewriter { text, edits: Vec::new() };
    rewriter.visit_expr(expression);
    if rewriter.edits.is_empty() {
        return Cow::Borrowed(text);
    }
    // Edits of inner expressions are between those of outer ones and never overlap them; of two edits at the same place, the outer one was
    // found first and comes first.
    rewriter.edits.sort_by_key(|(range, _)| (range.start(), range.end()));
    let (mut out, mut at) = (String::with_capacity(text.len() + 64), 0);
    for (range, replacement) in rewriter.edits {
        let (start, end) = (usize::from(range.start()), usize::from(range.end()));
        out.push_str(text.get(at..start).unwrap_or_default());
        out.push_str(&replacement);
        at = end.max(at);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

struct Rewriter<'a> {
    text: &'a str,
    edits: Vec<(TextRange, String)>,
}

impl Rewriter<'_> {
    fn replace(&mut self, start: TextSize, end: TextSize, by: impl Into<String>) {
        self.edits.push((TextRange::new(start, end), by.into()));
    }

    /// Replaces the text around an inner expression (blanks, parentheses) by `before` and `after`.
    fn around(&mut self, outer: TextRange, inner: &Expr, before: &str, after: &str) {
        self.replace(outer.start(), inner.start(), before);
        self.replace(inner.end(), outer.end(), after);
    }

    /// Like [`Self::around`], for two inner expressions with `between` in the middle.
    fn pair(&mut self, outer: TextRange, [left, right]: [&Expr; 2], [before, between, after]: [&str; 3]) {
        self.replace(outer.start(), left.start(), before);
        self.replace(left.end(), right.start(), between);
        self.replace(right.end(), outer.end(), after);
    }

    fn call(&mut self, call: &ExprCall) {
        match what_is_called(call) {
            Called::Power => {
                let [left, right] = &*call.arguments.args else { return };
                self.pair(call.range(), [left, right], ["((", ") ** (", "))"]);
            }
            Called::NextOfGenerator => {
                let Some(first) = call.arguments.args.first() else { return };
                self.edits.push((TextRange::empty(first.start()), "iter(".to_owned()));
                self.edits.push((TextRange::empty(first.end()), ")".to_owned()));
            }
            Called::IsInteger(value) => self.around(call.range(), value, "((", ") % 1 == 0)"),
            Called::Timedelta => self.timedelta(call),
            Called::Other => {}
        }
    }

    /// The interpreter only accepts whole numbers, and microseconds are whole.
    fn timedelta(&mut self, call: &ExprCall) {
        let positional = call.arguments.args.iter().zip(UNITS).map(|(value, (_, factor))| (value, factor));
        let named = call.arguments.keywords.iter().filter_map(|keyword| {
            let (_, factor) = UNITS.into_iter().find(|(unit, _)| Some(*unit) == keyword.arg.as_deref())?;
            Some((&keyword.value, factor))
        });
        let parts: Vec<(&Expr, u64)> = positional.chain(named).collect();
        let mut at = call.arguments.start();
        let mut before = "(microseconds=int(round((".to_owned();
        for (value, factor) in parts {
            self.replace(at, value.start(), before);
            at = value.end();
            before = format!(") * {factor} + (");
        }
        let end = before.trim_end_matches(" + (").to_owned() + ")))";
        self.replace(at, call.arguments.end(), end);
    }

    fn compare(&mut self, compare: &ExprCompare) {
        if !is_of_sets(compare) {
            return;
        }
        let ([operator], [right]) = (&*compare.ops, &*compare.comparators) else { return };
        let (left, range) = (&*compare.left, compare.range());
        let other = |expr: &Expr| self.text[TextRange::new(expr.start(), expr.end())].to_owned();
        let (left_text, right_text) = (other(left), other(right));
        // A strict comparison also needs `!=`, so both sides are written twice, without edits inside of them: edits would apply only once.
        let is_strict = matches!(operator, CmpOp::Lt | CmpOp::Gt);
        let method = if matches!(operator, CmpOp::Lt | CmpOp::LtE) { "issubset" } else { "issuperset" };
        if is_strict {
            let both =
                format!("(set({left_text}).{method}(set({right_text})) and set({left_text}) != set({right_text}))");
            self.replace(range.start(), range.end(), both);
        } else {
            self.pair(range, [left, right], ["(set(", &format!(").{method}(set("), ")))"]);
        }
    }

    fn division(&mut self, division: &ExprBinOp) -> bool {
        if !is_timedelta(&division.right) {
            return false;
        }
        let sides = [&*division.left, &*division.right];
        let seconds = ".total_seconds()";
        match division.op {
            Operator::Div => {
                let between = format!("){seconds} / (");
                self.pair(division.range(), sides, ["((", &between, &format!("){seconds})")]);
            }
            Operator::FloorDiv => {
                let between = format!("){seconds} // (");
                self.pair(division.range(), sides, ["int((", &between, &format!("){seconds})")]);
            }
            _ => return false,
        }
        true
    }

    fn percent(&mut self, formatted: &ExprBinOp) {
        if let Some([before, after]) = percent::as_format(formatted) {
            let right = &*formatted.right;
            self.replace(formatted.start(), right.start(), before);
            self.replace(right.end(), formatted.end(), after);
        }
    }
}

impl<'a> Visitor<'a> for Rewriter<'_> {
    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Attribute(attribute) if is_now(expr) => {
                self.replace(attribute.attr.start(), attribute.attr.end(), "now");
            }
            Expr::Attribute(attribute) if is_text_method(expr) => {
                let method = format!("(lambda s, *a: s.{}(*a))", attribute.attr.as_str());
                self.replace(expr.start(), expr.end(), method);
                return;
            }
            Expr::Call(call) => self.call(call),
            Expr::Compare(compare) => {
                self.compare(compare);
                if is_of_sets(compare) && compare.ops.iter().any(|one| matches!(one, CmpOp::Lt | CmpOp::Gt)) {
                    return;
                }
            }
            Expr::BinOp(operation) if self.division(operation) => {}
            Expr::BinOp(operation) if operation.op == Operator::Mod => self.percent(operation),
            _ => {}
        }
        walk_expr(self, expr);
    }
}

/// Calls that are rewritten, or allowed in one form only.
pub(super) enum Called<'a> {
    /// `pow(a, b)`. With three arguments it can run for hours in one step.
    Power,
    /// `next(x for x in …)`: the interpreter turns the generator into a list, which is not an iterator.
    NextOfGenerator,
    /// `x.is_integer()`
    IsInteger(&'a Expr),
    /// `datetime.timedelta(…)` with an argument that may have a fraction.
    Timedelta,
    Other,
}

pub(super) fn what_is_called(call: &ExprCall) -> Called<'_> {
    let (args, keywords) = (&*call.arguments.args, &*call.arguments.keywords);
    let is_plain = keywords.is_empty() && !args.iter().any(Expr::is_starred_expr);
    match &*call.func {
        Expr::Name(name) if name.id == "pow" && is_plain && args.len() == 2 => Called::Power,
        Expr::Name(name) if name.id == "next" && is_plain && args.first().is_some_and(Expr::is_generator_expr) => {
            Called::NextOfGenerator
        }
        Expr::Attribute(attribute) if attribute.attr.as_str() == "is_integer" && args.is_empty() && is_plain => {
            Called::IsInteger(&attribute.value)
        }
        _ if is_timedelta_class(&call.func) => {
            let is_known = |name: &str| UNITS.iter().any(|(unit, _)| *unit == name);
            let is_sound = args.len() <= UNITS.len()
                && !args.iter().any(Expr::is_starred_expr)
                && keywords.iter().all(|keyword| keyword.arg.as_deref().is_some_and(is_known));
            let mut values = args.iter().chain(keywords.iter().map(|keyword| &keyword.value));
            if is_sound && values.any(|value| !is_whole_number(value)) { Called::Timedelta } else { Called::Other }
        }
        _ => Called::Other,
    }
}

/// `type(x)`, `getattr(x, 'name'…)` and `hasattr(x, 'name')`. Any other form of these names is refused, since it could lead to the
/// internals of the interpreter.
pub(super) fn is_harmless(call: &ExprCall) -> bool {
    let (args, keywords) = (&*call.arguments.args, &*call.arguments.keywords);
    let Expr::Name(name) = &*call.func else { return false };
    if !keywords.is_empty() || args.iter().any(Expr::is_starred_expr) {
        return false;
    }
    let names_it = |expr: Option<&Expr>| match expr {
        Some(Expr::StringLiteral(text)) => !text.value.to_str().starts_with("__"),
        _ => false,
    };
    match name.id.as_str() {
        "type" => args.len() == 1,
        "getattr" => (args.len() == 2 || args.len() == 3) && names_it(args.get(1)),
        "hasattr" => args.len() == 2 && names_it(args.get(1)),
        "pow" => args.len() == 2,
        _ => false,
    }
}

/// `datetime.datetime.utcnow` and `….today`: conditions see the time in UTC.
pub(super) fn is_now(expr: &Expr) -> bool {
    let Expr::Attribute(attribute) = expr else { return false };
    matches!(attribute.attr.as_str(), "utcnow" | "today") && is_datetime_class(&attribute.value, "datetime")
}

/// `str.lower` and the like, without a text.
pub(super) fn is_text_method(expr: &Expr) -> bool {
    let Expr::Attribute(attribute) = expr else { return false };
    matches!(&*attribute.value, Expr::Name(name) if name.id == "str") && TEXT_METHODS.contains(&attribute.attr.as_str())
}

/// A single comparison by size between two expressions that are certainly sets.
pub(super) fn is_of_sets(compare: &ExprCompare) -> bool {
    let ([operator], [right]) = (&*compare.ops, &*compare.comparators) else { return false };
    let by_size = matches!(operator, CmpOp::Lt | CmpOp::LtE | CmpOp::Gt | CmpOp::GtE);
    by_size && is_set(&compare.left) && is_set(right)
}

/// Whether an expression is certainly a set, by its syntax.
pub(super) fn is_set(expr: &Expr) -> bool {
    match expr {
        Expr::Set(_) | Expr::SetComp(_) => true,
        Expr::Call(call) => match &*call.func {
            Expr::Name(name) => name.id == "set" || name.id == "frozenset",
            Expr::Attribute(attribute) => attribute.attr.as_str() == "keys" && call.arguments.is_empty(),
            _ => false,
        },
        Expr::BinOp(operation) => {
            let of_sets = matches!(operation.op, Operator::BitAnd | Operator::BitOr | Operator::BitXor | Operator::Sub);
            of_sets && is_set(&operation.left) && is_set(&operation.right)
        }
        _ => false,
    }
}

/// A call of `datetime.timedelta`.
pub(super) fn is_timedelta(expr: &Expr) -> bool {
    matches!(expr, Expr::Call(call) if is_timedelta_class(&call.func))
}

fn is_timedelta_class(expr: &Expr) -> bool {
    is_datetime_class(expr, "timedelta")
}

/// `datetime.NAME`
pub(super) fn is_datetime_class(expr: &Expr, class: &str) -> bool {
    let Expr::Attribute(attribute) = expr else { return false };
    attribute.attr.as_str() == class && matches!(&*attribute.value, Expr::Name(name) if name.id == "datetime")
}

fn is_whole_number(expr: &Expr) -> bool {
    match expr {
        Expr::NumberLiteral(number) => matches!(number.value, Number::Int(_)),
        Expr::UnaryOp(operation) => is_whole_number(&operation.operand),
        _ => false,
    }
}
