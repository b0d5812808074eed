//! Cursors: the beginning of the next page in an ordered list of experiments, given by the values of the last row instead of a number of
//! rows.
//!
//! **Guarantee.** A client that follows the links from the first page to the last receives each experiment exactly once that was in the
//! list when the first page was read and stays in it, whatever is created, archived or moved to another state meanwhile. Experiments that
//! enter the list later may appear, at most once.
//!
//! Labels, scan dates and ids of experiments never change, so the values of the last row are enough. The time at which an experiment
//! entered its state does change: an experiment that moves behind the page would appear twice, one that moves before it would be missed.
//! Such a walk therefore uses the times as of its first page. They never change: an experiment had entered its state with the last of its
//! actions that was visible then. The cursor carries the id of the newest visible action, and the ids just below it that were not visible
//! (their transactions had not committed, or never will).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{Datelike, NaiveDateTime};
use sea_orm::sea_query::{Alias, CaseStatement, Expr, ExprTrait, Query, SelectStatement, SimpleExpr};
use sea_orm::{Condition, ConnectionTrait, DbErr, EntityTrait, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::entity::{action, experiment};

use super::ExperimentOrder;

/// A position in an ordered list. Opaque to clients; [`std::fmt::Display`] and [`Cursor::parse`] convert it to and from a URL parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub(super) order: ExperimentOrder,
    pub(super) descending: bool,
    pub(super) key: Key,
    pub(super) id: i32,
    pub(super) visible: Option<VisibleActions>,
}

/// The value of the column that orders the list; rows with equal values are ordered by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Key {
    /// The list is ordered by id.
    Id,
    Label(String),
    At(NaiveDateTime),
}

/// The actions that a snapshot saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VisibleActions {
    /// The newest action.
    newest: i32,
    /// Ranges of missing ids below it, both ends included, newest first.
    missing: Vec<(i32, i32)>,
}

/// Number of ids below the newest action that are searched for missing ones. A transaction that is still open after that many later
/// actions is not expected: a server ends it before.
const LOOKED_AT: i32 = 4096;

/// Maximum number of ranges in a cursor, so that URLs stay short.
const MOST_RANGES: usize = 100;

/// Bytes of the checksum, which detects truncated or modified URLs.
const CHECKSUM: usize = 4;

impl std::fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = serde_json::to_vec(self).map_err(|_| std::fmt::Error)?;
        let sum = Sha256::digest(&text);
        let bytes = [&sum[..CHECKSUM], &text].concat();
        formatter.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Cursor {
    /// Parses a cursor from a URL; `None` if it is not valid or was modified.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (sum, text) = bytes.split_at_checked(CHECKSUM)?;
        if Sha256::digest(text)[..CHECKSUM] != *sum {
            return None;
        }
        let cursor: Self = serde_json::from_slice(text).ok()?;
        cursor.is_sound().then_some(cursor)
    }

    /// Whether the cursor belongs to a list in this order.
    #[must_use]
    pub fn is_of(&self, order: ExperimentOrder, descending: bool) -> bool {
        self.order == order && self.descending == descending
    }

    fn is_sound(&self) -> bool {
        let fits = match (self.order, &self.key) {
            (ExperimentOrder::Id, Key::Id) => true,
            (ExperimentOrder::Label, Key::Label(label)) => !label.contains('\0'),
            // Years that all three databases can compare.
            (ExperimentOrder::Scandate | ExperimentOrder::StateSince, Key::At(at)) => (1..=9999).contains(&at.year()),
            _ => false,
        };
        let ranges = self.visible.as_ref().map_or(0, |visible| visible.missing.len());
        fits && ranges <= MOST_RANGES && self.visible.is_some() == (self.order == ExperimentOrder::StateSince)
    }

    /// The condition for a row with these `key` and `id` to come after the cursor in the given direction.
    pub(super) fn behind(&self, key: &SimpleExpr, id: &SimpleExpr, descending: bool) -> Condition {
        let next = |column: &SimpleExpr, value: SimpleExpr| match descending {
            true => column.clone().lt(value),
            false => column.clone().gt(value),
        };
        let value = match &self.key {
            Key::Id => return Condition::all().add(next(id, Expr::value(self.id))),
            Key::Label(label) => Expr::value(label.clone()),
            Key::At(at) => Expr::value(*at),
        };
        let equal = Condition::all().add(key.clone().eq(value.clone())).add(next(id, Expr::value(self.id)));
        Condition::any().add(next(key, value)).add(equal)
    }
}

