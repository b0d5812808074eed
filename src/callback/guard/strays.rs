//! Finds stray programs by the mark in their environment: programs of an ended attempt whose guards were both killed.
//!
//! A last resort: it does not find a program that has cleared its environment or runs as another user.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::tree::{Process, kill, processes};
use super::{ARGUMENT, MARK};

/// Limit for waiting until strays have ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills the unguarded programs of this execution's attempts up to `last`. `address` is the URL of the execution in the API.
/// Reads `/proc`, so call it where blocking is allowed.
pub(in crate::callback) fn end_strays(address: &str, last: i32) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let all = processes();
        let strays: Vec<i32> = all
            .keys()
            .copied()
            .filter(|id| attempt_of(*id, address).is_some_and(|attempt| attempt <= last) && !is_guarded(*id, &all))
            .collect();
        if strays.is_empty() {
            return;
        }
        tracing::warn!(address, count = strays.len(), "killed orphaned programs of an earlier attempt");
        for id in strays {
            kill(id);
        }
        sleep(Duration::from_millis(20));
    }
}

/// The attempt of a process, if it belongs to this execution. An unreadable environment belongs to another user's process,
/// or to one that has ended.
fn attempt_of(id: i32, address: &str) -> Option<i32> {
    let environment = std::fs::read(format!("/proc/{id}/environ")).ok()?;
    let wanted = format!("{MARK}={address}#");
    environment
        .split(|byte| *byte == 0)
        .find_map(|variable| std::str::from_utf8(variable).ok()?.strip_prefix(&wanted)?.parse().ok())
}

/// Whether a process is a guard or a descendant of one.
fn is_guarded(mut id: i32, all: &std::collections::HashMap<i32, Process>) -> bool {
    for _ in 0..all.len() {
        match all.get(&id) {
            Some(process) if process.name == ARGUMENT => return true,
            Some(process) if process.parent > 1 => id = process.parent,
            _ => return false,
        }
    }
    false
}
