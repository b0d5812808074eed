//! Logins for other systems, from the file that curl, Python and other programs also read: `$NETRC`, or `.netrc` in the home
//! directory. It is read for each run, so that a new password needs no restart.

use std::path::{Path, PathBuf};

/// Paths of the login files. The logins themselves are not kept in memory.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    /// The file named by the settings.
    named: Option<PathBuf>,
    /// The file in the home directory.
    at_home: Option<PathBuf>,
}

/// A user name and a password.
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

/// The login of one machine name in a file, or the default login.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// `None` for the default entry.
    machine: Option<String>,
    login: Option<Login>,
}

impl Logins {
    /// `netrc` is the configured file, `home` the home directory.
    #[must_use]
    pub fn find(netrc: Option<&str>, home: Option<&str>) -> Self {
        Self { named: netrc.map(PathBuf::from), at_home: home.map(|home| PathBuf::from(home).join(".netrc")) }
    }

    /// The login for a URL: that of its host with its port, of its host, or the default one. The texts describe problems of
    /// the files.
    pub(super) fn at(&self, url: &url::Url) -> (Option<Login>, Vec<String>) {
        let mut problems = Vec::new();
        let files = [(self.named.as_deref(), true), (self.at_home.as_deref(), false)];
        let files = files.into_iter().filter_map(|(file, is_named)| Some((file?, is_named)));
        let files: Vec<Vec<Entry>> = files.map(|(file, is_named)| entries_of(file, is_named, &mut problems)).collect();
        let Some(host) = url.host_str().map(machine_name) else { return (None, problems) };
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let names = [with_port.as_deref(), Some(&host), None];
        // A more specific name takes precedence over an earlier file.
        let login = names.iter().enumerate().find_map(|(rank, name)| {
            if name.is_none() && rank == 0 {
                return None;
            }
            files.iter().find_map(|entries| {
                entries.iter().find(|entry| entry.machine.as_deref() == *name).and_then(|entry| entry.login.clone())
            })
        });
        (login, problems)
    }
}

fn entries_of(file: &Path, is_named: bool, problems: &mut Vec<String>) -> Vec<Entry> {
    let shown = file.display();
    match std::fs::read(file) {
        Ok(bytes) => {
            let (entries, mistakes) = parse(&text_of(&bytes));
            problems.extend(mistakes.into_iter().map(|mistake| format!("Login file {shown}: {mistake}")));
            entries
        }
        Err(error) => {
            if is_named || error.kind() != std::io::ErrorKind::NotFound {
                problems.push(format!("Cannot read the login file {shown}, so its logins are not used: {error}"));
            }
            Vec::new()
        }
    }
}

/// Decodes UTF-8 with or without a byte order mark, UTF-16 with one, and otherwise Latin-1.
fn text_of(bytes: &[u8]) -> String {
    let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| -> String {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => text_of(rest),
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().copied().map(char::from).collect(),
        },
    }
}

/// Normalises a machine name for comparison: lower case, international names as sent, IPv6 without brackets.
fn machine_name(text: &str) -> String {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') =>
        {
            // An IPv6 address without brackets contains colons.
            if host.contains(':') && !host.ends_with(']') { (text, None) } else { (host, Some(port)) }
        }
        _ => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = url::Host::parse(host).map_or_else(|_| host.to_lowercase(), |host| host.to_string());
    port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}

