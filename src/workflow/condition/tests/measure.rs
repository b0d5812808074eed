//! What an evaluation costs. Not a test: `cargo test --release measure -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

const TEXTS: [&str; 4] = [
    "callbacks['count_scans'].result == 'success' and experiment.variables['qc'] == 'unsure'",
    "'pilot' not in experiment.label",
    "datetime.datetime.now() - experiment.scandate > datetime.timedelta(days=30)",
    "any(s['name'] == 't1' for s in callbacks['count_scans'].result_values['series'])",
];

fn micros(n: u32, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..n).for_each(|_| work());
    start.elapsed().as_secs_f64() * 1e6 / f64::from(n)
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let facts = facts();
    for text in TEXTS {
        let cached = micros(2_000, || drop(evaluate(text, &facts)));
        let checked = micros(2_000, || drop(check(text)));
        let cold = micros(500, || {
            cache::clear();
            drop(evaluate(text, &facts));
        });
        let cold_check = micros(500, || {
            cache::clear();
            drop(check(text));
        });
        let inputs = micros(2_000, || {
            drop(values::inputs(&facts, &syntax::Reads { experiment: true, all_callbacks: true, ..Default::default() }))
        });
        println!(
            "evaluate {cached:.1} µs cached, {cold:.1} cold; check {checked:.1} cached, {cold_check:.1} cold; all inputs {inputs:.1}: {text}"
        );
    }
}
