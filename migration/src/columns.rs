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

/// Creates a table. On MySQL in Unicode whatever the server's default is, and with labels that are different when they
/// are written differently, as on the other databases: its usual collations take `AB1` and `ab1` for the same subject.
pub async fn create_table(manager: &SchemaManager<'_>, mut table: TableCreateStatement) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::MySql {
        table.character_set("utf8mb4").collate("utf8mb4_bin");
    }
    manager.create_table(table).await
}

/// Index named after its table and columns.
pub async fn index(
    manager: &SchemaManager<'_>,
    table: &'static str,
    columns: &[&'static str],
    unique: bool,
) -> Result<(), DbErr> {
    let prefix = if unique { "uix" } else { "ix" };
    let mut statement = Index::create();
    statement.name(format!("{prefix}_{table}_{}", columns.join("_"))).table(table);
    for column in columns {
        statement.col(*column);
    }
    if unique {
        statement.unique();
    }
    manager.create_index(statement.to_owned()).await
}

/// Drops the tables in the given order.
pub async fn drop_tables(manager: &SchemaManager<'_>, tables: &[&'static str]) -> Result<(), DbErr> {
    for table in tables {
        manager.drop_table(Table::drop().table(*table).to_owned()).await?;
    }
    Ok(())
}
