//! TLS to the database: translates the parameters of an address, `DB_SSL_MODE` and `DB_SSL_CA` into those of the drivers.

use url::Url;

use super::DatabaseKind;
use super::environment::{Environment, SettingError, unusable};
use super::table::{DB_SSL_CA as CA, DB_SSL_MODE as MODE};

/// The required level of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Disable,
    /// TLS if the server supports it.
    Prefer,
    /// TLS with any certificate.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// TLS with a certificate of a known authority for this host.
    VerifyFull,
}

impl Demand {
    /// Parses the mode names of PostgreSQL and of MySQL.
    fn read(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().replace('_', "-").as_str() {
            "disable" | "disabled" => Self::Disable,
            "allow" | "prefer" | "preferred" => Self::Prefer,
            "require" | "required" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" | "verify-identity" => Self::VerifyFull,
            _ => return None,
        })
    }

    fn word(self, kind: DatabaseKind) -> &'static str {
        match (self, kind == DatabaseKind::Mysql) {
            (Self::Disable, true) => "DISABLED",
            (Self::Prefer, true) => "PREFERRED",
            (Self::Require, true) => "REQUIRED",
            (Self::VerifyCa, true) => "VERIFY_CA",
            (Self::VerifyFull, true) => "VERIFY_IDENTITY",
            (Self::Disable, false) => "disable",
            (Self::Prefer, false) => "prefer",
            (Self::Require, false) => "require",
            (Self::VerifyCa, false) => "verify-ca",
            (Self::VerifyFull, false) => "verify-full",
        }
    }
}

/// The names of the driver's parameters for mode and certificate authority.
fn names(kind: DatabaseKind) -> (&'static str, &'static str) {
    if kind == DatabaseKind::Mysql { ("ssl-mode", "ssl-ca") } else { ("sslmode", "sslrootcert") }
}

/// Reduces the query of a MySQL address to its TLS parameters, translated for the driver. Other parameters of PyMySQL, such as
/// `charset=utf8mb4`, are unknown to the driver, which always uses utf8mb4. `name` is the setting with the address.
///
/// # Errors
/// When a TLS parameter is invalid or not supported: ignoring it could weaken the connection.
pub(super) fn keep_of_mysql(name: &str, url: &mut Url) -> Result<(), SettingError> {
    let given: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    let mut asked = Asked::default();
    for (parameter, value) in given {
        let Some(rest) = parameter.strip_prefix("ssl") else { continue };
        let wrong = |hint: &str| SettingError::new(name, format!("the address has {parameter}={value}; {hint}"));
        match rest.trim_start_matches(['-', '_']) {
            "mode" => {
                let hint = "it must be DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY";
                asked.mode = Some(Demand::read(&value).ok_or_else(|| wrong(hint))?);
            }
            "ca" => asked.files.push(("ssl-ca", value)),
            "cert" => asked.files.push(("ssl-cert", value)),
            "key" => asked.files.push(("ssl-key", value)),
            other => {
                let is_on = switch(&value).ok_or_else(|| wrong("it must be true or false"))?;
                match other {
                    "" => asked.some |= is_on,
                    "disabled" => asked.disabled |= is_on,
                    "verify_cert" => asked.verify = Some(is_on),
                    "verify_identity" | "check_hostname" => asked.identity |= is_on,
                    _ => return Err(wrong("this is not supported")),
                }
            }
        }
    }
    if let Some(demand) = asked.demand() {
        url.query_pairs_mut().append_pair("ssl-mode", demand.word(DatabaseKind::Mysql)).extend_pairs(asked.files);
    }
    Ok(())
}

/// The TLS parameters of an address.
#[derive(Default)]
struct Asked {
    mode: Option<Demand>,
    some: bool,
    disabled: bool,
    verify: Option<bool>,
    identity: bool,
    files: Vec<(&'static str, String)>,
}

impl Asked {
    /// Combines the parameters as PyMySQL does: an authority (`ssl-ca`) means that certificates are verified by default.
    fn demand(&self) -> Option<Demand> {
        let has_ca = self.files.iter().any(|(name, _)| *name == "ssl-ca");
        Some(match self.mode {
            Some(mode) => mode,
            None if self.disabled => Demand::Disable,
            None if self.identity => Demand::VerifyFull,
            None if self.verify.unwrap_or(has_ca) => Demand::VerifyCa,
            None if self.some || !self.files.is_empty() => Demand::Require,
            None => return None,
        })
    }
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Adds `DB_SSL_MODE` and `DB_SSL_CA` to an address without TLS parameters. `DB_SSL_CA` alone requires a certificate of that
/// authority.
///
/// # Errors
/// When the mode is unknown or the file cannot be read.
pub(super) fn demand(environment: &Environment, kind: DatabaseKind, url: &mut Url) -> Result<(), SettingError> {
    let mode = environment.get(MODE).map(|text| Demand::read(text).ok_or_else(|| unusable(MODE, text))).transpose()?;
    let ca = environment.get(CA);
    let (mode_name, ca_name) = names(kind);
    if url.query_pairs().any(|(parameter, _)| parameter.starts_with("ssl")) {
        return Ok(());
    }
    if let Some(path) = ca {
        std::fs::File::open(path).map_err(|error| SettingError::new(CA, format!("cannot read {path}: {error}")))?;
    }
    if let Some(mode) = mode.or(ca.map(|_| Demand::VerifyCa)) {
        url.query_pairs_mut().append_pair(mode_name, mode.word(kind));
    }
    if let Some(path) = ca {
        url.query_pairs_mut().append_pair(ca_name, path);
    }
    Ok(())
}
