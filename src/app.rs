//! Everything that lives as long as the program, built once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

use crate::account::{self, Accounts, PasswordError, Passwords, Rules};
use crate::clock::Clock;
use crate::config::{DatabaseKind, Settings};
use crate::database::Database;
use crate::engine::Engine;
use crate::queue::BrokerState;
use crate::study::Totals;
use crate::view::{Templates, ViewError};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    pub settings: Arc<Settings>,
    pub engine: Engine,
    pub accounts: Accounts,
    pub totals: Totals,
    pub templates: Templates,
    /// Whether this server has the broker; nobody asks where there is none.
    pub broker: Arc<BrokerState>,
}

/// Why the program cannot start, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the {shown}: {reason}")]
    Database { shown: String, reason: String },
    #[error("cannot bring the database up to date: {0}")]
    Migration(sea_orm::DbErr),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("the first account cannot be made: {0}")]
    Admin(#[from] account::AccountError),
    #[error(transparent)]
    View(#[from] ViewError),
}

impl App {
    /// Connects to the database without touching its tables.
    ///
    /// # Errors
    /// [`StartError::Database`] when it is not there.
    pub async fn connect(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let database = connect(&settings).await?;
        let passwords = Passwords::new(&settings.secrets.password_salt)?;
        let rules = Rules { security: settings.security.clone(), secret_key: settings.secrets.secret_key.clone() };
        Ok(Self {
            accounts: Accounts::new(database.clone(), passwords, clock.clone(), rules),
            totals: Totals::default(),
            engine: Engine::new(database, clock),
            templates: Templates::new(&settings.web, &settings.security)?,
            broker: Arc::default(),
            settings: Arc::new(settings),
        })
    }

    /// Connects, brings the tables up to date, and makes the first roles and the administrator's account.
    ///
    /// # Errors
    /// As [`Self::connect`], and when one of these cannot be done.
    pub async fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let app = Self::connect(settings, clock).await?;
        let database = app.engine.database();
        database.migrate().await.map_err(StartError::Migration)?;
        let now = app.engine.clock().now();
        account::ensure_roles(database, now).await.map_err(account::AccountError::Database)?;
        if let Some(admin) = &app.settings.admin {
            let least = app.settings.security.password_length;
            account::ensure_admin(database, app.accounts.passwords(), admin, least, now).await?;
        }
        // Whoever set them: of the environment, of a configuration, of the API.
        for row in app.accounts.weak_passwords().await.map_err(account::AccountError::Database)? {
            warn!(user = %row.username, "the password of this account is easily guessed: where others can come it needs another one");
        }
        Ok(app)
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
fn plain_reason(error: &sea_orm::DbErr) -> String {
    let text = error.to_string();
    let tail = text.rsplit("error returned from database: ").next().unwrap_or(&text);
    tail.trim_start_matches("Connection Error: ").to_owned()
}

/// Waits until the database server takes connections, as it may be starting too; the driver alone would wait without a
/// word and then not say why.
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
            Err(_) => "no answer".to_owned(),
        };
        if began.elapsed() > PATIENCE {
            let shown = format!("database {}", settings.database.shown());
            return Err(StartError::Database { shown, reason: refused });
        }
        warn!("the database server at {host}:{port} cannot be reached yet ({refused}); trying for ten seconds");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
