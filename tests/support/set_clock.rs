//! A machine clock that can be set, for one process of the program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The clock of one process. Clocks that cannot be set (`CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`) are not changed.
pub struct SetClock(PathBuf);

impl SetClock {
    /// A correct clock, with its file in `folder`.
    pub fn new(folder: &Path) -> Self {
        let clock = Self(folder.join(format!("clock-{}", uuid::Uuid::new_v4().simple())));
        clock.set(0);
        clock
    }

    /// Sets it this number of seconds ahead of the correct time, or behind it.
    pub fn set(&self, seconds: i64) {
        // Replaced atomically, because the file is read all the time.
        let new = self.0.with_extension("new");
        std::fs::write(&new, seconds.to_string()).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    /// The environment of a process that uses this clock.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("LD_PRELOAD", library().to_str().unwrap()), ("FT_FILE", self.0.to_str().unwrap())]
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
        let library = std::env::temp_dir().join(format!("studygovernor-clock-{}.so", std::process::id()));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(compiler.status().expect("the tests need a C compiler").success());
        library
    })
}
