//! The steps of migrations. Each can be repeated from any point.
//!
//! MariaDB and MySQL commit every change of a table immediately, so a server that is killed leaves a migration half done. The next start
//! runs the whole migration again; each step recognises its earlier result and does nothing. `tests/structure` refuses migrations that
//! change the schema in any other way.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, Statement};

/// Creates a table unless it exists. On MySQL it uses Unicode, whatever the server's default is, and compares labels exactly, like the
/// other databases: MySQL's usual collations treat `AB1` and `ab1` as the same subject.
///
/// # Errors
/// A table of that name has other columns: another program created it.
pub async fn create_table(manager: &SchemaManager<'_>, mut table: TableCreateStatement) -> Result<(), DbErr> {
    let name = match table.get_table_name() {
        Some(TableRef::Table(name, _)) => name.1.to_string(),
        _ => return Err(DbErr::Migration("a table without a plain name".to_owned())),
    };
    let mut wanted: Vec<String> = table.get_columns().iter().map(|column| column.get_column_name()).collect();
    let mut present = columns_of(manager, &name).await?;
    if !present.is_empty() {
        wanted.sort_unstable();
        present.sort_unstable();
        if wanted == present {
            return Ok(());
        }
        let problem = format!("the table {name} exists with other columns, as if another program had made it");
        return Err(DbErr::Migration(problem));
    }
    if manager.get_database_backend() == DbBackend::MySql {
        table.character_set("utf8mb4").collate("utf8mb4_bin");
    }
    manager.create_table(table).await
}

/// Drops the tables that exist, in the given order.
pub async fn drop_tables(manager: &SchemaManager<'_>, tables: &[&'static str]) -> Result<(), DbErr> {
    for table in tables {
        manager.drop_table(Table::drop().table(*table).if_exists().to_owned()).await?;
    }
    Ok(())
}

/// Drops a table in its former shape, recognised by `column`. The new table of the same name is not dropped.
pub async fn drop_former_table(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: &'static str,
) -> Result<(), DbErr> {
    if manager.has_column(table, column).await? { drop_tables(manager, &[table]).await } else { Ok(()) }
}

/// Adds a column unless the table has it.
pub async fn add_column(manager: &SchemaManager<'_>, table: &'static str, mut column: ColumnDef) -> Result<(), DbErr> {
    if manager.has_column(table, column.get_column_name()).await? {
        return Ok(());
    }
    manager.alter_table(Table::alter().table(table).add_column(&mut column).to_owned()).await
}

/// Drops a column if the table has it.
pub async fn drop_column(manager: &SchemaManager<'_>, table: &'static str, column: &'static str) -> Result<(), DbErr> {
    if !manager.has_column(table, column).await? {
        return Ok(());
    }
    manager.alter_table(Table::alter().table(table).drop_column(column).to_owned()).await
}

/// Creates an index, named after its table and columns, unless it exists.
pub async fn index(
    manager: &SchemaManager<'_>,
    table: &'static str,
    columns: &[&'static str],
    unique: bool,
) -> Result<(), DbErr> {
    let prefix = if unique { "uix" } else { "ix" };
    let name = format!("{prefix}_{table}_{}", columns.join("_"));
    if manager.has_index(table, &name).await? {
        return Ok(());
    }
    let mut statement = Index::create();
    statement.name(name).table(table);
    for column in columns {
        statement.col(*column);
    }
    if unique {
        statement.unique();
    }
    manager.create_index(statement.to_owned()).await
}

/// Drops an index if it exists.
pub async fn drop_index(manager: &SchemaManager<'_>, table: &'static str, name: &str) -> Result<(), DbErr> {
    if !manager.has_index(table, name).await? {
        return Ok(());
    }
    manager.drop_index(Index::drop().table(table).name(name).to_owned()).await
}

/// Changes rows. The condition of the statement must exclude rows that it has already changed, so that repeating it changes nothing.
pub async fn update_rows(manager: &SchemaManager<'_>, statement: UpdateStatement) -> Result<(), DbErr> {
    manager.execute(statement).await
}

/// The column names of a table; empty if the table does not exist.
async fn columns_of(manager: &SchemaManager<'_>, table: &str) -> Result<Vec<String>, DbErr> {
    let backend = manager.get_database_backend();
    let statement = match backend {
        DbBackend::Postgres => {
            "SELECT column_name::text FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1"
        }
        DbBackend::MySql => {
            "SELECT column_name FROM information_schema.columns WHERE table_schema = database() AND table_name = ?"
        }
        _ => "SELECT name FROM pragma_table_info(?)",
    };
    let statement = Statement::from_sql_and_values(backend, statement, [table.into()]);
    let rows = manager.get_connection().query_all_raw(statement).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}
