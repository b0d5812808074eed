//! The closed sets of words that columns hold, stored as the text of the existing product.

use std::fmt;

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// Where a callback execution stands: `created → queued → running → (waiting →) finished`, or `skipped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ExecutionStatus {
    Created,
    Queued,
    Running,
    Waiting,
    Finished,
    Skipped,
}

impl ExecutionStatus {
    /// The statuses in which nothing is expected any more.
    pub const RESOLVED: [Self; 2] = [Self::Finished, Self::Skipped];
    /// The statuses in which a worker may claim.
    pub const CLAIMABLE: [Self; 2] = [Self::Created, Self::Queued];

    /// Whether nothing is expected of the execution any more.
    #[must_use]
    pub fn is_resolved(self) -> bool {
        Self::RESOLVED.contains(&self)
    }
}

/// How a callback execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ExecutionResult {
    None,
    Success,
    Failed,
    Timeout,
}

/// From where a change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Web,
    Api,
    Worker,
    Timeout,
    Import,
    Cli,
}

/// Type of an experiment's variable, as the existing product names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum VariableKind {
    None,
    Bool,
    Int,
    Float,
    Str,
    Date,
    #[sea_orm(string_value = "datetime")]
    #[serde(rename = "datetime")]
    DateTime,
    Time,
    Json,
}

/// The text that is stored, shown and sent.
macro_rules! display_as_stored {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.to_value())
            }
        }
    )*};
}
display_as_stored!(ExecutionStatus, ExecutionResult, Origin, VariableKind);
