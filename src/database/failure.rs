//! Classifies database errors by what callers can do about them.

use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::mysql::MySqlDatabaseError;
use sea_orm::sqlx::postgres::PgDatabaseError;
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, SqlErr, sqlx};

use super::file::REPLACED;

/// The kinds of failure that callers distinguish. All other errors are caused by defects of the program or by its
/// input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The disk of the database is full.
    DiskFull,
    /// The disk of the database cannot be written or read.
    DiskFailed,
    /// The database accepts no changes: a standby server, or a file that is write-protected.
    ReadOnly,
    /// A lock was not obtained within its limit.
    Locked,
    /// No connection became free or could be opened within the limit.
    Busy,
    /// Two transactions waited for each other, or changed the same rows; this one was rolled back.
    Conflict,
    /// The statement exceeded its time limit.
    TooLong,
    /// The database cannot be reached, or the connection ended before the commit. Nothing was changed.
    Lost,
    /// The file of an SQLite database was replaced or removed while the server was running.
    Replaced,
    /// The connection ended during the commit: it is not known whether the changes were made.
    Uncertain,
}

/// Prefix of an error whose commit may have succeeded.
const UNCERTAIN: &str = "the connection to the database ended during the commit";

/// Prefix of an error of a statement whose answer did not arrive in time.
const NO_ANSWER: &str = "the database did not answer in time";

/// Prefix of an error of a wait for a lock within this process.
const WAITED: &str = "the lock was not obtained";

/// Prefix of an error after which the program repeats the work.
const CHANGED: &str = "Record has changed";

impl Failure {
    /// The kind of an error; `None` for all other errors.
    #[must_use]
    pub fn of(error: &DbErr) -> Option<Self> {
        match error {
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Some(Self::Busy),
            DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed) => Some(Self::Lost),
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => of_driver(error),
            DbErr::Custom(text) if text.starts_with(REPLACED) => Some(Self::Replaced),
            DbErr::Custom(text) if text.starts_with(UNCERTAIN) => Some(Self::Uncertain),
            DbErr::Custom(text) if text.starts_with(NO_ANSWER) => Some(Self::TooLong),
            DbErr::Custom(text) if text.starts_with(WAITED) => Some(Self::Locked),
            DbErr::Custom(text) if text.starts_with(CHANGED) => Some(Self::Conflict),
            _ => None,
        }
    }

    /// Whether nothing can be written at present while reading still works.
    #[must_use]
    pub fn is_of_writing(self) -> bool {
        matches!(self, Self::DiskFull | Self::DiskFailed | Self::ReadOnly)
    }

    /// Whether the connection must not be used again: it is broken, in an unknown state, or leads to a server that
    /// became a standby.
    pub(super) fn ends_connection(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFailed | Self::Lost | Self::Uncertain)
    }

    /// One sentence for the user: what happened and what to do.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::DiskFull => {
                "The disk of the database is full, so nothing was changed. Please inform your administrator."
            }
            Self::DiskFailed => {
                "The disk of the database cannot be written, so nothing was changed. Please inform your administrator."
            }
            Self::ReadOnly => "The database is currently read-only, so nothing was changed. Try again later.",
            Self::Locked => {
                "Another request or server is changing the same data, so nothing was changed. Try again in a few \
                seconds."
            }
            Self::Busy => {
                "The database is too busy or cannot be reached, so nothing was changed. Try again in a few seconds."
            }
            Self::Conflict => "The same data was changed concurrently, so nothing was changed. Try again.",
            Self::TooLong => "The database took too long, so nothing was changed. Try again later.",
            Self::Lost => "The database cannot be reached, so nothing was changed. Try again in a few seconds.",
            Self::Replaced => {
                "The database file was replaced while the server was running, so nothing was changed. An \
                administrator has to restart the server."
            }
            Self::Uncertain => {
                "The connection to the database ended while the change was being saved. Check whether it was saved \
                before you try again."
            }
        }
    }
}

fn of_driver(error: &sqlx::Error) -> Option<Failure> {
    match error {
        sqlx::Error::Database(error) => of_database(&**error),
        sqlx::Error::PoolTimedOut => Some(Failure::Busy),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::BeginFailed
        | sqlx::Error::InvalidSavePointStatement
        | sqlx::Error::WorkerCrashed => Some(Failure::Lost),
        _ => None,
    }
}

fn of_database(error: &dyn DatabaseError) -> Option<Failure> {
    if error.message().contains("No space left on device") {
        return Some(Failure::DiskFull);
    }
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return of_postgres(error.code());
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return of_mysql(error.number(), error.message());
    }
    let code = error.try_downcast_ref::<SqliteError>().and_then(|error| error.code()?.parse().ok());
    code.and_then(of_sqlite)
}

/// By SQLSTATE.
fn of_postgres(code: &str) -> Option<Failure> {
    match code {
        "53100" => Some(Failure::DiskFull),
        "58030" => Some(Failure::DiskFailed),
        "25006" => Some(Failure::ReadOnly),
        "55P03" => Some(Failure::Locked),
        "40P01" | "40001" => Some(Failure::Conflict),
        "57014" => Some(Failure::TooLong),
        // Too many connections, or the server stops, starts, or ended the session because it was idle.
        "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Some(Failure::Lost),
        _ if code.starts_with("08") => Some(Failure::Lost),
        _ => None,
    }
}

