//! The log on stderr. Logging never blocks the program: a thread writes the lines, and a line that cannot be written,
//! or that does not fit into the buffer while stderr is not read, is dropped.

use std::io::{IsTerminal, Result, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::table::STUDYGOV_LOG;
use crate::config::{Environment, SettingError};

/// Maximum number of lines that wait to be written.
const WAITING: usize = 4096;

/// Maximum time that the program waits at its end for the last lines to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

enum Piece {
    Line(Vec<u8>),
    /// Answered when all earlier lines have been written.
    End(SyncSender<()>),
}

/// Sends lines to the thread that writes them.
#[derive(Clone)]
pub(super) struct Log {
    pieces: SyncSender<Piece>,
    /// Number of dropped lines.
    lost: Arc<AtomicU64>,
}

/// Starts the log with the filter of `STUDYGOV_LOG`, in the syntax of `RUST_LOG`: `debug`, `studygovernor=debug`, …
///
/// By default `tower_sessions_core` is set to `error` because it logs a warning for every request with the cookie of an expired
/// session, which is normal.
///
/// # Errors
/// When the filter cannot be read.
pub(super) fn start(environment: &Environment) -> std::result::Result<Log, SettingError> {
    let text = environment.text(STUDYGOV_LOG);
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        SettingError::new(STUDYGOV_LOG, format!("'{text}' is not {} ({error})", STUDYGOV_LOG.kind().wanted()))
    })?;
    let log = Log::to(std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        // Otherwise it would try to print that it cannot print, and panic.
        .log_internal_errors(false)
        .init();
    Ok(log)
}

impl Log {
    fn to(output: impl Write + Send + 'static) -> Self {
        let (pieces, waiting) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // Without the thread all lines are dropped, but the program works.
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&waiting, &counted, output));
        Self { pieces, lost }
    }

    /// Waits, for a limited time, until all logged lines are written.
    pub(super) fn finish(&self) {
        let end = Instant::now() + LAST_WORDS;
        let (done, written) = sync_channel(1);
        let mut piece = Piece::End(done);
        while let Err(TrySendError::Full(back)) = self.pieces.try_send(piece) {
            if Instant::now() > end {
                return;
            }
            piece = back;
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(LAST_WORDS);
    }
}

fn write(waiting: &Receiver<Piece>, lost: &AtomicU64, mut output: impl Write) {
    for piece in waiting {
        match piece {
            Piece::Line(line) => {
                let count = lost.swap(0, Ordering::Relaxed);
                if count > 0 {
                    let said = format!("{count} log lines were dropped: the output was not read in time\n");
                    if output.write_all(said.as_bytes()).is_err() {
                        // It is reported with the next line.
                        lost.fetch_add(count, Ordering::Relaxed);
                    }
                }
                let _ = output.write_all(&line);
            }
            Piece::End(done) => {
                let _ = output.flush();
                let _ = done.send(());
            }
        }
    }
}

/// A line that is being written.
pub(super) struct Line<'a>(&'a Log);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if let Err(TrySendError::Full(_)) = self.0.pieces.try_send(Piece::Line(bytes.to_vec())) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// Waits before each write for a message of the test: then the write fails. When the test has dropped its sender,
    /// writes succeed.
    struct Slow {
        began: mpsc::Sender<()>,
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            // Only the first message is received.
            let _ = self.began.send(());
            if self.gate.recv().is_ok() {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_not_read_or_cannot_be_written_are_lost_and_nothing_else() {
        let (fail, gate) = mpsc::channel();
        let (began, first) = mpsc::channel();
        let written = Arc::default();
        let log = Log::to(Slow { began, gate, written: Arc::clone(&written) });
        log.make_writer().write_all(b"line 0\n").unwrap();
        first.recv().unwrap();
        for number in 1..WAITING + 100 {
            // Never blocks, whether or not anything is read.
            log.make_writer().write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        fail.send(()).unwrap();
        drop(fail);
        log.finish();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("line 0\n") && text.contains("line 9\n"), "the first line met the error");
        assert!(text.contains("log lines were dropped") && !text.contains("line 4195\n"), "the last ones had no room");
    }
}
