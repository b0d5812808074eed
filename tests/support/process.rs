//! The real program as a separate process.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use std::io::{BufRead, BufReader};

/// The program, with only the path from the environment of the tests.
pub fn studygovernor(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_studygovernor"));
    command.args(arguments).current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("STUDYGOV_XNAT_PROJECT", "test").stdin(Stdio::null());
    command
}

/// A running server; killed with SIGKILL when dropped.
pub struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
    pub url: String,
}

impl Program {
    /// Starts a serving command on any free port, and waits until it listens.
    pub fn start(mut command: Command) -> Self {
        command.env("STUDYGOV_PORT", "0");
        Self::start_until(command, "listens on ")
    }

    /// Starts a command and waits until it prints `phrase`; `url` is the rest of that line.
    pub fn start_until(mut command: Command, phrase: &'static str) -> Self {
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (found, listening) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, url)) = line.split_once(phrase) {
                    found.send(url.trim_end_matches('/').to_owned()).ok();
                }
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        match listening.recv_timeout(std::time::Duration::from_mins(1)) {
            Ok(url) => Self { child, log, url },
            Err(_) => {
                child.kill().ok();
                panic!("it did not start:\n{}", log.lock().unwrap());
            }
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Announces a POST of `length` bytes and sends none of them: the response must arrive anyway and close the
    /// connection; otherwise this would wait forever.
    pub async fn announce(&self, path: &str, headers: &[&str], length: usize) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = self.url.trim_start_matches("http://").split('/').next().unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let headers = headers.join("\r\n");
        let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close"), "{answer}");
        answer
    }

    /// Kills the process, like a power cut, and returns its log.
    pub fn kill(mut self) -> String {
        self.child.kill().ok();
        self.child.wait().ok();
        self.log()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops the process gracefully and returns its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    #[expect(clippy::print_stderr, reason = "a test that failed says why")]
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Prints the log of the program if the test has failed.
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the last that it said:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// The output of a command, for messages.
pub trait Said {
    fn out(&self) -> String;
    fn err(&self) -> String;
}

impl Said for Output {
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}
