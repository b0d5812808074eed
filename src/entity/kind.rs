//! Enumerated columns, stored with the words of version 8.1.

use std::fmt;

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// Status of a callback execution: `created → queued → running → (waiting →) finished`, or `skipped`.
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
    /// The statuses of a resolved execution, which are final.
    pub const RESOLVED: [Self; 2] = [Self::Finished, Self::Skipped];
    /// The statuses in which a worker may claim.
    pub const CLAIMABLE: [Self; 2] = [Self::Created, Self::Queued];

    /// Whether the status is final.
    #[must_use]
    pub fn is_resolved(self) -> bool {
        Self::RESOLVED.contains(&self)
    }
}

/// Result of a callback execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ExecutionResult {
    None,
    Success,
    Failed,
    Timeout,
}

/// Origin of a change.
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

/// Type of an experiment's variable, with the names of version 8.1.
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

/// Displays the text that is stored and sent.
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
