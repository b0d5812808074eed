//! The rules of the engine, each with its id.

mod concurrency;
mod conditions;
mod defects;
mod holds;
mod model;
mod one_clock;
mod rules;

/// Root → check (two callbacks) → review (manual) or broken; review → work (a callback) → done or broken.
pub const WORKFLOW: &str = "
label: tested_1
states:
  - label: root
    transitions: [{destination: check}]
  - label: check
    callbacks:
      - {label: count, function: sleep, variable_map: {n: /extra/n, qc: rating}, run_timeout: 10}
      - {label: notify, function: sleep, condition: \"'pilot' not in experiment.label\"}
    transitions:
      - {destination: review, condition: \"callbacks['count'].result == 'success'\"}
      - {destination: broken}
  - label: review
    transitions: [{destination: work}, {destination: broken, condition: \"experiment.variables['qc'] == 'bad'\"}]
  - label: work
    callbacks: [{label: pipeline, function: sleep, run_timeout: 30, wait_timeout: 60}]
    transitions:
      - {destination: done, condition: \"callbacks['pipeline'].result == 'success'\"}
      - {destination: broken, condition: \"callbacks['pipeline'].result == 'timeout'\"}
  - label: done
  - label: broken
    transitions: [{destination: check}]
";
