//! Column types for the migrations, equivalent on the three databases.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// Primary key `id`: an auto-incremented integer.
pub fn id() -> ColumnDef {
    let mut column = ColumnDef::new("id");
    column.integer().not_null().auto_increment().primary_key();
    column
}

/// Text of at most `length` characters.
pub fn label(name: &'static str, length: u32) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.string_len(length);
    column
}

/// Text without a limit. MySQL's `TEXT` ends at 64 kB, and a run log may have 1 MiB.
pub fn text(manager: &SchemaManager<'_>, name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if manager.get_database_backend() == DbBackend::MySql {
        column.custom("longtext");
    } else {
        column.text();
    }
    column
}

/// Time in UTC, to the microsecond. MySQL's plain `DATETIME` drops the fraction.
pub fn moment(manager: &SchemaManager<'_>, name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if manager.get_database_backend() == DbBackend::MySql {
        column.custom("datetime(6)");
    } else {
        column.date_time();
    }
    column
}

/// Whole number.
pub fn integer(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.integer();
    column
}

/// Whole number with a default, never null.
pub fn counter(name: &'static str, default: i32) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.integer().not_null().default(default);
    column
}

/// Boolean with a default, never null.
pub fn flag(name: &'static str, default: bool) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.boolean().not_null().default(default);
    column
}

/// Foreign key `from.column → to.id`. Deletes do not cascade (E10): rows that others refer to stay.
pub fn reference(from: &'static str, column: &'static str, to: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(format!("fk_{from}_{column}"))
        .from(from, column)
        .to(to, "id")
        .on_delete(ForeignKeyAction::Restrict)
        .to_owned()
}