/// By the number of the error, which MariaDB and MySQL share.
fn of_mysql(number: u16, message: &str) -> Option<Failure> {
    match number {
        20 | 1021 | 1114 => Some(Failure::DiskFull),
        // "Got error 28 from storage engine": ENOSPC.
        1030 | 1026 | 3 if message.contains("rror 28") || message.contains("rrcode: 28") => Some(Failure::DiskFull),
        3 | 1026 | 1030 => Some(Failure::DiskFailed),
        1290 | 1792 | 1836 => Some(Failure::ReadOnly),
        1205 | 3572 => Some(Failure::Locked),
        1020 | 1213 => Some(Failure::Conflict),
        1317 | 1969 | 3024 => Some(Failure::TooLong),
        1040 | 1053 | 1152 | 1158..=1161 | 1203 | 1927 | 2006 | 2013 | 4031 => Some(Failure::Lost),
        _ => None,
    }
}

/// By the extended result code.
fn of_sqlite(code: i32) -> Option<Failure> {
    /// `SQLITE_BUSY_RECOVERY` and `SQLITE_BUSY_SNAPSHOT`: a second attempt sees a newer state of the file.
    const STALE: [i32; 2] = [261, 517];
    match code & 0xff {
        _ if STALE.contains(&code) => Some(Failure::Conflict),
        13 => Some(Failure::DiskFull),
        10 | 14 => Some(Failure::DiskFailed),
        8 => Some(Failure::ReadOnly),
        5 => Some(Failure::Locked),
        6 => Some(Failure::Conflict),
        _ => None,
    }
}

/// The error of a commit whose outcome is unknown.
pub(super) fn uncertain(cause: &DbErr) -> DbErr {
    DbErr::Custom(format!("{UNCERTAIN}: {cause}"))
}

/// The error of a wait within this process that lasted `seconds`.
pub(super) fn waited(seconds: u64) -> DbErr {
    DbErr::Custom(format!("{WAITED} within {seconds} s"))
}

/// The error of a statement without an answer within `seconds`.
pub(super) fn no_answer(seconds: u64) -> DbErr {
    DbErr::Custom(format!("{NO_ANSWER} ({seconds} s)"))
}

/// Whether the program stopped waiting for the answer, so that the connection is still waiting for it.
pub(super) fn is_unanswered(error: &DbErr) -> bool {
    matches!(error, DbErr::Custom(text) if text.starts_with(NO_ANSWER))
}

/// Whether a transaction was rolled back for a temporary reason and may be repeated: a deadlock, or a connection that
/// ended before the commit. A lock timeout is not included, because the caller has already waited.
#[must_use]
pub fn is_transient(error: &DbErr) -> bool {
    // The referenced row was deleted meanwhile; a second attempt uses the rows that exist now.
    if matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))) {
        return true;
    }
    matches!(Failure::of(error), Some(Failure::Conflict | Failure::Lost))
}

/// Whether a unique constraint rejected the row.
#[must_use]
pub fn is_duplicate(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// Whether a constraint rejected a row, which does not affect the rest of the transaction.
pub(super) fn is_constraint(error: &DbErr) -> bool {
    error.sql_err().is_some()
}

/// Whether nothing can be written at present while reading works: a full disk, a read-only database, or a lock that
/// another server does not release. Logins still work then, without the records that they usually write.
#[must_use]
pub fn is_unwritable(error: &DbErr) -> bool {
    Failure::of(error)
        .is_some_and(|failure| failure.is_of_writing() || matches!(failure, Failure::Locked | Failure::Busy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_three_databases_have_the_same_kinds() {
        for (postgres, mysql, sqlite, kind) in [
            ("53100", 1114, 13, Failure::DiskFull),
            ("58030", 1026, 0x30a, Failure::DiskFailed),
            ("25006", 1290, 0x408, Failure::ReadOnly),
            ("55P03", 1205, 5, Failure::Locked),
            ("40P01", 1213, 517, Failure::Conflict),
        ] {
            assert_eq!(of_postgres(postgres), Some(kind), "{postgres}");
            assert_eq!(of_mysql(mysql, ""), Some(kind), "{mysql}");
            assert_eq!(of_sqlite(sqlite), Some(kind), "{sqlite}");
        }
        assert_eq!(of_mysql(1030, "Got error 28 \"No space\" from storage engine"), Some(Failure::DiskFull));
        assert_eq!((of_postgres("42P01"), of_mysql(1146, ""), of_sqlite(1)), (None, None, None));
    }

    #[test]
    fn e15_a_commit_without_an_answer_is_not_repeated() {
        let lost = DbErr::Conn(RuntimeErr::SqlxError(sqlx::Error::WorkerCrashed.into()));
        assert_eq!(Failure::of(&lost), Some(Failure::Lost));
        assert!(is_transient(&lost));
        assert!(!is_transient(&no_answer(5)));
        assert_eq!(Failure::of(&uncertain(&lost)), Some(Failure::Uncertain));
        assert!(!is_transient(&uncertain(&lost)));
    }
}
