//! Values of unquoted scalars by the rules of PyYAML's `SafeLoader` (YAML 1.1), with which version 8.1 read these files.
//!
//! They differ from YAML 1.2 in ways that matter for existing files: `08` and `1e3` are texts, `010` is eight, `1_000` a thousand, `12:30`
//! seven hundred and fifty, `yes` is true and `y` a text. Dates stay texts.

use serde_json::{Number, Value};

/// Maximum number of digits that Python converts between numbers and texts; longer numbers stay texts.
const MAX_DIGITS: usize = 4_300;

/// The value of an unquoted scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    integer(text).or_else(|| float(text)).unwrap_or_else(|| text.into())
}

/// A whole number. One that JSON cannot store becomes the text of its decimal digits, as Python would print it.
pub(super) fn integer(text: &str) -> Option<Value> {
    let (is_negative, digits) = signed(text);
    let decimal = if let Some(rest) = digits.strip_prefix("0b") {
        in_base(rest, 2)?
    } else if let Some(rest) = digits.strip_prefix("0x") {
        in_base(rest, 16)?
    } else if digits.len() > 1 && digits.starts_with('0') {
        in_base(&digits[1..], 8).or_else(|| digits[1..].bytes().all(|byte| byte == b'_').then(|| "0".to_owned()))?
    } else if digits.contains(':') {
        return sexagesimal_integer(is_negative, digits);
    } else {
        let is_number = digits.starts_with(|first: char| first.is_ascii_digit()) && only_digits(digits);
        is_number.then(|| digits.replace('_', ""))?
    };
    if decimal.len() > MAX_DIGITS {
        return None;
    }
    let sign = if is_negative && decimal != "0" { "-" } else { "" };
    Some(number(&format!("{sign}{decimal}")))
}

fn number(decimal: &str) -> Value {
    let small = decimal.parse::<i64>().map(Value::from);
    small.or_else(|_| decimal.parse::<u64>().map(Value::from)).unwrap_or_else(|_| decimal.into())
}

/// A number with a decimal point; an exponent must have a sign.
pub(super) fn float(text: &str) -> Option<Value> {
    let (is_negative, digits) = signed(text);
    let sign = if is_negative { -1.0 } else { 1.0 };
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Some(real(sign * f64::INFINITY));
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(real(f64::NAN));
    }
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    if let Some(exponent) = exponent {
        let power = exponent.strip_prefix(['+', '-'])?;
        if power.is_empty() || !power.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
    }
    let (whole, fraction) = mantissa.split_once('.')?;
    if !only_digits(fraction) {
        return None;
    }
    if let Some((hours, minutes)) = whole.split_once(':') {
        return exponent.is_none().then(|| sexagesimal_float(sign, hours, minutes, fraction))?;
    }
    let is_sound = if whole.is_empty() {
        // `.5` is a number, `-.5` is not.
        digits.len() == text.len() && fraction.starts_with(|first: char| first.is_ascii_digit())
    } else {
        whole.starts_with(|first: char| first.is_ascii_digit()) && only_digits(whole)
    };
    let plain = || digits.replace('_', "").parse::<f64>().ok();
    is_sound.then(plain)?.map(|value| real(sign * value))
}

/// A value with the tag `!!float`: any text that Python's `float()` accepts.
pub(super) fn tagged_float(text: &str) -> Option<Value> {
    let plain = || text.replace('_', "").parse::<f64>().ok().filter(|value| value.is_finite()).map(real);
    float(text).or_else(plain)
}

/// JSON has no infinity and no NaN; they become the texts that Python prints.
fn real(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "nan".into(),
        None if value > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

/// `1:30` is ninety: base 60 in YAML 1.1. The first part is not octal and not zero.
fn sexagesimal_integer(is_negative: bool, digits: &str) -> Option<Value> {
    let (first, rest) = digits.split_once(':')?;
    let starts_well = first.starts_with(|first: char| matches!(first, '1'..='9')) && only_digits(first);
    if !starts_well || !rest.split(':').all(is_sixtieth) {
        return None;
    }
    let mut value: i128 = first.replace('_', "").parse().ok()?;
    for part in rest.split(':') {
        value = value.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    Some(number(&(if is_negative { -value } else { value }).to_string()))
}

fn sexagesimal_float(sign: f64, first: &str, rest: &str, fraction: &str) -> Option<Value> {
    let starts_well = first.starts_with(|first: char| first.is_ascii_digit()) && only_digits(first);
    if !starts_well || !rest.split(':').all(is_sixtieth) {
        return None;
    }
    let mut value: f64 = first.replace('_', "").parse().ok()?;
    let last = rest.split(':').count() - 1;
    for (at, part) in rest.split(':').enumerate() {
        let part = if at == last { format!("{part}.{}", fraction.replace('_', "")) } else { part.to_owned() };
        value = value * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(real(sign * value))
}

/// 0 to 59, with or without a leading zero.
fn is_sixtieth(part: &str) -> bool {
    matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
}

fn signed(text: &str) -> (bool, &str) {
    (text.starts_with('-'), text.strip_prefix(['+', '-']).unwrap_or(text))
}

fn only_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}

/// The decimal digits of a number in another base, without leading zeros; `None` if a character is not a digit of that base.
fn in_base(text: &str, base: u32) -> Option<String> {
    if text.len() > MAX_DIGITS {
        return None;
    }
    // Least significant digit first.
    let mut decimal: Vec<u32> = Vec::new();
    let mut any = false;
    for digit in text.chars().filter(|digit| *digit != '_') {
        any = true;
        let mut carry = digit.to_digit(base)?;
        for place in &mut decimal {
            carry += *place * base;
            *place = carry % 10;
            carry /= 10;
        }
        while carry > 0 {
            decimal.push(carry % 10);
            carry /= 10;
        }
    }
    if !any {
        return None;
    }
    let digits = decimal.iter().rev().filter_map(|digit| char::from_digit(*digit, 10)).collect::<String>();
    Some(if digits.is_empty() { "0".to_owned() } else { digits })
}
