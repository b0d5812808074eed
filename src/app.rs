//! Everything that lives as long as the program, built once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::DbErr;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

use crate::account::{self, Accounts, PasswordError, Passwords, Rules};
use crate::audit;
use crate::clock::Clock;
use crate::config::{DatabaseKind, MigrateMode, Settings};
use crate::context::Context;
use crate::database::{Database, Reader, Snapshot};
use crate::engine::Engine;
use crate::project::Project;
use crate::queue::BrokerState;
use crate::study::Totals;
use crate::view::{Templates, ViewError};

/// The application; see the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    pub settings: Arc<Settings>,
    pub engine: Engine,
    pub accounts: Accounts,
    pub totals: Totals,
    pub templates: Templates,
    /// Whether this server can reach the broker; unused without a broker.
    pub broker: Arc<BrokerState>,
    /// The repository that the files of the study come from, if there is one.
    pub project: Option<Arc<Project>>,
}

/// Why the program cannot start, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the {shown}: {reason}")]
    Database { shown: String, reason: String },
    #[error("cannot migrate the database: {}", plain_reason(.0))]
    Migration(DbErr),
    /// The setting leaves the migration to another program.
    #[error("{0}; automatic migration is disabled by STUDYGOV_MIGRATE: run `studygovernor db migrate`")]
    Tables(Tables),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("cannot create the first account: {0}")]
    Admin(#[from] account::AccountError),
    #[error(transparent)]
    View(#[from] ViewError),
}

impl App {
    /// Connects to the database without touching its tables.
    ///
    /// # Errors
    /// [`StartError::Database`] if the database cannot be reached.
    pub async fn connect(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        audit::use_key(&settings.secrets.secret_key);
        let database = connect(&settings).await?;
        let passwords = Passwords::new(&settings.secrets.password_salt)?;
        let rules = Rules { security: settings.security.clone(), secret_key: settings.secrets.secret_key.clone() };
        let project = Project::new(&settings.work.project, clock.clone()).map(Arc::new);
        Ok(Self {
            project,
            accounts: Accounts::new(database.clone(), passwords, clock.clone(), rules),
            totals: Totals::default(),
            engine: Engine::new(database, clock).with_transition_limit(settings.callback.transitions_per_minute),
            templates: Templates::new(&settings.web, &settings.security)?,
            broker: Arc::default(),
            settings: Arc::new(settings),
        })
    }

    /// Connects, migrates the tables (depending on [`MigrateMode`]), and creates the built-in roles and the
    /// administrator's account.
    ///
    /// # Errors
    /// As [`Self::connect`], and if one of these steps fails.
    pub async fn start(ctx: &Context, settings: Settings, clock: Clock) -> Result<Self, StartError> {
        Self::connect(settings, clock).await?.prepare(ctx).await
    }

    /// The steps of [`Self::start`] after connecting.
    ///
    /// # Errors
    /// If the tables are not up to date and this program must not change them, or the database cannot be written.
    pub async fn prepare(self, ctx: &Context) -> Result<Self, StartError> {
        let app = self;
        let database = app.engine.database();
        match app.settings.migrate {
            MigrateMode::Start => database.migrate().await.map_err(StartError::Migration)?,
            MigrateMode::Wait | MigrateMode::Off => match app.tables().await.map_err(StartError::Migration)? {
                Tables::UpToDate => {}
                tables @ Tables::Older { .. } => return Err(StartError::Tables(tables)),
            },
        }
        if let Some(clock) = app.engine.clock().of_study() {
            // A server tries again every few seconds.
            if let Err(error) = database.reset_time().await {
                warn!(%error, "comparing the study time with the database clock failed");
            }
            if let Err(error) = database.read_time(clock).await {
                warn!(%error, "reading the study time failed; using the clock of this machine until it succeeds");
            }
        }
        let now = app.engine.clock().now();
        account::ensure_roles(ctx, database, now).await.map_err(account::AccountError::Database)?;
        if let Some(admin) = &app.settings.admin {
            let least = app.settings.security.password_length;
            account::ensure_admin(ctx, database, app.accounts.passwords(), admin, least, now).await?;
        }
        // From any source: the environment, a configuration, or the API.
        for row in app.accounts.weak_passwords().await.map_err(account::AccountError::Database)? {
            warn!(user = %row.username, "account has a weak password; change it before exposing the server");
        }
        Ok(app)
    }

    /// Compares the tables with the migrations of this program.
    ///
    /// # Errors
    /// If the database cannot be read, or its tables are those of a later version.
    pub async fn tables(&self) -> Result<Tables, DbErr> {
        let status = self.engine.database().migration_status().await?;
        let wanted = status.last().map(|(name, _)| name.clone()).unwrap_or_default();
        if status.iter().all(|(_, applied)| *applied) {
            return Ok(Tables::UpToDate);
        }
        let found = status.into_iter().rev().find(|(_, applied)| *applied).map(|(name, _)| name);
        Ok(Tables::Older { found, wanted })
    }
}

/// The tables of the database, compared with the migrations of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tables {
    UpToDate,
    /// The newest migration that was applied (`None` if there are no tables), and the newest that this program has.
    Older {
        found: Option<String>,
        wanted: String,
    },
}

