//! Settings of outgoing e-mail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::{Environment, SettingError, unusable};
use super::setting::Name;
use super::table::{
    MAIL_DEFAULT_SENDER, MAIL_PASSWORD, MAIL_PORT, MAIL_SERVER, MAIL_SUPPRESS_SEND, MAIL_USE_SSL, MAIL_USE_TLS,
    MAIL_USERNAME, SECURITY_EMAIL_SENDER, STUDYGOV_EMAIL_FROM, STUDYGOV_EMAIL_PREFIX, STUDYGOV_EMAIL_TO,
};

/// The SMTP server.
#[derive(Clone)]
pub struct MailServer {
    pub host: String,
    pub port: u16,
    pub security: MailSecurity,
    /// User name and password.
    pub login: Option<(String, String)>,
}

impl std::fmt::Debug for MailServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MailServer({}:{}, {:?})", self.host, self.port, self.security)
    }
}

/// Encryption of the connection to a mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    Plain,
    /// Starts in plain text and must switch to TLS (STARTTLS).
    StartTls,
    /// TLS from the beginning.
    Tls,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct MailSettings {
    pub from: String,
    /// Recipients of e-mails without recipients of their own.
    pub to: Vec<String>,
    /// Prefix of each subject.
    pub prefix: String,
    /// Without a server, e-mails are stored in `folder`.
    pub server: Option<MailServer>,
    /// Time limit for sending an e-mail.
    pub patience: Duration,
    pub folder: PathBuf,
}

impl MailSettings {
    /// Reads `STUDYGOV_EMAIL_*` and `MAIL_*`; `home` is the project home.
    ///
    /// # Errors
    /// When a value is invalid.
    pub fn read(environment: &Environment, home: &Path) -> Result<Self, SettingError> {
        let senders = [STUDYGOV_EMAIL_FROM, MAIL_DEFAULT_SENDER, SECURITY_EMAIL_SENDER];
        for name in senders {
            checked(name, environment.get(name))?;
        }
        let to = mail_addresses(environment.get(STUDYGOV_EMAIL_TO).unwrap_or_default());
        for address in &to {
            checked(STUDYGOV_EMAIL_TO, Some(address))?;
        }
        let from = environment.first(&senders).map(|(_, value)| value.to_owned());
        Ok(Self {
            from: from.unwrap_or_else(|| environment.text(STUDYGOV_EMAIL_FROM)),
            to,
            prefix: environment.text(STUDYGOV_EMAIL_PREFIX),
            server: server(environment)?,
            patience: PATIENCE,
            folder: home.join("mails"),
        })
    }
}

/// Rejects a text that cannot contain an address; other errors appear when an e-mail is sent.
fn checked(name: Name, address: Option<&str>) -> Result<(), SettingError> {
    let Some(address) = address else { return Ok(()) };
    let is_address = address.split_once('@').is_some_and(|(user, domain)| {
        let is_part = |character: Option<char>| character.is_some_and(|character| !character.is_whitespace());
        is_part(user.chars().next_back()) && is_part(domain.chars().next())
    });
    if is_address { Ok(()) } else { Err(unusable(name, address)) }
}

