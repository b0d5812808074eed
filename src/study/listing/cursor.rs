//! Where the next page of experiments in an order begins: behind the last row of this one, by the values that the order
//! compares, and not by a number of rows.
//!
//! **What a walk promises.** Whoever follows the links from the first page to the last gets every experiment that was in
//! the list when the first page was read and that is in it all the time exactly once, whatever is created, archived or
//! moved to another state meanwhile. What comes into the list later may appear or not, once at most.
//!
//! Labels, scan dates and ids of experiments never change, so the values of the last row are enough. The time at which
//! an experiment entered its state does change: one that moves behind the page would come twice, one that moves before
//! it would be lost. Such a walk therefore goes through the times as they were at its first page. They are known for
//! good: the state was entered with the last action that was visible then. The cursor carries the newest of those
//! actions, and which of the ids just below it were not visible (transactions that had not committed, or never will).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{Datelike, NaiveDateTime};
use sea_orm::sea_query::{Alias, CaseStatement, Expr, ExprTrait, Query, SelectStatement, SimpleExpr};
use sea_orm::{Condition, ConnectionTrait, DbErr, EntityTrait, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::entity::{action, experiment};

use super::ExperimentOrder;

/// See the module. Opaque to callers; [`std::fmt::Display`] and [`Cursor::parse`] are its form in an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub(super) order: ExperimentOrder,
    pub(super) descending: bool,
    pub(super) key: Key,
    pub(super) id: i32,
    pub(super) visible: Option<VisibleActions>,
}

/// The value that the order compares; after it comes the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Key {
    /// The order is that of the ids.
    Id,
    Label(String),
    At(NaiveDateTime),
}

/// Which actions a snapshot saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VisibleActions {
    /// The newest.
    newest: i32,
    /// Ranges of ids below it that were missing, both ends included, the newest first.
    missing: Vec<(i32, i32)>,
}

/// Ids below the newest action that are looked at for missing ones. A transaction that is older than so many actions of
/// others and still open is not expected: a server ends it before.
const LOOKED_AT: i32 = 4096;

/// Ranges that a cursor carries at most, so that an address stays short.
const MOST_RANGES: usize = 100;

/// Bytes of the checksum, which finds addresses that were cut or changed on their way.
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
    /// The cursor of an address; none when it is not one of ours, or was changed on its way.
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

    /// Whether it is of a list in this order.
    #[must_use]
    pub fn is_of(&self, order: ExperimentOrder, descending: bool) -> bool {
        self.order == order && self.descending == descending
    }

    fn is_sound(&self) -> bool {
        let fits = match (self.order, &self.key) {
            (ExperimentOrder::Id, Key::Id) => true,
            (ExperimentOrder::Label, Key::Label(label)) => !label.contains('\0'),
            // What all three databases can compare.
            (ExperimentOrder::Scandate | ExperimentOrder::StateSince, Key::At(at)) => (1..=9999).contains(&at.year()),
            _ => false,
        };
        let ranges = self.visible.as_ref().map_or(0, |visible| visible.missing.len());
        fits && ranges <= MOST_RANGES && self.visible.is_some() == (self.order == ExperimentOrder::StateSince)
    }

    /// The condition of coming after the cursor in the given direction, of rows whose key is `key` and whose id is `id`.
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
    /// Those that the connection sees.
    ///
    /// # Errors
    /// When the database cannot be read.
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

    /// Of ids that are there, the newest first.
    fn of(ids: &[i32]) -> Self {
        let newest = ids.first().copied().unwrap_or_default();
        let gap = |pair: &[i32]| (pair[0] - pair[1] > 1).then(|| (pair[1] + 1, pair[0] - 1));
        let missing = ids.windows(2).filter_map(gap).take(MOST_RANGES).collect();
        Self { newest, missing }
    }

    /// The condition that the action with this id was among them.
    fn include(&self, id: &SimpleExpr) -> Condition {
        let within = id.clone().lte(self.newest);
        self.missing
            .iter()
            .fold(Condition::all().add(within), |all, (from, to)| all.add(id.clone().between(*from, *to).not()))
    }

    /// The time at which an experiment entered the state that it was in when these were the actions; null for one that
    /// was not there.
    pub(super) fn state_since(&self) -> SimpleExpr {
        let column = |column: experiment::Column| Expr::col((experiment::Entity, column));
        let is_unchanged = self.include(&column(experiment::Column::LastActionId));
        CaseStatement::new()
            .case(is_unchanged, column(experiment::Column::StateSince))
            .finally(SimpleExpr::SubQuery(None, Box::new(self.last_action().into())))
            .into()
    }

    fn last_action(&self) -> SelectStatement {
        // Under another name: the statement around it may speak of actions too.
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
