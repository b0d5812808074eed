//! Logins at other systems, from the file that curl, Python and others read too: `$NETRC`, or `.netrc` in the home
//! directory. Read anew for each run, so that a new password needs no restart.

use std::path::PathBuf;

/// Where the logins are. Not the logins: they are no state of a worker.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    files: Vec<PathBuf>,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Login({}, …)", self.name)
    }
}

impl Logins {
    /// `netrc` is the file that was named, `home` the home directory.
    #[must_use]
    pub fn find(netrc: Option<&str>, home: Option<&str>) -> Self {
        let in_home = home.map(|home| PathBuf::from(home).join(".netrc"));
        Self { files: netrc.map(PathBuf::from).into_iter().chain(in_home).collect() }
    }

    /// The login for an address: that of its host with its port, of its host, or the default one.
    pub(super) fn at(&self, url: &url::Url) -> Option<Login> {
        let host = url.host_str()?;
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let texts: Vec<String> = self.files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        let names = [with_port.as_deref(), Some(host), None];
        // A name that is nearer counts more than a file that is.
        names.iter().enumerate().find_map(|(rank, name)| {
            if name.is_none() && rank == 0 {
                return None;
            }
            texts.iter().find_map(|text| entry(text, *name))
        })
    }
}

/// The entry of `machine`, or the default one.
fn entry(text: &str, machine: Option<&str>) -> Option<Login> {
    let mut words = words(text).into_iter();
    let mut is_wanted = false;
    let (mut name, mut password) = (None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => {
                if is_wanted {
                    break;
                }
                let named = if word == "machine" { words.next() } else { None };
                is_wanted = named.as_deref() == machine;
            }
            "login" if is_wanted => name = words.next(),
            "password" if is_wanted => password = words.next(),
            "login" | "password" | "account" | "macdef" => _ = words.next(),
            _ => {}
        }
    }
    Some(Login { name: name?, password: password.unwrap_or_default() })
}

/// Words between spaces; in quotes they may have some. What follows a # at the beginning of a word is a comment.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
            };
            words.push(word.to_owned());
            rest = after.trim_start();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\nmachine xnat.example.org login reader password \"two words\"\n\
                        machine xnat.example.org:8443\n  login writer\n  password w#1\n\
                        machine castor.example.org login id password secret account x\n";

    fn at(text: &str, url: &str) -> Option<(String, String)> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".netrc"), text).unwrap();
        let logins = Logins::find(None, home.path().to_str());
        logins.at(&url.parse().unwrap()).map(|login| (login.name, login.password))
    }

    #[test]
    fn the_nearest_entry_is_the_login() {
        let login = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(at(FILE, "https://xnat.example.org/a"), login("reader", "two words"));
        assert_eq!(at(FILE, "https://xnat.example.org:8443/a"), login("writer", "w#1"));
        assert_eq!(at(FILE, "https://castor.example.org"), login("id", "secret"));
        assert_eq!(at(FILE, "https://elsewhere.org"), None);
        assert_eq!(at(&format!("{FILE}default login any password one"), "https://elsewhere.org"), login("any", "one"));
        assert_eq!(at("machine a.org password p", "https://a.org"), None);
    }

    #[test]
    fn a_named_file_comes_before_the_one_at_home_and_shows_no_password() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".netrc"), FILE).unwrap();
        let named = home.path().join("other");
        std::fs::write(&named, "machine castor.example.org login other password p").unwrap();
        let logins = Logins::find(named.to_str(), home.path().to_str());
        let login = logins.at(&"https://castor.example.org".parse().unwrap()).unwrap();
        assert_eq!(format!("{login:?}"), "Login(other, …)");
        assert!(logins.at(&"https://xnat.example.org".parse().unwrap()).is_some());
    }
}