impl std::fmt::Display for Tables {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UpToDate => formatter.write_str("the database schema is up to date"),
            Self::Older { found: Some(found), wanted } => {
                write!(formatter, "the database schema is version {found}; this program requires {wanted}")
            }
            Self::Older { found: None, wanted } => {
                write!(formatter, "the database has no tables yet; this program requires schema version {wanted}")
            }
        }
    }
}

/// How pages and the API read (E13). They have no other access to the database; a test of the structure ensures that.
impl App {
    /// For data that is read with several statements and shown together. Drop it before rendering a template or
    /// awaiting anything else.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub async fn snapshot(&self) -> Result<Snapshot, DbErr> {
        self.engine.database().snapshot().await
    }

    /// The program at the moment of the snapshot: its modules read from the snapshot and refuse to write.
    #[must_use]
    pub fn at(&self, snapshot: &Snapshot) -> Self {
        Self { engine: self.engine.at(snapshot), accounts: self.accounts.at(snapshot), ..self.clone() }
    }

    /// For an answer that needs one statement, and for looking up what a request names before it is changed.
    #[must_use]
    pub fn statement(&self) -> &Reader {
        self.engine.database().reader()
    }
}

async fn connect(settings: &Settings) -> Result<Database, StartError> {
    wait_for_server(settings).await?;
    Database::connect(&settings.database).await.map_err(|error| StartError::Database {
        shown: match settings.database.kind {
            DatabaseKind::Sqlite => settings.database.shown(),
            _ => format!("database {}", settings.database.shown()),
        },
        reason: plain_reason(&error),
    })
}

/// The innermost reason, without the layers of the drivers around it.
fn plain_reason(error: &DbErr) -> String {
    let text = error.to_string();
    let tail = text.rsplit("error returned from database: ").next().unwrap_or(&text);
    tail.trim_start_matches("Connection Error: ").trim_start_matches("Custom Error: ").to_owned()
}

/// Waits until the database server accepts connections, as it may be starting, too; the driver alone would wait
/// silently and then not report the reason.
async fn wait_for_server(settings: &Settings) -> Result<(), StartError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let Ok(url) = url::Url::parse(&settings.database.url) else { return Ok(()) };
    let default_port = match settings.database.kind {
        DatabaseKind::Sqlite => return Ok(()),
        DatabaseKind::Postgres => 5432,
        DatabaseKind::Mysql => 3306,
    };
    let (host, port) = (url.host_str().unwrap_or("localhost").to_owned(), url.port().unwrap_or(default_port));
    let began = Instant::now();
    loop {
        let refused = match timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no response".to_owned(),
        };
        if began.elapsed() > PATIENCE {
            let shown = format!("database {}", settings.database.shown());
            return Err(StartError::Database { shown, reason: refused });
        }
        warn!("cannot connect to the database server at {host}:{port} yet ({refused}); retrying for ten seconds");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
