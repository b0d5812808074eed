//! Address and limits of the database. All address formats in `.env` files of version 8.1 are accepted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::database_tls;
use super::environment::{Environment, SettingError, unusable};
use super::setting::{Kind, Name};
use super::table::{
    DATABASE_URL, DB_HOST, DB_NAME, DB_PASSWORD, DB_PORT, DB_SCHEMA, DB_USER, PGPASSWORD, SQLALCHEMY_DATABASE_URI,
    STUDYGOV_DATABASE_CONNECTIONS, STUDYGOV_DATABASE_IDLE_SECONDS, STUDYGOV_DATABASE_LOCK_SECONDS,
    STUDYGOV_DATABASE_NETWORK_SECONDS, STUDYGOV_DATABASE_STATEMENT_SECONDS,
};

/// The supported kinds of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    Sqlite,
    Postgres,
    Mysql,
}

/// How long this server and the database wait for each other, and how many connections this server opens. Zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseLimits {
    /// Wait for a lock that another transaction holds, and for a free connection.
    pub lock: Duration,
    /// The database server ends a transaction that sends nothing for this long, and so releases its locks.
    pub idle: Duration,
    /// Duration of one statement.
    pub statement: Duration,
    /// Time without a sign of life after which the database server closes a connection.
    pub network: Duration,
    /// Maximum number of connections, for all purposes together.
    pub connections: u32,
}

impl DatabaseLimits {
    /// The default limits.
    fn of(kind: DatabaseKind) -> Result<Self, SettingError> {
        Self::read(&Environment::default(), kind)
    }

    fn read(environment: &Environment, kind: DatabaseKind) -> Result<Self, SettingError> {
        // SQLite has a single lock per file, and an import holds it longer than a row lock is held elsewhere.
        let lock: u64 = if kind == DatabaseKind::Sqlite { 10 } else { 5 };
        let seconds = |name: Name| environment.number(name).map(Duration::from_secs);
        Ok(Self {
            lock: Duration::from_secs(environment.number_or(STUDYGOV_DATABASE_LOCK_SECONDS, lock)?),
            idle: seconds(STUDYGOV_DATABASE_IDLE_SECONDS)?,
            statement: seconds(STUDYGOV_DATABASE_STATEMENT_SECONDS)?,
            network: seconds(STUDYGOV_DATABASE_NETWORK_SECONDS)?,
            connections: environment.number(STUDYGOV_DATABASE_CONNECTIONS)?,
        })
    }
}

/// Address, kind and limits of the database.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    pub kind: DatabaseKind,
    /// The address in the driver's format, with the password.
    pub url: String,
    /// The file of an SQLite database; `None` for a database in memory.
    pub file: Option<PathBuf>,
    /// Whether no database is configured, so that the one in the project home is used.
    pub is_default: bool,
    pub limits: DatabaseLimits,
}

impl std::fmt::Debug for DatabaseSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.shown())
    }
}

impl DatabaseSettings {
    /// Reads `SQLALCHEMY_DATABASE_URI`, `DATABASE_URL`, or the parts (`DB_SCHEMA`, `DB_HOST` …); also `DB_SSL_MODE` and `DB_SSL_CA`.
    ///
    /// # Errors
    /// When the address is invalid or names an unsupported kind of database.
    pub fn read(environment: &Environment, home: &Path) -> Result<Self, SettingError> {
        let found = Self::address(environment, home)?.with_tls(environment)?;
        Ok(Self { limits: DatabaseLimits::read(environment, found.kind)?, ..found })
    }

    fn address(environment: &Environment, home: &Path) -> Result<Self, SettingError> {
        if let Some((name, value)) = environment.first(&[SQLALCHEMY_DATABASE_URI, DATABASE_URL]) {
            return Self::parse(&name, value).map(|found| found.with_password(environment));
        }
        if environment.get(DB_SCHEMA).is_some() || environment.get(DB_HOST).is_some() {
            return Self::from_parts(environment);
        }
        Ok(Self { is_default: true, ..Self::sqlite_file(home.join("studygovernor.db"))? })
    }

