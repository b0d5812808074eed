//! Windows of lists and their totals.
//!
//! Counting 100,000 rows takes a database some milliseconds. A total is therefore cached ([`Totals`]) until this process writes anything,
//! and for a second at most, so that a list costs what its window costs. While other processes write, the total of a list that continues
//! after its window may be a second old. It is never less than what the window shows, and where the window shows the end of the list it is
//! exact.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};

use crate::context::Context;
use crate::database::Snapshot;

/// Selects rows of a list, in the order of the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Number of rows to skip.
    pub offset: u64,
    /// Maximum number of rows; `None` means all.
    pub limit: Option<u64>,
    /// Only rows with a higher id: the next page, unaffected by new rows, at the cost of the first page.
    pub after: Option<i32>,
    /// Another condition skipped the rows before the window, so their number is unknown.
    pub is_continued: bool,
}

impl Window {
    /// Removes the extra row that was read to detect more rows; returns whether there was one.
    pub(super) fn cut<T>(self, rows: &mut Vec<T>) -> bool {
        let Some(limit) = self.limit.and_then(|limit| usize::try_from(limit).ok()) else { return false };
        let more = rows.len() > limit;
        rows.truncate(limit);
        more
    }
}

/// Rows of a list, and the total number of rows.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    pub rows: Vec<T>,
    pub count: u64,
    /// Whether the list has rows after these.
    pub more: bool,
}

/// The id and label of a row.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Named {
    pub id: i32,
    pub label: String,
}

/// A cache of recent totals.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    counted: Arc<Mutex<HashMap<String, Counted>>>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    count: u64,
    /// The database's change counter before the count.
    change: u64,
    at: Instant,
}

/// How long a write of another process may be missing from a total.
const FRESH: Duration = Duration::from_secs(1);

/// Maximum number of cached totals: callers choose the filters, so they could be arbitrarily many.
const MOST_TOTALS: usize = 1000;

impl Totals {
    async fn of(&self, key: &str, change: u64, count: impl Future<Output = Result<u64, DbErr>>) -> Result<u64, DbErr> {
        let at = Instant::now();
        if let Some(kept) = self.counted.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key)
            && kept.change == change
        {
            if kept.at.elapsed() < FRESH {
                return Ok(kept.count);
            }
            // This request counts again; concurrent ones use the cached total, otherwise all would count at once.
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

/// A window of `all` ordered by id, with the total. `key` identifies `all` in the cache.
pub async fn list<E>(
    ctx: &Context,
    snapshot: &Snapshot,
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
    let mut rows = windowed(all.clone(), id, window).order_by_asc(id).all(snapshot).await?;
    let more = window.cut(&mut rows);
    counted(ctx, snapshot, totals, key, all, window, (rows, more)).await
}

/// Like [`list`], with ids and labels only.
pub async fn list_named<E>(
    ctx: &Context,
    snapshot: &Snapshot,
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
    let mut rows = named(windowed(all.clone(), id, window).order_by_asc(id), (id, label), snapshot).await?;
    let more = window.cut(&mut rows);
    counted(ctx, snapshot, totals, key, all, window, (rows, more)).await
}

/// Ids and labels of the rows in `all`, in its order.
pub async fn named<E: EntityTrait>(
    all: Select<E>,
    (id, label): (E::Column, E::Column),
    connection: &impl ConnectionTrait,
) -> Result<Vec<Named>, DbErr> {
    all.select_only().column_as(id, "id").column_as(label, "label").into_model::<Named>().all(connection).await
}

/// The rows of the window, and the one after them if it exists.
pub(super) fn windowed<E: EntityTrait>(all: Select<E>, id: E::Column, window: Window) -> Select<E> {
    let mut select = all;
    if let Some(after) = window.after {
        select = select.filter(id.gt(after));
    }
    let limit = window.limit.map(|limit| if limit == 0 { 0 } else { limit.saturating_add(1).min(MOST_ROWS) });
    if window.offset > 0 {
        // SQLite and MySQL accept an offset only with a limit.
        return select.offset(window.offset).limit(limit.unwrap_or(MOST_ROWS));
    }
    match limit {
        Some(limit) => select.limit(limit),
        None => select,
    }
}

/// The largest limit that all three databases accept.
const MOST_ROWS: u64 = i64::MAX.unsigned_abs();

/// Adds the total to these rows, which may not be all rows of the list.
pub(super) async fn counted<E, T>(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    key: &str,
    all: Select<E>,
    window: Window,
    (rows, more): (Vec<T>, bool),
) -> Result<Listed<T>, DbErr>
where
    E: EntityTrait,
    E::Model: FromQueryResult + Send + Sync,
{
    let shown = window.offset + rows.len() as u64;
    let begins_at_first = window.after.is_none() && !window.is_continued;
    let is_end = !more && window.limit != Some(0) && (window.offset == 0 || !rows.is_empty());
    if begins_at_first && is_end {
        return Ok(Listed { rows, count: shown, more });
    }
    // Callers who see other cohorts have other totals.
    let key = format!("{}{key}", ctx.scope_key());
    let total = totals.of(&key, snapshot.change(), all.count(snapshot)).await?;
    let least = if begins_at_first && !rows.is_empty() { shown + u64::from(more) } else { rows.len() as u64 };
    Ok(Listed { rows, count: total.max(least), more })
}