impl VisibleActions {
    /// The actions that the connection sees.
    pub(super) async fn now(connection: &impl ConnectionTrait) -> Result<Self, DbErr> {
        let ids: Vec<i32> = action::Entity::find()
            .select_only()
            .column(action::Column::Id)
            .order_by_desc(action::Column::Id)
            .limit(u64::from(LOOKED_AT.unsigned_abs()))
            .into_tuple()
            .all(connection)
            .await?;
        Ok(Self::of(&ids))
    }

    /// Builds it from the visible ids, newest first.
    fn of(ids: &[i32]) -> Self {
        let newest = ids.first().copied().unwrap_or_default();
        let gap = |pair: &[i32]| (pair[0] - pair[1] > 1).then(|| (pair[1] + 1, pair[0] - 1));
        let missing = ids.windows(2).filter_map(gap).take(MOST_RANGES).collect();
        Self { newest, missing }
    }

    /// The condition that the action with this id was visible.
    fn include(&self, id: &SimpleExpr) -> Condition {
        let within = id.clone().lte(self.newest);
        self.missing
            .iter()
            .fold(Condition::all().add(within), |all, (from, to)| all.add(id.clone().between(*from, *to).not()))
    }

    /// The time at which an experiment entered the state that it was in when these actions were the visible ones; null if it did not exist
    /// yet.
    pub(super) fn state_since(&self) -> SimpleExpr {
        let column = |column: experiment::Column| Expr::col((experiment::Entity, column));
        let is_unchanged = self.include(&column(experiment::Column::LastActionId));
        CaseStatement::new()
            .case(is_unchanged, column(experiment::Column::StateSince))
            .finally(SimpleExpr::SubQuery(None, Box::new(self.last_action().into())))
            .into()
    }

    fn last_action(&self) -> SelectStatement {
        // An alias, because the surrounding statement may use actions too.
        let earlier = Alias::new("earlier");
        let column = |column: action::Column| Expr::col((earlier.clone(), column));
        Query::select()
            .expr(column(action::Column::StartTime))
            .from_as(action::Entity, earlier.clone())
            .and_where(column(action::Column::ExperimentId).equals((experiment::Entity, experiment::Column::Id)))
            .cond_where(self.include(&column(action::Column::Id)))
            .order_by((earlier.clone(), action::Column::Id), sea_orm::Order::Desc)
            .limit(1)
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        let at = "2024-03-01T10:00:00.123456".parse().unwrap();
        let visible = VisibleActions::of(&[20, 19, 15, 14, 9]);
        Cursor { order: ExperimentOrder::StateSince, descending: true, key: Key::At(at), id: 7, visible: Some(visible) }
    }

    #[test]
    fn e13_a_cursor_comes_back_as_it_was() {
        let cursor = cursor();
        assert_eq!(cursor.visible.as_ref().unwrap().missing, [(16, 18), (10, 13)]);
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
    }

    #[test]
    fn e13_a_cursor_that_was_changed_is_none() {
        let text = cursor().to_string();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Cursor::parse(&String::from_utf8(changed).unwrap()), None, "changed at {at}");
            assert_eq!(Cursor::parse(&text[..at]), None, "cut at {at}");
        }
        let other = Cursor { order: ExperimentOrder::Label, ..cursor() };
        assert_eq!(Cursor::parse(&other.to_string()), None, "a key of another order");
        let far = Cursor { key: Key::At(NaiveDateTime::MAX), ..cursor() };
        assert_eq!(Cursor::parse(&far.to_string()), None, "a time that no database has");
    }
}
