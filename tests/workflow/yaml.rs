//! YAML is read like PyYAML does, and written so that it reads back unchanged.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use studygovernor::workflow::yaml::{decode, parse, parse_value, to_text};

/// Scalars and their values in PyYAML 6.0.3. Dates remain texts, as do scalars on which PyYAML fails.
const RECORDED: &str = include_str!("../data/pyyaml_scalars.json");

fn recorded() -> Vec<(String, Value)> {
    serde_json::from_str(RECORDED).unwrap()
}

#[test]
fn scalars_read_as_pyyaml_reads_them() {
    let scalars = recorded();
    assert!(scalars.len() > 600);
    let mut wrong = Vec::new();
    for (text, wanted) in &scalars {
        for (document, pointer) in [(format!("k: {text}\n"), "/k"), (format!("- {text}\n"), "/0")] {
            let got = parse_value(&document).map(|value| value.pointer(pointer).cloned().unwrap());
            if got.as_ref() != Ok(wanted) {
                wrong.push(format!("{text}: {got:?}, and not {wanted}"));
            }
        }
        // With quotes everything is a text, as a key too.
        assert_eq!(parse_value(&format!("k: '{text}'\n")).unwrap(), json!({ "k": text }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tags_anchors_and_merges_are_read_as_by_pyyaml() {
    for (text, wanted) in [
        (
            "a: !!str 08\nb: !!int '12'\nc: !!float 1\nd: !!null x\ne: !!bool 'Yes'\nf: ! 12\n",
            json!({"a": "08", "b": 12, "c": 1.0, "d": null, "e": true, "f": 12}),
        ),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n", json!({"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}})),
        (
            "x: &x {a: 1}\nz: &z {a: 2, c: 3}\ny: {<<: [*x, *z], d: 4}\n",
            json!({"x": {"a": 1}, "z": {"a": 2, "c": 3}, "y": {"a": 1, "c": 3, "d": 4}}),
        ),
        ("<<: {a: 1}\nb: '<<'\n'<<': c\n", json!({"a": 1, "b": "<<", "<<": "c"})),
        ("- &a yes\n- *a\n", json!([true, true])),
        ("08: a\n010: b\nyes: c\n~: d\n1.50: e\n", json!({"08": "a", "010": "b", "yes": "c", "~": "d", "1.50": "e"})),
        ("a: |\n  one\n  two\nb: >\n  three\n  four\n", json!({"a": "one\ntwo\n", "b": "three four\n"})),
        ("a: |\n  text", json!({"a": "text"})),
        ("", json!(null)),
        ("# nothing\n", json!(null)),
        ("---\na: 1\n...\n", json!({"a": 1})),
        ("\u{feff}a: 1\n", json!({"a": 1})),
    ] {
        assert_eq!(parse_value(text), Ok(wanted), "{text}");
    }
}

/// Each message describes its text correctly, and contains the position.
#[test]
fn what_is_wrong_is_said_as_it_is() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(",")));
    }
    let deep = format!("{}x{}", "[".repeat(70), "]".repeat(70));
    let long = "- x\n".repeat(200_001);
    for (text, line, words) in [
        ("---\na: 1\n---\nb: 2\n", 3, "more than one document"),
        ("a: 1\n--- \n", 2, "more than one document"),
        ("a: 1\n\tb: 2\n", 0, "a tab is not allowed here"),
        ("a:\n\t- b\n", 2, "a tab is not allowed here"),
        ("a: 'b\nc: d\n", 0, "a quote is not closed"),
        ("a: [b\n", 0, "is not closed"),
        ("a: *b\n", 1, "anchor that is not defined before it"),
        ("a: &a [*a]\n", 1, "inside the node that it refers to"),
        ("a: @b\n", 1, "cannot start with '@'"),
        ("a: b: c\n", 1, "a ':' is not allowed here"),
        ("a: !foo b\n", 1, "the tag !foo is not supported"),
        ("a: !!python/object:os.system {}\n", 1, "the tag !!python/object:os.system is not supported"),
        ("a: !!int x\n", 1, "'x' is not a value of the type !!int"),
        ("{[a]: b}\n", 1, "a key must be a single value"),
        ("<<: 3\n", 1, "'<<' requires a mapping"),
        ("a: \u{7}\n", 1, "control character U+0007"),
        ("ab\u{0}\n", 1, "control character U+0000"),
        (bomb.as_str(), 5, "aliases repeat so much"),
        (deep.as_str(), 1, "more than 64 levels deep"),
        (long.as_str(), 200_000, "the text is too large"),
    ] {
        let shown: String = text.chars().take(60).collect();
        let error = parse(text).expect_err(&shown);
        assert!(error.message.contains(words), "{shown}\n{error}");
        assert!(line == 0 || error.place.line == line, "{shown}\n{error}");
    }
}