    /// Parses an address in the format of SQLAlchemy or of the drivers.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(name: &str, value: &str) -> Result<Self, SettingError> {
        let wanted = Kind::Database.wanted();
        let Some((scheme, rest)) = value.split_once("://") else {
            return Err(SettingError::new(name, format!("this is not {wanted}")));
        };
        // The part after `+` names a Python driver (`postgresql+psycopg2`); this program has its own.
        let dialect = scheme.split('+').next().unwrap_or(scheme);
        let kind = match dialect {
            "sqlite" => return Self::sqlite(rest),
            "postgres" | "postgresql" => DatabaseKind::Postgres,
            "mysql" | "mariadb" => DatabaseKind::Mysql,
            other => return Err(SettingError::new(name, format!("'{other}://…' is not {wanted}"))),
        };
        let scheme = if kind == DatabaseKind::Postgres { "postgres" } else { "mysql" };
        let mut url = Url::parse(&format!("{scheme}://{rest}"))
            .map_err(|error| SettingError::new(name, format!("this is not {wanted}: {error}")))?;
        if url.path().trim_matches('/').is_empty() {
            return Err(SettingError::new(name, "the URL does not include a database name after the host"));
        }
        if kind == DatabaseKind::Mysql {
            database_tls::keep_of_mysql(name, &mut url)?;
        }
        Ok(Self { kind, url: url.into(), file: None, is_default: false, limits: DatabaseLimits::of(kind)? })
    }

    /// Adds the password of `PGPASSWORD` to an address without one. The driver would read it from the environment of the process,
    /// where callback programs could read it too.
    fn with_password(mut self, environment: &Environment) -> Self {
        if let (DatabaseKind::Postgres, Some(password), Ok(mut url)) =
            (self.kind, environment.get(PGPASSWORD), Url::parse(&self.url))
            && url.password().is_none()
            && url.set_password(Some(password)).is_ok()
        {
            self.url = url.into();
        }
        self
    }

    /// Adds the TLS parameters of `DB_SSL_MODE` and `DB_SSL_CA`.
    fn with_tls(mut self, environment: &Environment) -> Result<Self, SettingError> {
        if let (false, Ok(mut url)) = (self.kind == DatabaseKind::Sqlite, Url::parse(&self.url)) {
            database_tls::demand(environment, self.kind, &mut url)?;
            self.url = url.into();
        }
        Ok(self)
    }

    fn from_parts(environment: &Environment) -> Result<Self, SettingError> {
        let scheme = environment.text(DB_SCHEMA);
        let host = environment.host(DB_HOST)?;
        let Some(database) = environment.get(DB_NAME) else {
            return Err(SettingError::new(DB_NAME, "is required together with DB_SCHEMA and DB_HOST"));
        };
        if scheme.starts_with("sqlite") {
            return Self::sqlite(&format!("/{database}"));
        }
        let parsed = Self::parse(&DB_SCHEMA, &format!("{scheme}://localhost/{database}"))?;
        let mut url = Url::parse(&parsed.url).map_err(|error| SettingError::new(DB_NAME, error.to_string()))?;
        // Version 8.1 accepts a host followed by a port.
        let (host, port) = match host.rsplit_once(':') {
            _ if host.parse::<std::net::Ipv6Addr>().is_ok() => (format!("[{host}]"), None),
            Some((host, port)) if !host.is_empty() && !port.ends_with(']') => (host.to_owned(), Some(port.to_owned())),
            _ => (host, None),
        };
        url.set_host(Some(&host)).map_err(|_| unusable(DB_HOST, &host))?;
        if let Some(port) = port {
            let number = port.parse().map_err(|_| unusable(DB_HOST, format!("{host}:{port}")))?;
            url.set_port(Some(number)).map_err(|()| unusable(DB_HOST, &host))?;
        }
        let refused = |name: Name| SettingError::new(name, "cannot be part of a database URL");
        if let Some(user) = environment.get(DB_USER) {
            url.set_username(user).map_err(|()| refused(DB_USER))?;
        }
        if let Some(password) = environment.get(DB_PASSWORD) {
            url.set_password(Some(password)).map_err(|()| refused(DB_PASSWORD))?;
        }
        if environment.get(DB_PORT).is_some() {
            url.set_port(Some(environment.number(DB_PORT)?)).map_err(|()| refused(DB_PORT))?;
        }
        Ok(Self { url: url.into(), ..parsed }.with_password(environment))
    }

    /// Parses `rest` as SQLAlchemy does: empty is a database in memory, one slash a relative path, two slashes an absolute path.
    fn sqlite(rest: &str) -> Result<Self, SettingError> {
        let path = rest.split('?').next().unwrap_or(rest);
        match path.strip_prefix('/') {
            None | Some("" | ":memory:") if !path.contains('.') || path == "/:memory:" => {
                let (kind, url) = (DatabaseKind::Sqlite, "sqlite::memory:".to_owned());
                Ok(Self { kind, url, file: None, is_default: false, limits: DatabaseLimits::of(kind)? })
            }
            None => Self::sqlite_file(PathBuf::from(path)),
            Some(path) => Self::sqlite_file(PathBuf::from(path)),
        }
    }

    fn sqlite_file(file: PathBuf) -> Result<Self, SettingError> {
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let kind = DatabaseKind::Sqlite;
        Ok(Self { kind, url, file: Some(file), is_default: false, limits: DatabaseLimits::of(kind)? })
    }

    /// The address without the password, for display.
    #[must_use]
    pub fn shown(&self) -> String {
        if let Some(file) = &self.file {
            return format!("SQLite file {}", file.display());
        }
        let Ok(mut url) = Url::parse(&self.url) else { return "SQLite in memory".to_owned() };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return format!("{}://…", url.scheme());
        }
        // The driver also accepts a password in the query.
        let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        if query.iter().any(|(name, _)| name.contains("pass")) {
            let shown = query.iter().map(|(name, value)| (name, if name.contains("pass") { "***" } else { value }));
            url.query_pairs_mut().clear().extend_pairs(shown);
        }
        url.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<DatabaseSettings, SettingError> {
        DatabaseSettings::read(&entries.iter().copied().collect(), Path::new("/home/study"))
    }

    #[test]
    fn every_form_of_address_is_read() {
        for (given, kind, wanted) in [
            ("sqlite:///study.db", DatabaseKind::Sqlite, "sqlite://study.db?mode=rwc"),
            ("sqlite:////var/lib/study.db", DatabaseKind::Sqlite, "sqlite:///var/lib/study.db?mode=rwc"),
            ("sqlite://", DatabaseKind::Sqlite, "sqlite::memory:"),
            ("sqlite:///:memory:", DatabaseKind::Sqlite, "sqlite::memory:"),
            ("postgres://u:p@db/study", DatabaseKind::Postgres, "postgres://u:p@db/study"),
            ("postgresql://u:p@db:5433/study", DatabaseKind::Postgres, "postgres://u:p@db:5433/study"),
            ("postgresql+psycopg2://u:p@db/study", DatabaseKind::Postgres, "postgres://u:p@db/study"),
            ("mysql://u:p@db/study", DatabaseKind::Mysql, "mysql://u:p@db/study"),
            ("mysql+pymysql://u:p@db/study?charset=utf8mb4", DatabaseKind::Mysql, "mysql://u:p@db/study"),
            ("mariadb+pymysql://u:p@db/study", DatabaseKind::Mysql, "mysql://u:p@db/study"),
        ] {
            for name in ["SQLALCHEMY_DATABASE_URI", "DATABASE_URL"] {
                let settings = read(&[(name, given)]).unwrap();
                assert_eq!((settings.kind, settings.url.as_str()), (kind, wanted), "{given}");
            }
        }
    }

    #[test]
    fn the_parts_make_an_address_and_passwords_are_escaped() {
        let parts = [
            ("DB_SCHEMA", "postgresql+psycopg2"),
            ("DB_USER", "governor"),
            ("DB_PASSWORD", "p@ss/word"),
            ("DB_HOST", "db"),
            ("DB_PORT", "5433"),
            ("DB_NAME", "study"),
        ];
        assert_eq!(read(&parts).unwrap().url, "postgres://governor:p%40ss%2Fword@db:5433/study");
        assert!(!read(&parts).unwrap().shown().contains("ss%2F"));
        assert_eq!(read(&[("DB_SCHEMA", "postgresql")]).unwrap_err().variable, "DB_NAME");
    }

    #[test]
    fn a_password_is_never_shown_wherever_it_is_given() {
        for entries in [
            &[("DATABASE_URL", "postgres://u:SECRET@db/study")][..],
            &[("DATABASE_URL", "postgres://u@db/study?password=SECRET&sslmode=disable")],
            &[("DATABASE_URL", "mysql://u:SECRET@db/study")],
            &[("DATABASE_URL", "postgres://u@db/study"), ("PGPASSWORD", "SECRET")],
            &[("DB_HOST", "db"), ("DB_NAME", "study"), ("DB_USER", "u"), ("PGPASSWORD", "SECRET")],
        ] {
            let settings = read(entries).unwrap();
            assert!(settings.url.contains("SECRET"), "{entries:?}");
            assert!(!settings.shown().contains("SECRET"), "{}", settings.shown());
        }
    }

    #[test]
    fn what_demands_tls_of_mariadb_is_kept_in_the_words_of_the_driver() {
        for (query, kept) in [
            ("charset=utf8mb4", ""),
            ("ssl_ca=/a/ca.pem", "?ssl-mode=VERIFY_CA&ssl-ca=%2Fa%2Fca.pem"),
            ("charset=utf8mb4&ssl_ca=/ca&ssl_verify_cert=false", "?ssl-mode=REQUIRED&ssl-ca=%2Fca"),
            ("ssl_ca=/ca&ssl_verify_identity=true", "?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Fca"),
            ("ssl_ca=/ca&ssl_check_hostname=True", "?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Fca"),
            ("ssl_cert=/c&ssl_key=/k", "?ssl-mode=REQUIRED&ssl-cert=%2Fc&ssl-key=%2Fk"),
            ("ssl=true", "?ssl-mode=REQUIRED"),
            ("ssl=false", ""),
            ("ssl_disabled=true&ssl_ca=/ca", "?ssl-mode=DISABLED&ssl-ca=%2Fca"),
            ("ssl-mode=VERIFY_IDENTITY&connect_timeout=5", "?ssl-mode=VERIFY_IDENTITY"),
            ("ssl_mode=required", "?ssl-mode=REQUIRED"),
            ("sslmode=verify-full", "?ssl-mode=VERIFY_IDENTITY"),
        ] {
            let address = format!("mysql+pymysql://u:p@db/study?{query}");
            let settings = read(&[("DATABASE_URL", address.as_str())]).unwrap();
            assert_eq!(settings.url, format!("mysql://u:p@db/study{kept}"), "{query}");
        }
        for query in ["ssl_mode=perhaps", "ssl_cipher=x", "ssl_verify_cert=maybe", "ssl={}"] {
            let address = format!("mysql://u:p@db/study?{query}");
            let error = read(&[("DATABASE_URL", address.as_str())]).unwrap_err();
            assert!(error.problem.contains(query) && !error.problem.contains("u:p"), "{error:?}");
        }
    }

    #[test]
    fn tls_can_be_demanded_beside_the_address() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ca = file.path().to_str().unwrap();
        let escaped = ca.replace('/', "%2F");
        let parts = |scheme| [("DB_SCHEMA", scheme), ("DB_HOST", "db"), ("DB_NAME", "study")];
        for (scheme, mode, wanted) in [
            ("postgresql", "verify-full", format!("postgres://db/study?sslmode=verify-full&sslrootcert={escaped}")),
            ("mysql", "verify-full", format!("mysql://db/study?ssl-mode=VERIFY_IDENTITY&ssl-ca={escaped}")),
            ("mysql+pymysql", "", format!("mysql://db/study?ssl-mode=VERIFY_CA&ssl-ca={escaped}")),
        ] {
            let mut entries = parts(scheme).to_vec();
            entries.extend([("DB_SSL_MODE", mode), ("DB_SSL_CA", ca)]);
            assert_eq!(read(&entries).unwrap().url, wanted);
        }
        let address = |url| [("DATABASE_URL", url), ("DB_SSL_MODE", "require")];
        assert_eq!(read(&address("mysql://db/study")).unwrap().url, "mysql://db/study?ssl-mode=REQUIRED");
        assert_eq!(read(&address("postgres://db/study")).unwrap().url, "postgres://db/study?sslmode=require");
        // TLS parameters in the address take precedence.
        let own = "postgres://db/study?sslmode=verify-ca";
        assert_eq!(read(&address(own)).unwrap().url, own);
        assert!(read(&address("sqlite:///study.db")).is_ok());
        for (name, value) in [("DB_SSL_MODE", "yes"), ("DB_SSL_CA", "/nowhere/ca.pem")] {
            assert_eq!(read(&[("DATABASE_URL", "mysql://db/study"), (name, value)]).unwrap_err().variable, name);
        }
    }

    #[test]
    fn the_default_is_a_file_in_the_project_home() {
        let settings = read(&[]).unwrap();
        assert!(settings.is_default);
        assert_eq!(settings.file.as_deref(), Some(Path::new("/home/study/studygovernor.db")));
    }

    #[test]
    fn e14_every_wait_has_a_limit_unless_it_is_set_to_zero() {
        let postgres = ("DATABASE_URL", "postgres://h/d");
        let limits = read(&[postgres]).unwrap().limits;
        assert_eq!((limits.lock, limits.idle), (Duration::from_secs(5), Duration::from_secs(15)));
        let given = read(&[postgres, ("STUDYGOV_DATABASE_LOCK_SECONDS", "2"), ("STUDYGOV_DATABASE_IDLE_SECONDS", "0")]);
        let limits = given.unwrap().limits;
        assert_eq!((limits.lock, limits.idle), (Duration::from_secs(2), Duration::ZERO));
        for (name, value) in [("STUDYGOV_DATABASE_CONNECTIONS", "3"), ("STUDYGOV_DATABASE_STATEMENT_SECONDS", "-1")] {
            assert_eq!(read(&[postgres, (name, value)]).unwrap_err().variable, name);
        }
    }

    #[test]
    fn a_wrong_address_names_its_variable() {
        for given in ["nonsense", "oracle://u@h/x", "postgresql://host", "postgresql://host:port/x"] {
            let error = read(&[("DATABASE_URL", given)]).unwrap_err();
            assert_eq!(error.variable, "DATABASE_URL", "{given}");
        }
    }
}
