//! Windows of lists, whatever is in them, and their totals.
//!
//! A total of 100,000 rows takes a database some milliseconds, each time. It is remembered until anything is written
//! in this process, and for a second at most, so that a list costs what its window costs ([`Totals`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};

use crate::database::Database;
use crate::study::visible;

/// Which rows of a list, in the order of the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Rows to leave out at the beginning.
    pub offset: u64,
    /// Rows at most; all when it is none.
    pub limit: Option<u64>,
    /// Only rows with a higher id: the next page, whatever came in meanwhile, at the cost of the first.
    pub after: Option<i32>,
}

/// Rows of a list, and how many there are in all.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    pub rows: Vec<T>,
    pub count: u64,
}

/// Id and label of something.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Named {
    pub id: i32,
    pub label: String,
}

/// Totals that were counted a moment ago.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    counted: Arc<Mutex<HashMap<String, Counted>>>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    count: u64,
    /// State of the database's change counter before it was counted.
    change: u64,
    at: Instant,
}

/// How long another process may have written without our seeing it in a total.
const FRESH: Duration = Duration::from_secs(1);

/// Totals that are kept; filters come from outside, so there may be any number of them.
const MOST_TOTALS: usize = 1000;

impl Totals {
    async fn of(
        &self,
        key: &str,
        database: &Database,
        count: impl Future<Output = Result<u64, DbErr>>,
    ) -> Result<u64, DbErr> {
        let change = database.change();
        let at = Instant::now();
        if let Some(kept) = self.counted.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key)
            && kept.change == change
        {
            if kept.at.elapsed() < FRESH {
                return Ok(kept.count);
            }
            // This request counts anew; those that come meanwhile take what is there, or all would count at once.
            kept.at = at;
        }
        let count = count.await?;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= MOST_TOTALS {
            counted.clear();
        }
        counted.insert(key.to_owned(), Counted { count, change, at });
        Ok(count)
    }
}

/// A window of `all` in the order of ids, with the total. `key` names what `all` is.
///
/// # Errors
/// When the database cannot be read.
pub async fn list<E>(
    database: &Database,
    totals: &Totals,
    key: &str,
    all: Select<E>,
    id: E::Column,
    window: Window,
) -> Result<Listed<E::Model>, DbErr>
where
    E: EntityTrait,
    E::Model: FromQueryResult + Send + Sync,
{
    let rows = windowed(all.clone(), id, window).order_by_asc(id).all(database.reader()).await?;
    let count = total(database, totals, key, all, window, rows.len()).await?;
    Ok(Listed { rows, count })
}

/// The same with ids and labels only.
///
/// # Errors
/// When the database cannot be read.
pub async fn list_named<E>(
    database: &Database,
    totals: &Totals,
    key: &str,
    all: Select<E>,
    (id, label): (E::Column, E::Column),
    window: Window,
) -> Result<Listed<Named>, DbErr>
where
    E: EntityTrait,
    E::Model: FromQueryResult + Send + Sync,
{
    let rows = named(windowed(all.clone(), id, window).order_by_asc(id), (id, label), database.reader()).await?;
    let count = total(database, totals, key, all, window, rows.len()).await?;
    Ok(Listed { rows, count })
}

/// Ids and labels of what `all` selects, in its order.
///
/// # Errors
/// When the database cannot be read.
pub async fn named<E: EntityTrait>(
    all: Select<E>,
    (id, label): (E::Column, E::Column),
    connection: &impl ConnectionTrait,
) -> Result<Vec<Named>, DbErr> {
    all.select_only().column_as(id, "id").column_as(label, "label").into_model::<Named>().all(connection).await
}

pub(super) fn windowed<E: EntityTrait>(all: Select<E>, id: E::Column, window: Window) -> Select<E> {
    let mut select = all;
    if let Some(after) = window.after {
        select = select.filter(id.gt(after));
    }
    if window.offset > 0 {
        // SQLite and MySQL know an offset only beside a limit.
        let limit = window.limit.unwrap_or(i64::MAX.unsigned_abs());
        return select.offset(window.offset).limit(limit);
    }
    match window.limit {
        Some(limit) => select.limit(limit),
        None => select,
    }
}

pub(super) async fn total<E>(
    database: &Database,
    totals: &Totals,
    key: &str,
    all: Select<E>,
    window: Window,
    rows: usize,
) -> Result<u64, DbErr>
where
    E: EntityTrait,
    E::Model: FromQueryResult + Send + Sync,
{
    if window == Window::default() {
        return Ok(rows as u64);
    }
    // What was counted for somebody who sees other cohorts is another number.
    let key = format!("{}{key}", visible::key());
    totals.of(&key, database, all.count(database.reader())).await
}