/// Splits a list of addresses at commas, semicolons and line breaks, but not inside quotes, angle brackets or comments.
#[must_use]
pub fn mail_addresses(text: &str) -> Vec<String> {
    let mut addresses = vec![String::new()];
    let (mut in_quotes, mut is_escaped, mut depth) = (false, false, 0_u32);
    for character in text.chars() {
        let separates = matches!(character, ',' | ';' | '\n' | '\r') && !in_quotes && depth == 0;
        match character {
            _ if is_escaped => {}
            '"' => in_quotes = !in_quotes,
            '<' | '(' if !in_quotes => depth += 1,
            '>' | ')' if !in_quotes => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_escaped = character == '\\' && in_quotes && !is_escaped;
        match addresses.last_mut() {
            Some(last) if !separates => last.push(character),
            _ => addresses.push(String::new()),
        }
    }
    addresses.iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// Enough for a large e-mail to a slow server; well below the time after which another server sends the e-mail again.
const PATIENCE: Duration = Duration::from_mins(2);

fn server(environment: &Environment) -> Result<Option<MailServer>, SettingError> {
    let security = match (environment.flag(MAIL_USE_SSL)?, environment.flag(MAIL_USE_TLS)?) {
        (true, true) => {
            let hint = "and MAIL_USE_TLS are both true; use the first for implicit TLS or the second for STARTTLS";
            return Err(SettingError::new(MAIL_USE_SSL, hint));
        }
        (true, false) => MailSecurity::Tls,
        (false, true) => MailSecurity::StartTls,
        (false, false) => MailSecurity::Plain,
    };
    let usual = match security {
        // Flask-Mail has the same default for both.
        MailSecurity::Plain | MailSecurity::StartTls => 25,
        MailSecurity::Tls => 465,
    };
    let port: u16 = environment.number_or(MAIL_PORT, usual)?;
    let host = environment.host(MAIL_SERVER)?;
    // As in Flask-Mail: MAIL_SUPPRESS_SEND keeps a copy of a study from sending e-mails.
    if environment.flag(MAIL_SUPPRESS_SEND)? || host.is_empty() {
        return Ok(None);
    }
    let login = environment
        .get(MAIL_USERNAME)
        .map(|name| (name.to_owned(), environment.get(MAIL_PASSWORD).unwrap_or_default().to_owned()));
    Ok(Some(MailServer { host, port, security, login }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<MailSettings, SettingError> {
        MailSettings::read(&entries.iter().copied().collect(), Path::new("/home/study"))
    }

    #[test]
    fn a_list_is_split_between_its_addresses_only() {
        for (text, wanted) in [
            ("a@x.org, b@x.org;c@x.org\nd@x.org", &["a@x.org", "b@x.org", "c@x.org", "d@x.org"][..]),
            (
                "\"Doe, Ann\" <ann@x.org>, \"Roe; \\\"B, ob\\\"\" <bob@x.org>",
                &["\"Doe, Ann\" <ann@x.org>", "\"Roe; \\\"B, ob\\\"\" <bob@x.org>"],
            ),
            ("a@x.org (A, the first), <b@x.org>", &["a@x.org (A, the first)", "<b@x.org>"]),
            (" ,; ", &[]),
            ("", &[]),
        ] {
            assert_eq!(mail_addresses(text), wanted, "{text}");
        }
    }

    #[test]
    fn names_of_the_existing_product_are_read() {
        let settings = read(&[
            ("MAIL_SERVER", "smtp.example.org"),
            ("MAIL_USE_TLS", "true"),
            ("MAIL_USERNAME", "u"),
            ("MAIL_PASSWORD", "p"),
            ("STUDYGOV_EMAIL_TO", "a@example.org, b@example.org"),
            ("MAIL_DEFAULT_SENDER", "s@example.org"),
        ])
        .unwrap();
        let server = settings.server.unwrap();
        assert_eq!((server.port, server.security), (25, MailSecurity::StartTls));
        assert!(!format!("{server:?}").contains("(\"u\""));
        assert_eq!(settings.to, ["a@example.org", "b@example.org"]);
        assert_eq!((settings.from.as_str(), settings.prefix.as_str()), ("s@example.org", "[study governor]"));
        assert!(read(&[]).unwrap().server.is_none());
        let suppressed = [("MAIL_SERVER", "smtp.example.org"), ("MAIL_SUPPRESS_SEND", "True")];
        assert!(read(&suppressed).unwrap().server.is_none());
        assert_eq!(read(&[("SECURITY_EMAIL_SENDER", "x@example.org")]).unwrap().from, "x@example.org");
        assert_eq!(read(&[("MAIL_PORT", "x")]).unwrap_err().variable, "MAIL_PORT");
        assert_eq!(read(&[("MAIL_USE_SSL", "1"), ("MAIL_USE_TLS", "1")]).unwrap_err().variable, "MAIL_USE_SSL");
    }
}
