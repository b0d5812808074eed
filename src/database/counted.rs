//! Transactions that count themselves, so that afterwards it can be determined whether they were committed (E15).
//!
//! If the connection ends during a commit, only the database knows the outcome. Within [`counting_commits`], each
//! transaction increments `commits` of a row of `idempotency_key` before it commits: the number is written with the
//! work or not at all. After an uncertain commit, the row is read with a lock. The transaction held that lock, so it
//! has ended once the row can be read, and the number shows its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, SqliteTransactionMode,
    TransactionOptions,
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::entity::idempotency_key::{Column, Entity};

use super::Connections;

/// Maximum time to look up the outcome of a commit. The caller waits meanwhile; a request may take 30 s by default.
const LONGEST: Duration = Duration::from_secs(20);

/// Pause between two attempts to look it up.
const PAUSE: Duration = Duration::from_millis(500);

tokio::task_local! {
    static COUNTER: Arc<Counter>;
}

#[derive(Debug)]
struct Counter {
    /// Id of the row of `idempotency_key`.
    row: i32,
    /// Number of commits that are known to have succeeded.
    known: AtomicI32,
    is_unsure: AtomicBool,
}

/// The commits of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commits {
    /// Number of commits that are known to have succeeded.
    pub known: i32,
    /// Whether the outcome of another commit could not be determined.
    pub is_unsure: bool,
}

/// Runs `work`, whose transactions count themselves, one after the other, in the row `row` of `idempotency_key`.
/// Transactions of tasks that it starts, and those of [`super::Database::begin_maintenance`], are not counted.
pub async fn counting_commits<F: Future>(row: i32, work: F) -> (F::Output, Commits) {
    let counter = Arc::new(Counter { row, known: AtomicI32::new(0), is_unsure: AtomicBool::new(false) });
    let output = COUNTER.scope(Arc::clone(&counter), work).await;
    let known = counter.known.load(Ordering::SeqCst);
    (output, Commits { known, is_unsure: counter.is_unsure.load(Ordering::SeqCst) })
}

/// A transaction that counts itself.
#[derive(Debug)]
pub(super) struct Counted {
    counter: Arc<Counter>,
    connections: Connections,
    /// Maximum time to look up the outcome of the commit.
    patience: Duration,
}

impl Counted {
    /// For a transaction that begins here; `None` outside of [`counting_commits`]. `lock` is the limit for one lock.
    pub(super) fn here(connections: &Connections, lock: Duration) -> Option<Self> {
        let counter = COUNTER.try_with(Arc::clone).ok()?;
        Some(Self { counter, connections: connections.clone(), patience: (lock * 4).min(LONGEST) })
    }

    /// Increments the count of the row, as the last statement of the transaction.
    pub(super) async fn count(&self, transaction: &impl ConnectionTrait) -> Result<(), DbErr> {
        let update = Entity::update_many().col_expr(Column::Commits, Expr::col(Column::Commits).add(1));
        update.filter(Column::Id.eq(self.counter.row)).exec(transaction).await.map(drop)
    }

    pub(super) fn succeeded(&self) {
        self.counter.known.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a transaction whose commit was not answered has been committed; `None` if that cannot be determined.
    pub(super) async fn look_up(&self) -> Option<bool> {
        let before = self.counter.known.load(Ordering::SeqCst);
        let began = Instant::now();
        loop {
            match self.commits().await {
                Ok(Some(commits)) => {
                    let is_committed = commits > before;
                    info!(is_committed, "the outcome of a commit without an answer was looked up");
                    return Some(is_committed);
                }
                Ok(None) => break,
                Err(error) if began.elapsed() >= self.patience => {
                    warn!(%error, "the outcome of a commit cannot be looked up");
                    break;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        self.counter.is_unsure.store(true, Ordering::SeqCst);
        None
    }

    /// Reads the count of the row, once no transaction holds its lock.
    async fn commits(&self) -> Result<Option<i32>, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connections.begin(options).await?;
        let row = Entity::find_by_id(self.counter.row).lock_exclusive().one(&transaction).await?;
        Ok(row.map(|row| row.commits))
    }
}
