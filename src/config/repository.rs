//! Settings of the git repository with the files of the study.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::environment::{Environment, SettingError, unusable};
use super::programs::is_usual;
use super::table::{
    GIT_SSH_COMMAND, PROJECT_BRANCH as BRANCH, PROJECT_PASSWORD as PASSWORD, PROJECT_RELATIVE_PATH as FOLDER,
    PROJECT_REPO as REPO, STUDYGOV_PROJECT_LOAD as LOAD, STUDYGOV_PROJECT_SYNC as SYNC,
};

/// The paths at which the chart mounts the private key and the host keys.
const KEY: &str = "/etc/studygovernor/git/key";
const KNOWN_HOSTS: &str = "/etc/studygovernor/known-hosts/known_hosts";

/// See the module. Debug output does not show the login.
#[derive(Clone)]
pub struct RepositorySettings {
    /// The address for git, without a login.
    pub address: String,
    /// Only for https and http.
    pub login: Option<RepositoryLogin>,
    /// A branch or a tag; `None` for the default branch of the repository.
    pub branch: Option<String>,
    /// The folder of the study in the repository, without `..` and not absolute.
    pub relative_path: PathBuf,
    pub sync: ProjectSync,
    /// Whether a server loads workflows whose labels are new.
    pub loads_workflows: bool,
    /// The command that git calls for ssh addresses.
    pub ssh_command: String,
    /// The folder on this machine that revisions are stored in.
    pub folder: PathBuf,
    /// The environment of git, without the login.
    pub variables: Vec<(String, String)>,
}

/// The login of git at the repository.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryLogin {
    pub username: String,
    pub password: String,
    /// `https://host:port`, the only host that receives the password, even after a redirect.
    pub origin: String,
}

/// When servers and workers fetch a new revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectSync {
    /// When they start.
    Start,
    /// When they start; servers also at this interval.
    Interval(Duration),
    /// Only when an operator runs `studygovernor project sync`.
    Off,
}

impl std::fmt::Debug for RepositorySettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Repository({}, {:?})", self.address, self.branch)
    }
}

impl RepositorySettings {
    /// Reads `PROJECT_*` and `STUDYGOV_PROJECT_SYNC`; `None` when `PROJECT_REPO` is not set. `home` is the project home.
    ///
    /// # Errors
    /// When a value is invalid. The error shows the value only where it cannot contain a password.
    pub fn read(environment: &Environment, home: &Path) -> Result<Option<Self>, SettingError> {
        let Some(repository) = environment.get(REPO) else { return Ok(None) };
        let (address, login) = address(repository, environment)?;
        let folder = home.join("repository");
        Ok(Some(Self {
            address,
            login,
            branch: environment.get(BRANCH).map(branch).transpose()?,
            relative_path: relative_path(environment.get(FOLDER).unwrap_or_default())?,
            sync: sync(&environment.text(SYNC))?,
            loads_workflows: loads(&environment.text(LOAD))?,
            ssh_command: environment.get(GIT_SSH_COMMAND).map_or_else(|| ssh_command(&folder), str::to_owned),
            variables: variables(environment),
            folder,
        }))
    }

    /// The address without login, query and fragment, for display.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.address.split(['?', '#']).next().unwrap_or(&self.address)
    }
}

