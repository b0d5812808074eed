//! Malicious conditions. Each must end soon, with an error or false, in bounded memory.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use super::*;

#[rustfmt::skip]
const TABLE: &[&str] = &[
    // time
    "sum(range(10**12))", "any(False for _ in range(10**15))", "[0 for _ in range(10**12)] and False", "list(range(10**10))",
    "sorted(range(10**9))", "max(range(10**11))", "set(range(10**9))", "10**9 in [x for x in range(10**8)]", "dict.fromkeys(range(10**9))",
    "[[[[0 for a in range(10**4)] for b in range(10**4)] for c in range(10**4)] for d in range(10**4)]",
    "all(iter(int, 1))", "next(x for x in range(10**15) if x < 0)", "tuple(zip(range(10**10), range(10**10)))",
    "list(map(lambda x: x, range(10**10)))", "[x for l in [[1]] for x in l if not l.append(x)]",
    "len(list(enumerate(range(10**9)))) == 0", "''.join(str(x) for x in range(10**9))", "sum([[x] for x in range(10**5)], [])",
    "[datetime.datetime.now() for _ in range(10**9)]", "all(datetime.datetime.now() for _ in range(10**9))", "10**9 in iter(range(10**12)) and False",
    "str(2**3000000)", "int('9' * 1000000)", "int('f' * 900000, 16) % 7 > 10", "(2**4000000) ** 2", "pow(3, 10**6) ** 10",
    "pow(3, 10**100000, 10**100000)", "10**300000 // 3**300000 < 0", "divmod(10**2000000, 3**1000000) == 1", "('a' * 900000) in ('a' * 900000 + 'b') * 1 and False",
    "('a' * 499999 + 'b') in ('a' * 1000000)", "('ab' * 400000).replace('a', 'aa') == 1", "('ab' * 400000).split('a') == 1", "('a' * 500000).count('a' * 250000 + 'b')",
    // memory
    "'x' * 10**10", "[0] * 10**10", "(0,) * 10**10", "b'x' * 10**10", "[[0] * 10**5] * 10**5", "[[0] * 10**5 for _ in range(10**5)]",
    "['x' * 10**6 for _ in range(10**6)]", "['x' * 99999 for _ in range(10**6)]", "[bytes(99999) for _ in range(10**6)]", "[bytes(10**6) for _ in range(10**6)]", "bytes(10**11)",
    "[list(range(1000)) for _ in range(10**9)]", "[l.append(l + l) for l in [[0]] for _ in range(10**6)]", "[l.extend(l) for l in [[0]] for _ in range(100)]", "[l.extend(list(l)) for l in [[0]] for _ in range(100)]",
    "[l.insert(0, str(l)) for l in [[0]] for _ in range(100)]", "[l.append(l[-1] + l[-1]) for l in [['xxxxxxxx']] for _ in range(100)] and False", "[l.append(''.join([l[-1], l[-1]])) for l in [['xxxxxxxx']] for _ in range(100)] and False",
    "[l.append(f'{l[-1]}{l[-1]}') for l in [['xxxxxxxx']] for _ in range(100)] and False", "[l.append('{0}{0}{0}{0}'.format(l[-1])) for l in [['xxxxxxxx']] for _ in range(100)] and False",
    "[l.append(l[-1].replace('x', 'xxxx')) for l in [['x']] for _ in range(100)] and False", "[l.append(l[-1] * l[-1]) for l in [[7]] for _ in range(100)] and False", "[l.append(l[-1] + l[-1]) for l in [[(1, 2)]] for _ in range(100)] and False",
    "[l.append([l[-1]] * 100) for l in [[1]] for _ in range(100)] and str(l)", "[l.append(repr(l[-1])) for l in [['\\\\']] for _ in range(100)] and False",
    "10**10**10", "1 << 10**9", "1 << 10**18", "2**10**9", "(10**10**5) ** 10**5", "-1 << 10**12 and False",
    "f'{1:1000000000}' and False", "f'{1:>{10**9}}' and False", "f'{1.5:.1000000000f}' and False", "'{:1000000000}'.format(1) and False", "format(1, '1000000000') and False", "f'{1:0{10**8}d}' and False",
    "'%1000000000d' % 1", "'x'.ljust(10**10)", "'x'.center(10**9)", "'x'.zfill(10**10)", "'x\\t'.expandtabs(10**10) and False", "round(1, -10**9) and False", "round(10**1000, -10**9) and False",
    "str(1.0).join(['x'] * 10**9)", "{x: 'y' * 1000 for x in range(10**9)}", "{frozenset(range(x)) for x in range(10**6)}", "(10**6).to_bytes(10**10, 'big') and False", "datetime.timedelta(days=10**20)", "datetime.datetime.max + datetime.timedelta(days=10**9)",
    "experiment.scandate.strftime('%Y' * 100000) == ''", "experiment.scandate.strftime('%10000000Y') == ''", "datetime.datetime(10**30, 1, 1)", "datetime.date.fromordinal(10**30)", "datetime.timedelta(seconds=1e308)", "datetime.timedelta.max * 10**30", "datetime.datetime.fromtimestamp(10**30)",
    // depth
    "(lambda f: f(f))(lambda f: f(f))", "(lambda f: f(f, 0))(lambda f, n: f(f, n + 1) + 1)", "(lambda f: sorted([1, 2], key=lambda x: f(f)))(lambda f: sorted([1, 2], key=lambda x: f(f)))", "(lambda f: max([1, 2], key=lambda x: f(f)))(lambda f: max([1, 2], key=lambda x: f(f)))", "(lambda f: list(map(f, [f])))(lambda f: list(map(f, [f])))", "(lambda f: [f(f) for _ in [1]])(lambda f: [f(f) for _ in [1]])", "(lambda f: any(f(f) for _ in [1]))(lambda f: any(f(f) for _ in [1]))",
    "[l.append([l.pop()]) for l in [[1]] for _ in range(10**6)]", "[[l.append([l.pop()]) for _ in range(2000)] and str(l) for l in [[1]]] and False", "[[l.append([l.pop()]) for _ in range(2000)] and l == [l[0]] for l in [[1]]] and False", "[[l.append((l.pop(),)) for _ in range(2000)] and hash(l[0]) for l in [[1]]]", "[[l.append({'a': l.pop()}) for _ in range(20000)] for l in [[1]]] and False",
    "[[l.append((l.pop(),)) for _ in range(20000)] for l in [[1]]] and False", "[[l.append([l.pop()]) for _ in range(20000)] for l in [[1]]] and False", "[[l.append(map(str, l.pop())) for _ in range(20000)] and list(l[0]) for l in [[[1]]]] and False", "[[l.append(iter(l.pop())) for _ in range(20000)] and next(l[0]) for l in [[[1]]]] and False", "[[l.append(enumerate(l.pop())) for _ in range(5000)] and next(l[0]) for l in [[[1]]]] and False", "[[l.append(x for x in l.pop()) for _ in range(5000)] and next(l[0]) for l in [[[1]]]] and False", "[[l.append(zip(l.pop())) for _ in range(5000)] and next(l[0]) for l in [[[1]]]] and False", "[[l.append(filter(None, l.pop())) for _ in range(5000)] and next(l[0]) for l in [[[1]]]] and False", "[[l.append(reversed([l.pop()])) for _ in range(5000)] and next(l[0]) for l in [[[1]]]] and False", "[[l.append(lambda f=l.pop(): f()) for _ in range(5000)] and l[0]() for l in [[lambda: 1]]] and False", "[l.append(l) for l in [[]]] and str(l)", "[(l.append(l), l == l, l < l, str(l)) for l in [[]]] and False", "[(a.append(b), b.append(a), a == b) for a in [[]] for b in [[]]]", "isinstance(1, [l.append((l.pop(),)) for l in [[int]] for _ in range(5000)] and l)", "[isinstance(1, l[0]) for l in [[str]] if [l.append((l.pop(),)) for _ in range(5000)]] and False", "''.startswith([l[0] for l in [['x']] if [l.append((l.pop(),)) for _ in range(5000)]][0])",
    // escapes
    "__import__('os')", "__import__('os').system('id')", "open('/etc/passwd').read()", "().__class__.__bases__[0].__subclasses__()", "experiment.__dict__", "experiment.__class__", "''.__class__.__mro__[1]", "datetime.sys", "datetime.os", "datetime.__loader__", "datetime.__builtins__", "__builtins__", "__name__", "__file__",
    "eval('1')", "exec('1')", "compile('1', '', 'eval')", "globals()", "locals()", "vars()", "dir()", "getattr(experiment, '__class__')", "setattr(experiment, 'label', 'x')", "object.__setattr__(experiment, 'label', 'x')", "type('X', (), {})()", "type(experiment)()", "input()", "breakpoint()", "exit()", "print('x' * 10**6)", "[print(x) for x in range(10**9)]", "os.environ", "sys.exit()", "re.match('(a+)+b', 'a' * 50)", "pathlib.Path('/').iterdir()", "asyncio.run(1)",
    "experiment()", "experiment.label()", "experiment.delete()", "callbacks['pipeline']()", "callbacks.pipeline", "callbacks['pipeline'].run()", "callbacks['nope']", "experiment.variables['nope']", "experiment.variables.clear()", "experiment.variables.pop('nope')", "callbacks.update(x=1)", "[0 for experiment.label in ['x']] and False", "[0 for experiment.variables['x'] in ['x']] and False",
    "'{0.__class__.__init__.__globals__}'.format(experiment)", "'{0.__class__}'.format(1) == 1", "'{0[x]}'.format(1)", "'{:{}}'.format(1, 10**9) and False", "'{0:{0}}'.format(10**9) and False", "f'{experiment.__class__}'", "str.__subclasses__()", "(lambda: 0).__globals__", "(lambda: 0).__code__", "(x for x in []).gi_frame", "datetime.datetime.now().astimezone() and False", "datetime.datetime.utcnow() and False", "1 / 0", "'\\ud800' == 1", "'\\ud800'.encode() == 1", "'\\N{BULLET}' == 1", "chr(0xd800)", "chr(10**9)", "bytes([256])", "1e999 and int(1e999)", "float('nan') == float('nan')", "hash([])", "{[]: 1}", "max([])", "'a'[5]", "'a'['b']", "1 < 'a'", "NotImplemented and False", "...  == 1", "1j", "b'\\xff'.decode()", "range(10**30)[10**29] < 0", "range(0, 10**30, 0)", "[1][::0]", "[1, 2][10**30]", "[1][-10**30:10**30:10**30] == 1", "'abc'[:: -10**30] == 1",
];

