//! The checks that are written in Python: promises, links of documents, wording. Each runs on the repository, and on a
//! small tree with faults that it has to find.

use std::path::Path;
use std::process::Command;

/// Runs one of the scripts of this folder; returns whether it found nothing, and its output.
fn run(script: &str, root: &Path, arguments: &[&str]) -> (bool, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/structure").join(script);
    let output = Command::new("python3")
        .arg(path)
        .arg("--root")
        .arg(root)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs the checks");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text)
}

fn passes(script: &str) {
    let (is_fine, text) = run(script, Path::new(env!("CARGO_MANIFEST_DIR")), &[]);
    assert!(is_fine, "{text}");
}

#[test]
fn promises_are_defined_and_tested() {
    passes("promises.py");
}

#[test]
fn links_of_documents_lead_somewhere() {
    passes("documents.py");
}

#[test]
fn wording_has_none_of_the_worst_habits() {
    passes("wording.py");
}

/// Writes the files into a folder and compares the lines that a script prints about them.
fn finds(script: &str, arguments: &[&str], files: &[(&str, &str)], wanted: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let (is_fine, text) = run(script, folder.path(), arguments);
    assert!(!is_fine, "{script} found nothing");
    for line in wanted {
        assert!(text.contains(line), "{script} does not print '{line}':\n{text}");
    }
    let count = text.lines().filter(|line| line.contains(": ")).count();
    assert_eq!(count, wanted.len(), "{script} finds something else:\n{text}");
}

#[test]
fn a_promise_without_definition_reason_or_test_is_found() {
    let rules = "### E1: one\n\n*Why:* because\n\nTests:\n\n- `tests/a.rs`: `e1_gone`\n\n### Q1: two\n\n### Q2: three\n\n*Why:* so\n";
    let code = "//! E7: undefined.\n#[test]\nfn e1_is_proved() {}\n#[tokio::test]\nasync fn q1_q9_both() {}\n// V1 is no promise, \"E8\" neither.\n";
    finds(
        "promises.py",
        &[],
        &[("docs/RULES.md", rules), ("tests/a.rs", code), ("docs/a.md", "See E1.\n\n```\nE5\n```\n\n`E6` and S3.\n")],
        &[
            "tests/a.rs:1: cites E7",
            "tests/a.rs:4: cites Q9",
            "tests/a.rs:6: cites E8",
            "docs/a.md:7: cites S3",
            "E1 names the test e1_gone of tests/a.rs, which does not exist",
            "E1 does not name its test e1_is_proved",
            "Q1 has no reason",
            "Q1 does not name its test q1_q9_both",
            "Q2 has no test",
        ],
    );
}

#[test]
fn a_broken_link_an_unreachable_document_and_a_stale_word_are_found() {
    let index =
        "# Index\n\n[a](a.md#there) [b](a.md#not-there)\n[c](gone.md) [d](../README.md) [e](https://example.org/x)\n";
    let document = "# A\n\n## There\n\n`src/gone.rs`, `src/here.rs`\n\n```\n[x](no.md)\n```\n\n![p](p.svg)\n";
    let glossary = "| word | older name in code |\n|---|---|\n| lock | `here` |\n| retry | `ticket` |\n";
    finds(
        "documents.py",
        &[],
        &[
            ("docs/README.md", index),
            ("README.md", "Read [this](docs/nothing.md).\n"),
            ("docs/a.md", document),
            ("docs/p.svg", "<svg/>"),
            ("docs/lost.svg", "<svg/>"),
            ("docs/GLOSSARY.md", glossary),
            ("src/here.rs", ""),
        ],
        &[
            "docs/README.md:3: a.md has no heading with the anchor #not-there",
            "docs/README.md:4: the link leads to docs/gone.md",
            "README.md:1: the link leads to docs/nothing.md",
            "docs/a.md:5: names src/gone.rs",
            "docs/GLOSSARY.md: no link leads here",
            "docs/lost.svg: no link leads here",
            "docs/GLOSSARY.md:4: the code has no 'ticket'",
        ],
    );
}

#[test]
fn bad_habits_of_wording_are_found_where_people_read() {
    let document = "# What happened last\n\nNobody waits, and it\nWhat continues a line is not judged. Who has registered waits.\n\
                    What is it? `nobody`\n\n```\nnobody\n```\n";
    let template = "<h1 class=\"nobody\">{{ nobody }}</h1>\n<p title=\"declared anew\">What comes next</p>\n<b>Let people in</b>\n";
    finds(
        "wording.py",
        &["README.md", "CONTRIBUTING.md", "docs", "templates"],
        &[
            ("README.md", "Fine.\n"),
            ("CONTRIBUTING.md", "It waits no more.\n"),
            ("docs/a.md", document),
            ("templates/a.html", template),
        ],
        &[
            "CONTRIBUTING.md:1: 'no more': no longer",
            "docs/a.md:1: 'What'",
            "docs/a.md:3: 'Nobody': name the actor",
            "docs/a.md:4: 'Who'",
            "templates/a.html:2: 'anew'",
            "templates/a.html:2: 'What'",
            "templates/a.html:3: 'Let people in'",
        ],
    );
}