/// Splits `PROJECT_REPO` into the address for git and the login, whose password may come from `PROJECT_PASSWORD`.
fn address(text: &str, environment: &Environment) -> Result<(String, Option<RepositoryLogin>), SettingError> {
    let refused = || SettingError::new(REPO, format!("is not {}", REPO.kind().wanted()));
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(refused());
    }
    let password = environment.get(PASSWORD);
    if password.is_some_and(|password| password.chars().any(char::is_control)) {
        return Err(SettingError::new(PASSWORD, "has a line end or another control character in it"));
    }
    let Some((scheme, _)) = text.split_once("://") else {
        if !text.starts_with('/') && !is_host_and_path(text) {
            return Err(refused());
        }
        return without_password(password).map(|()| (text.to_owned(), None));
    };
    let mut url = url::Url::parse(text).map_err(|_| refused())?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {
            let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(refused)?;
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let origin = format!("{}://{host}{port}", url.scheme());
            let login = login(&url, password, origin)?;
            url.set_username("").map_err(|()| refused())?;
            url.set_password(None).map_err(|()| refused())?;
            Ok((url.into(), login))
        }
        "ssh" => {
            let is_host = |host: &str| !host.is_empty() && !host.starts_with('-');
            let has_password = url.password().is_some();
            if !url.host_str().is_some_and(is_host) || url.username().starts_with('-') || has_password {
                return Err(refused());
            }
            without_password(password).map(|()| (text.to_owned(), None))
        }
        "file" if url.host_str().is_none_or(|host| host == "localhost") => {
            without_password(password).map(|()| (text.to_owned(), None))
        }
        _ => Err(refused()),
    }
}

fn without_password(password: Option<&str>) -> Result<(), SettingError> {
    match password {
        Some(_) => Err(SettingError::new(PASSWORD, "is set, and PROJECT_REPO is not an https address")),
        None => Ok(()),
    }
}

/// Whether a text is `host:path` or `user@host:path`, as for scp, and not `transport::address`.
fn is_host_and_path(text: &str) -> bool {
    let Some((login, path)) = text.split_once(':') else { return false };
    let (user, host) = login.split_once('@').unwrap_or(("git", login));
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !name.is_empty() && !name.starts_with('-') && name.chars().all(allowed)
    };
    is_name(user) && is_name(host) && !path.is_empty() && !path.starts_with([':', '-'])
}

/// The login of an https address. A user name without a password is a token, as at GitHub.
fn login(url: &url::Url, password: Option<&str>, origin: String) -> Result<Option<RepositoryLogin>, SettingError> {
    let refused = |_| SettingError::new(REPO, "the login in it is not text in UTF-8, with % before what is escaped");
    let unescaped = |text| percent_decode_str(text).decode_utf8().map(String::from).map_err(refused);
    let name = unescaped(url.username())?;
    let own = url.password().map(unescaped).transpose()?;
    if own.is_some() && password.is_some() {
        return Err(SettingError::new(PASSWORD, "PROJECT_REPO has a password too; set only one of them"));
    }
    if [Some(&name), own.as_ref()].into_iter().flatten().any(|text| text.chars().any(char::is_control)) {
        return Err(SettingError::new(REPO, "the login in it has a control character"));
    }
    let username = if name.is_empty() { "git".to_owned() } else { name.clone() };
    Ok(match own.or_else(|| password.map(str::to_owned)) {
        Some(password) => Some(RepositoryLogin { username, password, origin }),
        None if name.is_empty() => None,
        None => Some(RepositoryLogin { username, password: String::new(), origin }),
    })
}

/// Accepts a name that git can only read as a branch, not as an option or an expression.
fn branch(name: &str) -> Result<String, SettingError> {
    let name = name.strip_prefix("refs/heads/").unwrap_or(name);
    let is_wrong = name.is_empty()
        || name.len() > 200
        || name.starts_with(['-', '/', '.'])
        || name.ends_with(['/', '.'])
        || ["..", "//", "@{", "/."].iter().any(|part| name.contains(part))
        || name.split('/').any(|part| part.strip_suffix(".lock").is_some())
        || name == "@"
        || name.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c));
    if is_wrong { Err(unusable(BRANCH, name)) } else { Ok(name.to_owned()) }
}

fn relative_path(text: &str) -> Result<PathBuf, SettingError> {
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) if !part.eq_ignore_ascii_case(".git") => path.push(part),
            _ => return Err(unusable(FOLDER, text)),
        }
    }
    Ok(path)
}

