//! Expressions and their values in Python.

use super::*;

#[rustfmt::skip]
const TABLE: &[(&str, bool)] = &[
    // from workflows in use
    ("callbacks['count_scans'].result == 'success' and experiment.variables['qc'] == 'unsure'", true),
    ("'pilot' not in experiment.label", true),
    ("callbacks['pipeline'].result != 'success'", true),
    ("callbacks['pipeline'].result == 'success'", false),
    ("callbacks['count_scans'].status == 'done'", true),
    ("experiment.state in ('scanned', 'new')", true),
    // arithmetic
    ("experiment.variables['age'] + 1 == 43", true),
    ("7 - 10 < 0", true),
    ("6 * 7 == experiment.variables['age']", true),
    ("7 / 2 == 3.5", true),
    ("7 // 2 == 3 and -7 // 2 == -4", true),
    ("7 % 3 == 1 and -7 % 3 == 2", true),
    ("2 ** 10 == 1024 and 2 ** 100 > 10 ** 30", true),
    ("divmod(17, 5) == (3, 2)", true),
    ("0.1 + 0.2 == 0.3", false),
    ("abs(0.1 + 0.2 - 0.3) < 1e-9", true),
    ("experiment.variables['weight'] / 1.8 ** 2 < 25", true),
    ("1_000 == 1000 and 0x1f == 31 and 0b11 == 3 and 0o17 == 15", true),
    // comparison
    ("18 <= experiment.variables['age'] < 65", true),
    ("1 < 2 < 2", false),
    ("1 != 2 and 1 == 1.0 and True == 1", true),
    ("'abc' < 'abd' and [1, 2] < [1, 3] and (1,) <= (1, 0)", true),
    // boolean
    ("not experiment.variables['note']", true),
    ("experiment.variables['consent'] and not False", true),
    ("0 or '' or [] or {} or None", false),
    ("'' or 'x'", true),
    ("True or undefined_name", true),
    ("False and 1 / 0", false),
    // truth of values
    ("[0]", true),
    ("[]", false),
    ("0.0", false),
    ("'False'", true),
    ("experiment", true),
    ("1, 0", true),
    ("None", false),
    // bits
    ("6 & 3 == 2", true),
    ("(6 & 3) == 2 and (6 | 3) == 7 and (6 ^ 3) == 5", true),
    ("~5 == -6 and 1 << 4 == 16 and 256 >> 4 == 16", true),
    // membership, identity
    ("'qc' in experiment.variables and 'x' not in experiment.variables", true),
    ("'count_scans' in callbacks and 'other' not in callbacks", true),
    ("'b' in experiment.variables['tags']", true),
    ("experiment.variables['note'] is None", true),
    ("experiment.variables.get('age') is not None", true),
    ("2 in {1, 2} and 3 not in (1, 2) and 'a' in {'a': 1}", true),
    // unary, conditional
    ("-experiment.variables['age'] == -42 and +1 == 1", true),
    ("(1 if experiment.variables['consent'] else 0) == 1", true),
    ("False if experiment.variables['qc'] == 'unsure' else True", false),
    // subscripts, slices
    ("experiment.label[4:7] == '007'", true),
    ("experiment.label[-1] == '2' and experiment.label[::-1][0] == '2'", true),
    ("[1, 2, 3][1:] == [2, 3] and (1, 2, 3)[:-1] == (1, 2)", true),
    ("{'a': [10, 20]}['a'][-1] == 20", true),
    ("int(experiment.label[4:7]) == 7", true),
    // strings
    ("experiment.label.startswith('sub-') and experiment.label.endswith('ses-2')", true),
    ("experiment.label.startswith(('x', 'sub'))", true),
    ("'AbC'.lower() == 'abc' and 'AbC'.upper() == 'ABC'", true),
    ("experiment.label.split('_')[0] == 'sub-007'", true),
    ("experiment.label.split('_')[1].split('-')[1] == '2'", true),
    ("'  x '.strip() == 'x' and 'xax'.strip('x') == 'a' and 'a '.rstrip() == 'a'", true),
    ("experiment.label.replace('sub-', '') == '007_ses-2'", true),
    ("'-'.join(['a', 'b']) == 'a-b'", true),
    ("'{}/{}'.format('a', 1) == 'a/1' and '{x:>3}'.format(x=1) == '  1'", true),
    ("'abc'.find('c') == 2 and 'abcabc'.count('b') == 2 and 'abc'.index('b') == 1", true),
    ("'12'.isdigit() and not 'a1'.isdigit() and 'ab'.isalpha() and 'a1'.isalnum()", true),
    ("'7'.zfill(3) == '007' and 'x'.ljust(3) == 'x  ' and 'x'.center(3) == ' x '", true),
    ("'a-b-c'.partition('-')[2] == 'b-c' and 'a-b'.rsplit('-', 1) == ['a', 'b']", true),
    ("'hello world'.title() == 'Hello World' and 'ab'.capitalize() == 'Ab'", true),
    ("'Ä'.lower() == 'ä' and len('äöü') == 3", true),
    ("'a' 'b' == 'ab' and 'a' * 3 == 'aaa' and r'\\d' == '\\\\d'", true),
    ("'a\\nb'.splitlines() == ['a', 'b'] and 'abc'.removeprefix('a') == 'bc'", true),
    ("f'{experiment.variables[\"age\"]:05d}' == '00042'", true),
    ("f'{experiment.label!r}' == \"'sub-007_ses-2'\" and f'{0.5:.1%}' == '50.0%'", true),
    // dicts
    ("experiment.variables.get('qc', 'none') == 'unsure' and experiment.variables.get('x', 5) == 5", true),
    ("'qc' in experiment.variables.keys() and 42 in experiment.variables.values()", true),
    ("('age', 42) in experiment.variables.items()", true),
    ("list(experiment.variables)[0] == 'qc' and list(callbacks) == ['count_scans', 'pipeline']", true),
    ("dict(a=1) == {'a': 1} and {**{'a': 1}, 'b': 2} == {'a': 1, 'b': 2}", true),
    // functions
    ("len(experiment.variables['tags']) == 3 and sum([1, 2, 3]) == 6", true),
    ("min(3, 1, 2) == 1 and max([3, 1]) == 3 and max('ab', 'b', key=len) == 'ab'", true),
    ("sorted([3, 1, 2]) == [1, 2, 3] and sorted('ba', reverse=True) == ['b', 'a']", true),
    ("sorted(['bb', 'a'], key=lambda s: len(s)) == ['a', 'bb']", true),
    ("abs(-3) == 3 and round(2.5) == 2 and round(2.567, 2) == 2.57", true),
    ("int('7') == 7 and float('1.5') == 1.5 and str(7) == '7' and bool([]) is False and int(7.9) == 7", true),
    ("isinstance(1, int) and isinstance('a', (int, str)) and not isinstance(1, str)", true),
    ("list(range(3)) == [0, 1, 2] and list(enumerate('ab')) == [(0, 'a'), (1, 'b')]", true),
    ("list(zip([1, 2], 'ab')) == [(1, 'a'), (2, 'b')] and list(reversed([1, 2])) == [2, 1]", true),
    ("list(map(str, [1])) == ['1'] and list(filter(None, [0, 1])) == [1]", true),
    ("set([1, 1, 2]) == {1, 2} and tuple([1]) == (1,) and {1, 2} & {2} == {2} and {1}.issubset({1, 2})", true),
    ("ord('a') == 97 and chr(97) == 'a' and hex(255) == '0xff' and bin(2) == '0b10'", true),
    ("next(iter([5])) == 5 and next(iter([]), 6) == 6", true),
    // comprehensions
    ("any(c.result == 'failure' for c in callbacks.values())", true),
    ("all(c.result == 'success' for c in callbacks.values())", false),
    ("[x * 2 for x in range(3) if x] == [2, 4]", true),
    ("{k: v for k, v in [('a', 1)]} == {'a': 1} and {x % 2 for x in range(4)} == {0, 1}", true),
    ("sum(1 for c in callbacks.values() if c.status == 'done') == 2", true),
    ("[(x, y) for x in 'ab' for y in range(2)][3] == ('b', 1)", true),
    ("(lambda a, b=2: a + b)(1) == 3", true),
    // dates
    ("datetime.datetime.now() - experiment.scandate > datetime.timedelta(days=30)", true),
    ("datetime.datetime.now() - experiment.scandate > datetime.timedelta(days=32)", false),
    ("(datetime.datetime.now() - experiment.scandate).days == 31", true),
    ("(datetime.datetime.now() - experiment.scandate).total_seconds() == 31 * 86400 + 3600", true),
    ("datetime.date.today() == datetime.date(2024, 3, 31)", true),
    ("experiment.scandate.year == 2024 and experiment.scandate.month == 2 and experiment.scandate.day == 29", true),
    ("experiment.scandate.weekday() == 3 and experiment.scandate.isoweekday() == 4", true),
    ("experiment.scandate.hour < 12 and experiment.scandate.minute == 30", true),
    ("experiment.scandate < datetime.datetime(2024, 3, 1)", true),
    ("experiment.scandate.date() == datetime.date(2024, 2, 29)", true),
    ("experiment.scandate.strftime('%Y-%m-%d') == '2024-02-29'", true),
    ("experiment.scandate.isoformat() == '2024-02-29T09:30:00'", true),
    ("experiment.scandate + datetime.timedelta(days=1, hours=-1, minutes=-30) == datetime.datetime(2024, 3, 1, 8)", true),
    ("experiment.scandate.replace(day=1) < experiment.scandate", true),
    ("datetime.datetime.strptime('2024-01-02', '%Y-%m-%d').day == 2", true),
    ("datetime.datetime.fromisoformat('2024-01-02').day == 2 and datetime.date.fromisoformat('2024-01-02').day == 2", true),
    ("experiment.variables['born'] < datetime.date(2000, 1, 1)", true),
    ("(experiment.scandate.date() - experiment.variables['born']).days > 40 * 365", true),
    ("experiment.variables['seen'] > experiment.scandate", true),
    ("experiment.variables['start'] < datetime.time(9, 0) and experiment.variables['start'].hour == 8", true),
    ("datetime.timedelta(hours=1) * 2 == datetime.timedelta(minutes=120)", true),
    ("isinstance(experiment.scandate, datetime.datetime) and isinstance(experiment.variables['born'], datetime.date)", true),
    ("f'{experiment.scandate:%Y}' == '2024'", true),
    ("datetime.datetime.utcnow() - experiment.scandate > datetime.timedelta(days=30)", true),
    ("datetime.datetime.utcnow() == datetime.datetime.now() == datetime.datetime.today()", true),
    ("datetime.datetime.today().month == 3", true),
    ("datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) == datetime.datetime.utcnow()", true),
    ("datetime.datetime.now(tz=datetime.timezone(datetime.timedelta(hours=2))).hour == 12", true),
    ("datetime.timedelta(days=0.5) == datetime.timedelta(hours=12) and datetime.timedelta(1.5, hours=1) == datetime.timedelta(days=1, hours=13)", true),
    ("datetime.timedelta(days=experiment.variables['age']) == datetime.timedelta(42)", true),
    ("datetime.timedelta(weeks=-1.5) == -datetime.timedelta(days=10, hours=12)", true),
    ("datetime.timedelta(days=3) / datetime.timedelta(days=2) == 1.5", true),
    ("(datetime.datetime.utcnow() - experiment.scandate) / datetime.timedelta(days=1) > 31", true),
    ("(datetime.datetime.utcnow() - experiment.scandate) // datetime.timedelta(days=1.5) == 20", true),
    // other forms
    ("type(experiment.label) == str and type(1) is int and type(None) != str", true),
    ("isinstance(experiment.variables['note'], type(None))", true),
    ("getattr(experiment, 'label') == experiment.label and getattr(experiment, 'nope', 5) == 5", true),
    ("hasattr(experiment, 'label') and not hasattr(experiment, 'nope')", true),
    ("pow(2, 3) == 8 and pow(2, pow(2, 2)) == 16 and pow((1 + 1), (3)) == 8", true),
    ("(2.0).is_integer() and not experiment.variables['weight'].is_integer()", true),
    ("{1} <= {1, 2} and {1} < {1, 2} and not {1, 2} < {2, 1} and {1, 2} <= {2, 1}", true),
    ("{1, 2} >= {1} and {1, 2} > {1} and not {1} > {1}", true),
    ("experiment.variables.keys() >= {'age', 'qc'} and set(experiment.variables) > {'age'}", true),
    ("({1} | {2}) <= (set([1, 2, 3]) - {3})", true),
    ("{x for x in experiment.variables['tags']} <= {'a', 'b', 'c', 'd'}", true),
    ("next((x for x in [1, 2] if x > 1), None) == 2 and next(x for x in [3]) == 3", true),
    ("next((c.result for c in callbacks.values() if c.result == 'failure'), '') == 'failure'", true),
    ("sorted(['b', 'A'], key=str.lower) == ['A', 'b'] and list(map(str.upper, ['a'])) == ['A'] and str.strip(' a ') == 'a'", true),
    ("'%s' % 1 == '1' and '%s-%s' % ('a', 2) == 'a-2' and '%d%%' % 5 == '5%' and '%r' % 'a' == \"'a'\"", true),
    ("'%05d' % 7 == '00007' and '%.2f' % 1.234 == '1.23' and '%5s|' % 'a' == '    a|' and '%-5s|' % 'a' == 'a    |' and '%x' % 255 == 'ff'", true),
    ("'{%s}' % experiment.label == '{sub-007_ses-2}' and '%s' % (1,) == '1' and '%s' % ((1, 2),) == '(1, 2)'", true),
    ("'sub-%03d' % int(experiment.label[4:7]) == experiment.label.split('_')[0]", true),
    ("'%s' % pow(2, 3) + '%s' % ('%s' % 1) == '81'", true),
    ("[('%s' % x, pow(x, 2)) for x in range(3)][2] == ('2', 4)", true),
    // result_values
    ("callbacks['count_scans'].result_values['n'] >= 10", true),
    ("callbacks['count_scans'].result_values['series'][0]['name'] == 't1'", true),
    ("sum(callbacks['count_scans'].result_values['series'][0]['scans']) == 6", true),
    ("callbacks['count_scans'].result_values['deep']['a']['b'] is None", true),
    ("callbacks['count_scans'].result_values.get('missing', {}).get('x') is None", true),
    ("callbacks['count_scans'].result_values['ratio'] == 0.75", true),
    ("callbacks['count_scans'].result_values['big'] == 2**64 - 1", true),
    ("callbacks['pipeline'].result_values", false),
    ("callbacks[experiment.label.replace('sub-007_ses-2', 'pipeline')].result == 'failure'", true),
    // layout
    ("  \t1 == 1  ", true),
    ("\n1 == 1\n", true),
    ("(1 == 1\n  and 2 == 2\n)", true),
    ("1 == 1 # a remark", true),
    ("('a' in\n  # a remark\n  experiment.variables['tags'])", true),
    ("'''a\nb''' == 'a\\nb'", true),
    ("1 == 1 and \\\n 2 == 2", true),
];