/// Texts that are not expressions.
#[rustfmt::skip]
const REFUSED: &[&str] = &[
    "import os", "x = 1", "a; b", "1;", "x: int", "x += 1", "del x", "def f(): pass", "class A: pass", "lambda: (yield)", "yield 1", "await x", "[await x for x in y]", "(x := 5)", "[y := 1, y]", "return 1", "pass", "if 1: 2", "for x in y: z", "while 1: 1", "assert 0", "raise x", "global x", "1\n2", "1\nimport os", ")", "(", "1) or (1", "1)\nimport os\n(1", "1) else 0\nimport os\nTrue if (1", "'", "'''", "f'{'", "f'{x!z}'", "*a", "**a", "a, *b = c", "1 if 2", "\0", "1\0", "x\\", "print 'a'", "0777", "1__0", "€", "a b", "lambda x, x: 1", "f(a=1, a=2)", "with x: y", "try: 1", "match x:\n case 1: 2", "@a", "async def f(): pass", "\u{feff}\u{feff}1", "`x`", "a <> b", "a ? b : c", "!x", "a && b", "$x", "?",
];

fn bombs() -> Vec<String> {
    let around = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    vec![
        around("(", ")", 4_999),
        around("[", "]", 4_999),
        around("(", ")", 200),
        around("(", ")", 100),
        around("{1:", "}", 2_000),
        around("not ", "", 2_400),
        around("-", "", 9_000),
        around("~", "", 9_000),
        around("lambda:", "", 1_400),
        around("lambda:(", ")", 700),
        around("1 if 1 else ", "", 800),
        around("1**", "", 3_000),
        around("f(", ")", 3_000),
        around("x[", "]", 3_000),
        around("[x for x in ", "]", 700),
        around("", ".a", 4_000),
        around("", "[0]", 3_000),
        around("", "()", 4_000),
        around("1+", "", 4_900),
        around("1 and ", "", 1_600),
        around("1 or ", "", 1_900),
        around("1<", "", 4_900),
        around("(", "", 9_999),
        around("[", "", 9_999),
        around("{", "", 9_999),
        around("f'{", "}'", 1_000),
        around("f\"{", "", 3_000),
        around("await ", "", 1_600),
        around("*", "", 9_000),
        around("a if ", "", 2_000),
        around("(yield ", ")", 1_000),
        around("(x:=", ")", 1_000),
        around("\\\n", "", 4_000),
        around("\n", "\n", 4_900),
        "x".repeat(3_000_000),
        " ".repeat(3_000_000) + "1",
        format!("'{}", "x".repeat(9_998)),
        "9".repeat(9_999),
        format!("0x{}", "f".repeat(9_000)),
        format!("1e{}", "9".repeat(9_000)),
        "\u{1F600}".repeat(2_000),
        format!("'\\N{{{}", "X".repeat(9_000)),
        "1,".repeat(4_999),
        "a=".repeat(4_000),
        "#".repeat(9_999),
        format!("f'{}'", "{1:{".repeat(1_000)),
        format!("f'{{1:{}'", "{1:".repeat(2_000)),
        "1 if 1 else ".repeat(63),
        format!("{}1", "not ".repeat(63)),
        around("(", ")", 60),
        around("", ".real", 60),
        around("1+", "", 60),
        format!("{}[5]", around("[", "]", 60)),
        around("(lambda:", ")()", 30),
        around("sorted([1], key=lambda x:", ")", 30),
        around("[x for x in ", "]", 30),
    ]
}

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// On a stack of 2 MiB, like the threads of tokio.
fn small_stack(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn hostile() {
    small_stack(|| {
        let facts = facts();
        let (start, mut wrong) = (resident(), Vec::new());
        let mut peak = start;
        let tables = TABLE.iter().chain(REFUSED).map(|text| ((*text).to_owned(), false));
        // Some of the bombs are valid Python, and true: they only must not exhaust time or memory.
        for (text, may_be_true) in tables.chain(bombs().into_iter().map(|bomb| (bomb, true))) {
            let shown: String = text.chars().take(100).collect();
            let (began, before) = (Instant::now(), resident());
            let outcome = evaluate(&text, &facts);
            let (took, grown) = (began.elapsed(), resident().saturating_sub(before) >> 20);
            peak = peak.max(resident());
            if took > Duration::from_secs(20)
                || grown > 400
                || (outcome == Ok(true) && !may_be_true)
                || matches!(outcome, Err(EvaluationError::Broken(_) | EvaluationError::Unavailable(_)))
            {
                wrong.push(format!("{shown}: {took:?} +{grown} MB {outcome:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(peak - start < 600 << 20, "memory grew from {start} to {peak}");
    });
}

#[test]
fn refused_by_check() {
    for text in REFUSED {
        assert!(check(text).is_err(), "{text}");
    }
}