fn sync(text: &str) -> Result<ProjectSync, SettingError> {
    let refused = || unusable(SYNC, text);
    let word = text.to_ascii_lowercase();
    match word.as_str() {
        "start" => return Ok(ProjectSync::Start),
        "off" => return Ok(ProjectSync::Off),
        _ => {}
    }
    let time = word.strip_prefix("interval:").ok_or_else(refused)?.trim();
    let digits = time.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = time.split_at(digits);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(refused()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    // A longer interval than a year is a mistake.
    let seconds = seconds.filter(|seconds| (1..=366 * 24 * 3600).contains(seconds)).ok_or_else(refused)?;
    Ok(ProjectSync::Interval(Duration::from_secs(seconds)))
}

fn loads(text: &str) -> Result<bool, SettingError> {
    match text.to_ascii_lowercase().as_str() {
        "new" => Ok(true),
        "off" => Ok(false),
        _ => Err(unusable(LOAD, text)),
    }
}

/// The ssh command: it never prompts, and refuses a host whose key has changed or, with mounted host keys, is unknown.
fn ssh_command(folder: &Path) -> String {
    let mut command = "ssh -o BatchMode=yes -o ConnectTimeout=20".to_owned();
    if Path::new(KEY).exists() {
        command.push_str(&format!(" -i {KEY} -o IdentitiesOnly=yes"));
    }
    if Path::new(KNOWN_HOSTS).exists() {
        command.push_str(&format!(" -o StrictHostKeyChecking=yes -o UserKnownHostsFile={KNOWN_HOSTS}"));
    } else {
        // ssh adds new keys to the first file. The path is quoted twice: for the shell and for ssh.
        let own = folder.join("known_hosts").display().to_string().replace('%', "%%").replace('\'', r"'\''");
        command.push_str(&format!(
            " -o StrictHostKeyChecking=accept-new -o 'UserKnownHostsFile=\"{own}\" ~/.ssh/known_hosts'"
        ));
    }
    command
}

/// The variables that git needs: machine, network, and its own settings for ssh, TLS and configuration files. Variables that redirect
/// git to other files, or make it log the data that it sends, are left out.
fn variables(environment: &Environment) -> Vec<(String, String)> {
    const OWN: [&str; 5] = ["GIT_SSH_VARIANT", "GIT_SSL_", "GIT_HTTP_", "GIT_CONFIG_", "SSH_AUTH_SOCK"];
    let wanted = |name: &str| is_usual(name) || OWN.iter().any(|start| name.starts_with(start));
    let all = environment.all().filter(|(name, _)| wanted(name));
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::setting::Name;
    use super::*;

    fn read(entries: &[(Name, &str)]) -> Result<RepositorySettings, SettingError> {
        let environment: Environment = entries.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        RepositorySettings::read(&environment, Path::new("/home")).map(|settings| settings.unwrap())
    }

    #[test]
    fn the_login_is_not_part_of_the_address() {
        let cases = [
            ("https://h.org/a/b.git", "", "https://h.org/a/b.git", None),
            ("https://h.org/a", "p", "https://h.org/a", Some(("git", "p"))),
            ("https://ada@h.org/a", "p%41", "https://h.org/a", Some(("ada", "p%41"))),
            ("https://ada:p%40%C3%A4@h.org:8443/a", "", "https://h.org:8443/a", Some(("ada", "p@ä"))),
            ("https://token@h.org/a", "", "https://h.org/a", Some(("token", ""))),
            ("HTTP://h.org/a", "p", "http://h.org/a", Some(("git", "p"))),
        ];
        for (repository, password, address, login) in cases {
            let settings = read(&[(REPO, repository), (PASSWORD, password)]).unwrap();
            assert_eq!(settings.address, address);
            let found = settings.login.as_ref().map(|login| (login.username.as_str(), login.password.as_str()));
            assert_eq!(found, login, "{repository}");
            assert!(!format!("{settings:?}").contains('@'), "{settings:?}");
        }
        let login = read(&[(REPO, "https://u:p@h.org:8443/a")]).unwrap().login.unwrap();
        assert_eq!(login.origin, "https://h.org:8443");
    }

    #[test]
    fn only_addresses_of_git_and_no_options_and_no_commands() {
        for good in
            ["ssh://git@h:22/x", "git@h.org:a/b.git", "h.org:a", "file:///srv/x.git", "/srv/a b.git", "/srv/x:y"]
        {
            let good = good.replace(' ', "_");
            assert_eq!(read(&[(REPO, &good)]).unwrap().address, good);
        }
        for wrong in [
            "--upload-pack=touch /tmp/x",
            "-u",
            "ext::sh -c touch% /tmp/x",
            "ext::sh",
            "fd::3",
            "ftp://h/x",
            "git://h/x",
            "http://",
            "relative/path",
            "../x",
            "git@-oProxyCommand=x:y",
            "ssh://-oProxyCommand=x/y",
            "ssh://u:p@h/y",
            "https://h/a\nb",
            "file://elsewhere/x",
            "git@h.org:--upload-pack=x",
            "a::b",
        ] {
            let error = read(&[(REPO, wrong)]).unwrap_err();
            assert!(error.variable == REPO.as_str() && !error.problem.contains("touch"), "{wrong}: {error}");
        }
        for (entries, variable) in [
            (&[(REPO, "/x"), (PASSWORD, "p")][..], PASSWORD),
            (&[(REPO, "https://u:q@h/x"), (PASSWORD, "p")], PASSWORD),
            (&[(REPO, "https://h/x"), (PASSWORD, "p\nq")], PASSWORD),
            (&[(REPO, "https://u%00:q@h/x")], REPO),
        ] {
            assert_eq!(read(entries).unwrap_err().variable, variable.as_str());
        }
    }

    #[test]
    fn branches_folders_and_times() {
        for wrong in ["-b", "--upload-pack=x", "a..b", "a b", "a:b", "/a", "a/", "a.lock", "@", "a^", "refs/heads/"] {
            assert_eq!(read(&[(REPO, "/x"), (BRANCH, wrong)]).unwrap_err().variable, BRANCH.as_str(), "{wrong}");
        }
        assert_eq!(read(&[(REPO, "/x"), (BRANCH, "refs/heads/f/x-1")]).unwrap().branch.unwrap(), "f/x-1");
        for wrong in ["/etc", "..", "a/../..", ".git/hooks", "a/.GIT"] {
            assert_eq!(read(&[(REPO, "/x"), (FOLDER, wrong)]).unwrap_err().variable, FOLDER.as_str(), "{wrong}");
        }
        assert_eq!(read(&[(REPO, "/x"), (FOLDER, "./a//b/")]).unwrap().relative_path, Path::new("a/b"));
        for (text, wanted) in [
            ("start", ProjectSync::Start),
            ("OFF", ProjectSync::Off),
            ("interval:5m", ProjectSync::Interval(Duration::from_mins(5))),
            ("interval:2d", ProjectSync::Interval(Duration::from_hours(48))),
        ] {
            assert_eq!(read(&[(REPO, "/x"), (SYNC, text)]).unwrap().sync, wanted);
        }
        for wrong in ["hourly", "interval:5", "interval:0s", "interval:m", "interval:999999d", "5m"] {
            assert_eq!(read(&[(REPO, "/x"), (SYNC, wrong)]).unwrap_err().variable, SYNC.as_str(), "{wrong}");
        }
        assert_eq!(read(&[(REPO, "/x"), (LOAD, "all")]).unwrap_err().variable, LOAD.as_str());
        // Without PROJECT_REPO, the other settings are not checked.
        let environment: Environment = [(BRANCH.as_str(), "-x")].into_iter().collect();
        assert!(RepositorySettings::read(&environment, Path::new("/")).unwrap().is_none());
    }
}
