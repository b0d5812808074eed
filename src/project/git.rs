//! Calls of `git`: limited in time, non-interactive, and without the login in arguments, files or messages.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::RepositorySettings;

use super::SyncError;

/// Git calls this for the login. The shell prints it from its own variables, so that no process has it in its arguments.
const HELPER: &str =
    r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$SG_GIT_USERNAME" "$SG_GIT_PASSWORD"; }; f"#;

/// Options of each call: git runs no code of a repository, and nothing on this machine stores the login.
const ALWAYS: [&str; 7] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    // Credential helpers of the machine would store the password.
    "credential.helper=",
    "gc.autoDetach=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
];

/// Characters of git's output in a message.
const LONGEST: usize = 400;

/// Runs `git` with `arguments` in `folder`, and returns its output.
///
/// # Errors
/// When git is missing, does not end within `limit`, or fails; then with git's output, without the login.
pub(super) async fn git(
    settings: &RepositorySettings,
    folder: &Path,
    arguments: &[&str],
    (limit, variables): (Duration, &[(&str, &Path)]),
) -> Result<String, SyncError> {
    let mut command = Command::new("git");
    for setting in ALWAYS {
        command.args(["-c", setting]);
    }
    command.env_clear().envs(settings.variables.iter().map(|(name, value)| (name, value)));
    command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", "http:https:ssh:file");
    command.env("GIT_SSH_COMMAND", &settings.ssh_command).env("GIT_NO_LAZY_FETCH", "1");
    if let Some(login) = &settings.login {
        command.arg("-c").arg(format!("credential.{}.helper={HELPER}", login.origin));
        command.env("SG_GIT_USERNAME", &login.username).env("SG_GIT_PASSWORD", &login.password);
    }
    command.envs(variables.iter().copied()).args(arguments).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            SyncError::setting("PROJECT_REPO", "needs the program git, which is not installed on this machine")
        }
        _ => SyncError::passing("PROJECT_REPO", format!("git cannot be started: {error}")),
    })?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let output = match timeout(limit, child.wait_with_output()).await {
        Ok(output) => output.map_err(|error| SyncError::passing("PROJECT_REPO", error.to_string()))?,
        Err(_) => {
            let seconds = limit.as_secs();
            return Err(SyncError::passing("PROJECT_REPO", format!("git was stopped after {seconds} seconds")));
        }
    };
    group.0 = None;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failure(settings, &String::from_utf8_lossy(&output.stderr)))
}

/// The process group of a call: git's child processes end with it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails if the group has already ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Converts git's output to an error that names the setting.
fn failure(settings: &RepositorySettings, said: &str) -> SyncError {
    let words = words(settings, said);
    let shown = settings.shown();
    if words.contains("could not read Username") {
        if settings.login.is_some() {
            let problem = format!("the repository {shown} leads to another host, which gets no password");
            return SyncError::passing("PROJECT_REPO", problem);
        }
        let problem = format!("is not set, and the repository {shown} wants a login");
        return SyncError::passing("PROJECT_PASSWORD", problem);
    }
    if words.contains("Authentication failed") || words.contains("could not read Password") {
        let variable = if settings.login.is_some() { "PROJECT_PASSWORD" } else { "PROJECT_REPO" };
        return SyncError::passing(variable, format!("the login is refused by the repository {shown}"));
    }
    SyncError::passing("PROJECT_REPO", format!("the repository {shown} cannot be read: {words}"))
}

/// The lines of git's output that contain the reason, joined to one line, without the login.
fn words(settings: &RepositorySettings, said: &str) -> String {
    let is_reason = |line: &&str| {
        ["fatal: ", "error: ", "remote: ", "ERROR: "].iter().any(|start| line.starts_with(start))
            || line.contains("Permission denied")
            || line.contains("verification failed")
            || line.starts_with("ssh: ")
    };
    let mut lines: Vec<&str> = said.lines().map(str::trim).filter(is_reason).collect();
    if lines.is_empty() {
        lines = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    }
    let plain = |line: &&str| {
        let line =
            line.split_once(": ").filter(|(start, _)| matches!(*start, "fatal" | "error")).map_or(*line, |s| s.1);
        line.trim_end_matches('.').to_owned()
    };
    let mut text = lines.iter().map(plain).collect::<Vec<_>>().join("; ");
    if let Some(login) = &settings.login {
        // A user name without a password is a token.
        let secrets = [Some(&login.password), login.password.is_empty().then_some(&login.username)];
        for secret in secrets.into_iter().flatten().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "…");
        }
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if text.is_empty() { "git gives no reason".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn words_of_git_are_one_sentence_without_the_login() {
        let environment: Environment = [("PROJECT_REPO", "https://ada:hidden@h.org/x.git?a=b")].into_iter().collect();
        let settings = RepositorySettings::read(&environment, Path::new("/")).unwrap().unwrap();
        let said =
            "Cloning\nfatal: unable to access 'https://ada:hidden@h.org/x.git/': Could not resolve host: h.org\n";
        let text = failure(&settings, said).to_string();
        let start = "PROJECT_REPO: the repository https://h.org/x.git cannot be read: unable to access ";
        assert!(text.starts_with(start) && text.ends_with("Could not resolve host: h.org"), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        let text = failure(&settings, "fatal: Authentication failed for 'https://h.org/x.git'\n").to_string();
        assert_eq!(text, "PROJECT_PASSWORD: the login is refused by the repository https://h.org/x.git");
        assert!(failure(&settings, "\n").to_string().ends_with("git gives no reason"));
    }
}