#[test]
fn table() {
    let facts = facts();
    let mut wrong = Vec::new();
    for (text, expected) in TABLE {
        let got = evaluate(text, &facts);
        if got != Ok(*expected) {
            wrong.push(format!("{text}: {got:?}"));
        }
        // A second time, from the cache.
        assert_eq!(evaluate(text, &facts), got);
    }
    assert!(TABLE.len() >= 70);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Expressions that Python supports and the sandbox does not: each must fail, never return a wrong result.
const UNSUPPORTED: &[&str] = &[
    "{'a': 1} | {'b': 2} == {'a': 1, 'b': 2}",
    "[id for id in [1]] == [1]",
    "(lambda str: str)(1) == 1",
    "1j * 1j == -1",
    "format(1, '03d') == '001'",
    "callable(len)",
    "(y := 1) == 1",
    "{1} <= [1, 2]",
    "[1] <= {1, 2}",
    "pow(2, 3, 5) == 3",
    "type(experiment)()",
    "type('X', (), {})",
    "getattr(experiment, '__class__')",
    "getattr(experiment, experiment.label)",
    "getattr",
    "'%s %s' % 1",
    "'%s' % (1, 2)",
    "'%(a)s' % {'a': 1}",
    "'%s %s' % (1, 2, 3)",
    "'%d' % 'a'",
    "experiment.scandate.isocalendar()[1] == 9",
    "math.floor(1.5) == 1",
    "str.format('a') == 'a'",
];

/// The check of a workflow reports unsupported expressions with their position, and accepts supported ones.
#[test]
fn what_the_sandbox_does_not_have_is_said_by_the_check() {
    let said = |text: &str| {
        let findings = review(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        findings.into_iter().map(|one| (one.line, one.column, one.message)).collect::<Vec<_>>()
    };
    for (text, _) in TABLE {
        let wrong = said(text).into_iter().filter(|(_, _, message)| !message.contains("undefined_name"));
        assert_eq!(wrong.collect::<Vec<_>>(), [], "{text}");
    }
    for (text, line, column, words) in [
        (
            "experiment.subject.label == 'x'",
            1,
            12,
            "'experiment' has no 'subject' in a condition; available: label, scandate, state, variables",
        ),
        ("experiment.label == 'x' and experiment.id", 1, 40, "has no 'id'"),
        (
            "callbacks['a'].log == ''",
            1,
            16,
            "a callback has no 'log' in a condition; available: status, result, result_values",
        ),
        ("(\n  math.floor(1) == 1\n)", 2, 3, "the module 'math' is not available"),
        ("re.match('a', experiment.label)", 1, 1, "the module 're' is not available"),
        ("experiment.scandate.isocalendar()[1] == 9", 1, 21, "'.isocalendar' is not available"),
        (
            "datetime.datetime.fromtimestamp(0).year == 1970",
            1,
            19,
            "'datetime.datetime.fromtimestamp' is not available",
        ),
        ("datetime.MAXYEAR == 9999", 1, 10, "the module 'datetime' has no 'MAXYEAR' in a condition"),
        ("callable(len)", 1, 1, "the name 'callable' is not available"),
        ("type(1).__name__ == 'int'", 1, 9, "'.__name__' is not available"),
        ("getattr(experiment, experiment.label)", 1, 1, "'getattr' is not available in this form"),
        ("pow(2, 3, 5) == 3", 1, 1, "'pow' is not available in this form"),
        ("str.format('a')", 1, 5, "'str.format' is not available"),
        ("'%(a)s' % {'a': 1} == '1'", 1, 1, "this form of '%' on a string is not available"),
        ("{1} <= experiment.variables['tags']", 1, 1, "a set can only be compared with '<' or '>' to another set"),
        ("{'a': 1} | {'b': 2} == {}", 1, 1, "'|' of mappings is not available"),
        ("'ä' == 'ä' and nonsense", 1, 16, "the name 'nonsense' is not available"),
        ("(5).bit_length() == 3", 1, 5, "'.bit_length' is not available"),
        ("open('/etc/passwd')", 1, 1, "the name 'open' is not available"),
    ] {
        let found = said(text);
        let is_said = |one: &(usize, usize, String)| (one.0, one.1) == (line, column) && one.2.contains(words);
        assert!(found.iter().any(is_said), "{text}\nwanted {line}:{column} {words}\nfound {found:?}");
    }
}

#[test]
fn unsupported() {
    for text in UNSUPPORTED {
        assert!(evaluate(text, &facts()).is_err(), "{text}: {:?}", evaluate(text, &facts()));
    }
}