#[test]
fn files_in_other_encodings_are_read_or_refused_with_the_place() {
    let utf16 = |order: fn(u16) -> [u8; 2]| "\u{feff}a: ä\n".encode_utf16().flat_map(order).collect::<Vec<u8>>();
    for bytes in [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes), "\u{feff}a: ä\n".into(), "a: ä\n".into()] {
        assert_eq!(parse_value(&decode(&bytes).unwrap()), Ok(json!({ "a": "ä" })), "{bytes:?}");
    }
    let error = decode(b"a: 1\nb: caf\xe9\n").unwrap_err();
    assert_eq!((error.place.line, error.place.column), (2, 7));
    assert!(error.message.contains("0xe9 is not UTF-8"), "{error}");
    assert!(decode(b"\xff\xfea").unwrap_err().message.contains("UTF-16"));
}

fn values() -> Vec<Value> {
    let mut values: Vec<Value> = vec![
        json!({"seconds": 0}),
        json!({"args": ["$EXPERIMENT", "yes", "1", " x ", "a: b", "- c", "", "#", "~", "0755", "a #b", "a:", "[x]", "{", "*a", "&a", "!a", "%", "@", "`", "|", ">", "?", "-", "'", "\"", "\\"], "n": null}),
        json!("two\nlines\n"),
        json!({"script": "if x:\n  y\n\nend", "other": "one\ntwo\n", "third": " a\nb", "fourth": "a \nb", "fifth": "a\n\n", "sixth": "\n", "seventh": "a\r\nb", "eighth": "#!/bin/sh\necho \"$x\"\n"}),
        json!({"deep": [{"a": [1, 2.5, true]}, {}], "empty": [], "list": [[1, [2]], [], {"x": {"y": {"z": [{"w": "1e3"}]}}}]}),
        json!([1e16, 1e22, 1.5e-9, 1e300, -0.0, 0.1, 123_456_789_012_345_680.0, u64::MAX, i64::MIN]),
        json!({"": "", "yes": "no", "08": "09", "<<": "<<", "=": "=", "a b": "c d", "1.0": 1, "~": "~", "null": "null", "é": "é", "\u{85}": "\u{2028}", "\u{feff}": "\u{1f600}", "tab\t": "\t", "-": "- -"}),
        json!([]),
        json!({}),
        json!(null),
        json!("08"),
        json!(""),
        json!(12),
        json!("\u{7f}\u{80}\u{fffe}"),
    ];
    values.extend(recorded().into_iter().map(|(text, value)| json!({ text.clone(): [text, value] })));
    values
}

#[test]
fn what_is_written_reads_back_as_the_same() {
    for value in values() {
        let text = to_text(&value);
        assert_eq!(parse_value(&text).as_ref(), Ok(&value), "{text}");
    }
}

/// The same with PyYAML itself.
#[test]
fn what_is_written_reads_back_as_the_same_by_pyyaml() {
    let python = std::env::var("TEST_PYTHON").expect("TEST_PYTHON is not set: run the tests with `make test`");
    let script = "import json, sys, yaml\nprint(json.dumps([yaml.safe_load(text) for text in json.load(sys.stdin)]))";
    let mut child =
        Command::new(python).args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let texts: Vec<String> = values().iter().map(to_text).collect();
    child.stdin.take().unwrap().write_all(serde_json::to_string(&texts).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let back: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for ((value, text), back) in values().iter().zip(&texts).zip(&back) {
        assert_eq!(plain(value), plain(back), "{text}");
    }
}

/// With numbers as values and not as texts: `1e22` is `1e+22`.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.as_i64().is_none() && number.as_u64().is_none() => {
            // Beyond 64 bits, only the digits show the type.
            if number.to_string().contains(['.', 'e', 'E']) { json!(number.as_f64()) } else { value.clone() }
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(entries) => entries.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
        _ => value.clone(),
    }
}
