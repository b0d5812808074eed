//! The process tree of this machine, and killing of a branch of it.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// A process as listed in `/proc`.
pub(super) struct Process {
    pub(super) name: String,
    pub(super) parent: i32,
    /// It has ended, and its parent has not waited for it.
    is_zombie: bool,
}

/// All processes by their ids.
pub(super) fn processes() -> HashMap<i32, Process> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let ids = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| Some((id, process(id)?))).collect()
}

fn process(id: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // `id (name) state parent …`; the name may contain brackets and spaces.
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Process { name: name.to_owned(), parent, is_zombie: matches!(state, "Z" | "X") })
}

/// The running processes that descend from `root`.
fn descendants(root: i32) -> Vec<i32> {
    let all = processes();
    let descends = |mut id: i32| {
        // The number of processes limits the chain: ids may be reused while they are read, which can produce a loop.
        for _ in 0..all.len() {
            match all.get(&id).map(|process| process.parent) {
                Some(parent) if parent == root => return true,
                Some(parent) if parent > 1 => id = parent,
                _ => return false,
            }
        }
        false
    };
    all.iter().filter(|(id, process)| !process.is_zombie && descends(**id)).map(|(id, _)| *id).collect()
}

/// Kills all descendants of this process, and returns when none are left. Descendants that may not be killed (a program that
/// changed its user) are given up after a while.
pub(super) fn kill_descendants() {
    const MOST_REFUSALS: u32 = 50;
    let own = getpid().as_raw_nonzero().get();
    let mut pause = Duration::from_millis(1);
    let (mut refusals, mut empty) = (0, 0);
    // Checked twice: a process that was forked while the folder was read may have been missed once.
    while empty < 2 && refusals < MOST_REFUSALS {
        let found = descendants(own);
        empty = if found.is_empty() { empty + 1 } else { 0 };
        // Each of them, even if the first fails.
        let killed = found.iter().filter(|id| kill(**id)).count();
        refusals = if killed == 0 && !found.is_empty() { refusals + 1 } else { 0 };
        reap();
        if !found.is_empty() {
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}

/// Kills a process; returns whether the signal could be sent.
pub(super) fn kill(id: i32) -> bool {
    Pid::from_raw(id).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Waits for the children that have ended.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