/// Parses a file: its entries in order, and its problems.
fn parse(text: &str) -> (Vec<Entry>, Vec<String>) {
    let mut reader = Reader { rest: text, whole: text, problems: Vec::new() };
    let mut entries: Vec<Entry> = Vec::new();
    let (mut name, mut password) = (None, None);
    let finish = |entries: &mut Vec<Entry>, name: &mut Option<String>, password: &mut Option<String>| {
        let (name, password) = (name.take(), password.take().unwrap_or_default());
        if let Some(entry) = entries.last_mut() {
            entry.login = name.map(|name| Login { name, password });
        }
    };
    while let Some(word) = reader.keyword() {
        match word.as_str() {
            "machine" | "default" => {
                finish(&mut entries, &mut name, &mut password);
                let machine = if word == "machine" { reader.word().map(|name| machine_name(&name)) } else { None };
                entries.push(Entry { machine, login: None });
            }
            "login" | "user" => name = reader.word(),
            "password" => password = reader.word(),
            "account" => _ = reader.word(),
            "macdef" => reader.skip_macro(),
            other => {
                // The word is not shown: it may be part of a password.
                let line = reader.line();
                let hint = if other.len() > 3 { "a password with spaces needs quotes" } else { "it is ignored" };
                reader.problems.push(format!("line {line} has an unexpected word; {hint}"));
            }
        }
    }
    finish(&mut entries, &mut name, &mut password);
    (entries, reader.problems)
}

