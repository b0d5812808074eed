//! References of users and scripts to a resource: by id, by label, or by its URL in the API.

use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};

/// A parsed reference. `/api/v2/cohorts/3` is the id 3; `3` may be an id or a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Id(i32),
    Label(String),
    /// A number: the row with this id, or else the row with this label.
    Either(i32, String),
    /// A number where a label is expected: the row with this label, or else the row with this id.
    LabelFirst(i32, String),
}

/// Result of looking up a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    Nothing,
    One(T),
    /// Several rows have this label; their ids.
    Several(Vec<i32>),
}

impl Reference {
    /// Parses a text. Only the last part of a URL matters.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let is_address = text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://");
        if is_address && let Some(Ok(id)) = text.rsplit('/').next().map(str::parse) {
            return Self::Id(id);
        }
        // `007` and `+7` are labels: ids are not written that way.
        match text.parse::<i32>() {
            Ok(id) if id.to_string() == text => Self::Either(id, text.to_owned()),
            _ => Self::label(text),
        }
    }

    /// Like [`Self::parse`], where a label is more likely than an id.
    #[must_use]
    pub fn label_first(text: &str) -> Self {
        match Self::parse(text) {
            Self::Either(id, label) => Self::LabelFirst(id, label),
            other => other,
        }
    }

    /// A label, whatever it looks like. PostgreSQL refuses to compare with a null character, and no label has one.
    #[must_use]
    pub fn label(text: &str) -> Self {
        Self::Label(text.replace('\0', "\u{fffd}"))
    }

    /// Finds the row in `all`. `id` and `label` are the columns to compare.
    pub async fn find_in<E: EntityTrait>(
        &self,
        connection: &impl ConnectionTrait,
        all: Select<E>,
        (id, label): (E::Column, E::Column),
        id_of: impl Fn(&E::Model) -> i32,
    ) -> Result<Found<E::Model>, DbErr> {
        let by_id = |wanted: i32| all.clone().filter(id.eq(wanted)).one(connection);
        let by_label = async |wanted: &str| {
            // Ten ids are enough for the message that there are several.
            let rows = all.clone().filter(label.eq(wanted)).order_by_asc(id).limit(10).all(connection).await?;
            let ids: Vec<i32> = rows.iter().map(&id_of).collect();
            Ok::<_, DbErr>(match <[E::Model; 1]>::try_from(rows) {
                Ok([row]) => Found::One(row),
                Err(rows) if rows.is_empty() => Found::Nothing,
                Err(_) => Found::Several(ids),
            })
        };
        let one = |row: Option<E::Model>| row.map_or(Found::Nothing, Found::One);
        Ok(match self {
            Self::Id(wanted) => one(by_id(*wanted).await?),
            Self::Label(wanted) => by_label(wanted).await?,
            Self::Either(wanted, text) => match by_id(*wanted).await? {
                Some(row) => Found::One(row),
                None => by_label(text).await?,
            },
            Self::LabelFirst(wanted, text) => match by_label(text).await? {
                Found::Nothing => one(by_id(*wanted).await?),
                found => found,
            },
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Label(label) | Self::Either(_, label) | Self::LabelFirst(_, label) => write!(formatter, "'{label}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_labels_and_addresses_are_told_apart() {
        assert_eq!(Reference::parse("/api/v2/cohorts/3"), Reference::Id(3));
        assert_eq!(Reference::parse("https://example.org/x/api/v1/states/12"), Reference::Id(12));
        assert_eq!(Reference::parse("12"), Reference::Either(12, "12".to_owned()));
        assert_eq!(Reference::parse("012"), Reference::Label("012".to_owned()));
        assert_eq!(Reference::parse(" check "), Reference::Label("check".to_owned()));
        assert_eq!(Reference::parse("a/7"), Reference::Label("a/7".to_owned()));
        assert_eq!(Reference::label("7"), Reference::Label("7".to_owned()));
        assert_eq!(Reference::parse("a\0b"), Reference::Label("a\u{fffd}b".to_owned()));
    }
}
