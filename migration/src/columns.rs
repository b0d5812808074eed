//! The column kinds that the migrations share, alike on the three databases.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// Auto-incremented integer primary key `id`.
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

/// Text without a limit. `TEXT` of MySQL ends at 64 kB, a run log may hold 1 MiB.
pub fn text(manager: &SchemaManager<'_>, name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    if manager.get_database_backend() == DbBackend::MySql {
        column.custom("longtext");
    } else {
        column.text();
    }
    column
}

/// Moment in UTC, to the microsecond. MySQL's plain `DATETIME` drops the fraction.
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

/// True or false with a default, never null.
pub fn flag(name: &'static str, default: bool) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.boolean().not_null().default(default);
    column
}

/// Foreign key `from.column → to.id`. Nothing is deleted along with it (E10): what is referred to stays.
pub fn reference(from: &'static str, column: &'static str, to: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(format!("fk_{from}_{column}"))
        .from(from, column)
        .to(to, "id")
        .on_delete(ForeignKeyAction::Restrict)
        .to_owned()
}