/// The unread rest of a file.
struct Reader<'a> {
    rest: &'a str,
    whole: &'a str,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// The current line number.
    fn line(&self) -> usize {
        let read = &self.whole[..self.whole.len() - self.rest.len()];
        read.trim_end().matches('\n').count() + 1
    }

    /// The next word where a keyword is expected. Only here are comments skipped, because a password may begin with `#`.
    fn keyword(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return self.word();
            }
            self.skip_line();
        }
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, after)| after);
    }

    /// The next word; in quotes it may contain spaces, and quotes escaped with a backslash.
    fn word(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return None;
        }
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
            let (word, after) = self.rest.split_at(end);
            self.rest = after;
            return Some(word.to_owned());
        };
        let mut word = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Some(word);
                }
                '\\' => word.extend(characters.next().map(|(_, escaped)| escaped)),
                // A password has no line break: the closing quote is missing, and the following lines do not belong to it.
                '\n' | '\r' => {
                    let line = self.line();
                    self.problems.push(format!("line {line} has an unclosed quote"));
                    self.rest = &quoted[at..];
                    return Some(word);
                }
                other => word.push(other),
            }
        }
        let line = self.line();
        self.problems.push(format!("line {line} has an unclosed quote"));
        self.rest = "";
        Some(word)
    }

    /// Skips a macro, which extends to the next empty line and contains no entries.
    fn skip_macro(&mut self) {
        self.skip_line();
        while !self.rest.is_empty() {
            let is_empty = self.rest.starts_with('\n') || self.rest.starts_with("\r\n");
            self.skip_line();
            if is_empty {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\nmachine xnat.example.org login reader password \"two words\"\n\
                        machine xnat.example.org:8443\n  login writer\n  password w#1\n\
                        machine castor.example.org login id password secret account x\n";

    fn told(bytes: &[u8], url: &str) -> (Option<(String, String)>, Vec<String>) {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".netrc"), bytes).unwrap();
        let logins = Logins::find(None, home.path().to_str());
        let (login, problems) = logins.at(&url.parse().unwrap());
        (login.map(|login| (login.name, login.password)), problems)
    }

    fn at(text: &str, url: &str) -> Option<(String, String)> {
        let (login, problems) = told(text.as_bytes(), url);
        assert!(problems.is_empty(), "{text}: {problems:?}");
        login
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what may be none")]
    fn login(name: &str, password: &str) -> Option<(String, String)> {
        Some((name.to_owned(), password.to_owned()))
    }

    #[test]
    fn the_nearest_entry_is_the_login() {
        assert_eq!(at(FILE, "https://xnat.example.org/a"), login("reader", "two words"));
        assert_eq!(at(FILE, "https://xnat.example.org:8443/a"), login("writer", "w#1"));
        assert_eq!(at(FILE, "https://castor.example.org"), login("id", "secret"));
        assert_eq!(at(FILE, "https://elsewhere.org"), None);
        assert_eq!(at(&format!("{FILE}default login any password one"), "https://elsewhere.org"), login("any", "one"));
        assert_eq!(at("machine a.org password p", "https://a.org"), None);
    }

    #[test]
    fn forms_that_python_and_curl_read_are_read() {
        for (text, wanted) in [
            (
                "macdef init\nmachine a.org login wrong password wrong\n\nmachine a.org login u password #p1\n",
                login("u", "#p1"),
            ),
            (
                "macdef init\r\nmachine a.org login wrong password wrong\r\n\r\nmachine a.org login u password p\r\n",
                login("u", "p"),
            ),
            ("machine a.org login u password p\nmacdef init\ncd /x\nlogin wrong\n", login("u", "p")),
            (
                "machine b.org login x password y macdef m\nmachine a.org login no\n\nmachine a.org user u password p",
                login("u", "p"),
            ),
            (r#"machine a.org login "u v" password "a\"b\\c""#, login("u v", "a\"b\\c")),
            (r#"machine a.org login u password a"b\c"#, login("u", "a\"b\\c")),
            ("machine a.org # the first\n # login no\n login u # name\n password p#q\n#password no", login("u", "p#q")),
            ("#machine a.org login no password no\nmachine a.org login u password \"#p q\"", login("u", "#p q")),
            ("machine\ta.org\n\tlogin\n\tu\n\tpassword\n\tp", login("u", "p")),
            ("machine A.Org login u password p\nmachine a.org login second password no", login("u", "p")),
            ("machine a.org password p login u account machine", login("u", "p")),
            ("machine a.org login u password \"\"", login("u", "")),
            ("machine a.org login u password pässwörd", login("u", "pässwörd")),
        ] {
            assert_eq!(at(text, "https://a.org/x"), wanted, "{text}");
        }
        assert_eq!(at("machine bücher.example login u password p", "https://xn--bcher-kva.example"), login("u", "p"));
        assert_eq!(at("machine ::1 login u password p", "http://[::1]:8080/"), login("u", "p"));
        assert_eq!(at("machine [::1]:8080 login u password p", "http://[::1]:8080/"), login("u", "p"));
        assert_eq!(at("machine 127.0.0.1:81 login u password p", "http://127.0.0.1:81/"), login("u", "p"));
    }

    #[test]
    fn encodings_are_told_apart() {
        let text = "machine a.org login u password ü";
        let wide = |unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        for bytes in [
            [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(),
            b"machine a.org login u password \xfc".to_vec(),
            [&b"\xff\xfe"[..], &wide(u16::to_le_bytes)].concat(),
            [&b"\xfe\xff"[..], &wide(u16::to_be_bytes)].concat(),
        ] {
            assert_eq!(told(&bytes, "https://a.org"), (login("u", "ü"), Vec::new()));
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_what_is_in_it() {
        let (found, problems) =
            told(b"machine a.org login u password \"open\nmachine b.org login v password p", "https://b.org");
        assert_eq!(found, login("v", "p"));
        assert!(problems.len() == 1 && problems[0].contains("line 1 has an unclosed quote"), "{problems:?}");
        let (_, problems) = told(b"\nmachine a.org login u password two words", "https://a.org");
        assert!(
            problems.len() == 1 && problems[0].contains("line 2") && !problems[0].contains("words"),
            "{problems:?}"
        );
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".netrc")).unwrap();
        let problems = |netrc| Logins::find(netrc, home.path().to_str()).at(&"https://a.org".parse().unwrap()).1;
        assert!(problems(None)[0].contains("Cannot read the login file"), "{:?}", problems(None));
        assert_eq!(problems(Some("/no/such/file")).len(), 2);
        let empty = tempfile::tempdir().unwrap();
        assert!(Logins::find(None, empty.path().to_str()).at(&"https://a.org".parse().unwrap()).1.is_empty());
    }

    #[test]
    fn a_named_file_comes_before_the_one_at_home_and_shows_no_password() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".netrc"), FILE).unwrap();
        let named = home.path().join("other");
        std::fs::write(&named, "machine castor.example.org login other password p").unwrap();
        let logins = Logins::find(named.to_str(), home.path().to_str());
        let login = logins.at(&"https://castor.example.org".parse().unwrap()).0.unwrap();
        assert_eq!(format!("{login:?}"), "Login(other, …)");
        assert!(logins.at(&"https://xnat.example.org".parse().unwrap()).0.is_some());
    }
}
