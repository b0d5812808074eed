//! Windows of lists, whatever is in them, and their totals.
//!
//! A total of 100,000 rows takes a database some milliseconds, each time. It is remembered until anything is written
//! in this process, and for a second at most, so that a list costs what its window costs ([`Totals`]). While other
//! processes write, the total of a list that goes on behind its window may therefore be a second old. It is never less
//! than what the window shows, and where the window shows the end of the list it is exact.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};

use crate::context::Context;
use crate::database::Snapshot;

/// Which rows of a list, in the order of the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Number of rows to skip.
    pub offset: u64,
    /// Rows at most; all when it is none.
    pub limit: Option<u64>,
    /// Only rows with a higher id: the next page, whatever came in meanwhile, at the cost of the first.
    pub after: Option<i32>,
    /// The rows before the window were left out by another condition than these: how many is not known.
    pub is_continued: bool,
}

impl Window {
    /// Takes the row away that was read only to see whether there are more; says whether there are.
    pub(super) fn cut<T>(self, rows: &mut Vec<T>) -> bool {
        let Some(limit) = self.limit.and_then(|limit| usize::try_from(limit).ok()) else { return false };
        let more = rows.len() > limit;
        rows.truncate(limit);
        more
    }
}

/// Rows of a list, and how many there are in all.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    pub rows: Vec<T>,
    pub count: u64,
    /// Whether there are rows behind these.
    pub more: bool,
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
    async fn of(&self, key: &str, change: u64, count: impl Future<Output = Result<u64, DbErr>>) -> Result<u64, DbErr> {
        let at = Instant::now();
        if let Some(kept) = self.counted.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key)
            && kept.change == change
        {
            if kept.at.elapsed() < FRESH {
                return Ok(kept.count);
            }
            // This request counts again; those that come meanwhile take what is there, or all would count at once.
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

/// The same with ids and labels only.
///
/// # Errors
/// When the database cannot be read.
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

/// The rows of the window, and one more when there is one.
pub(super) fn windowed<E: EntityTrait>(all: Select<E>, id: E::Column, window: Window) -> Select<E> {
    let mut select = all;
    if let Some(after) = window.after {
        select = select.filter(id.gt(after));
    }
    let limit = window.limit.map(|limit| if limit == 0 { 0 } else { limit.saturating_add(1).min(MOST_ROWS) });
    if window.offset > 0 {
        // SQLite and MySQL know an offset only beside a limit.
        return select.offset(window.offset).limit(limit.unwrap_or(MOST_ROWS));
    }
    match limit {
        Some(limit) => select.limit(limit),
        None => select,
    }
}

/// The largest number that all three databases take as a limit.
const MOST_ROWS: u64 = i64::MAX.unsigned_abs();

/// These rows, of which there may be more, with the total.
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
    // What was counted for a caller who sees other cohorts is another number.
    let key = format!("{}{key}", ctx.scope_key());
    let total = totals.of(&key, snapshot.change(), all.count(snapshot)).await?;
    let least = if begins_at_first && !rows.is_empty() { shown + u64::from(more) } else { rows.len() as u64 };
    Ok(Listed { rows, count: total.max(least), more })
}
