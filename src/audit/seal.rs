//! The chain of hashes over the events.
//!
//! Each seal is SHA-256 over the hash before it and everything that its event says. Who changes or removes a row in the
//! database breaks the chain at that place; who rewrites all the rest of the chain too has another head than the one that
//! somebody wrote down elsewhere ([`Head`], shown by `studygovernor audit verify`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sea_orm::ActiveValue::Set;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use sha2::{Digest, Sha256};

use crate::database::{self, Database};
use crate::entity::{audit_event, audit_seal};

/// Events that are sealed in one transaction, and rows that are verified at once.
const BATCH: u64 = 500;

/// An event may be committed later than others that were begun after it, but not later than so many.
const LATEST: i32 = 10_000;

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Events in the chain.
    pub seq: i32,
    pub hash: String,
}

impl std::fmt::Display for Head {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.seq, self.hash)
    }
}

impl std::str::FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, hash.to_owned())));
        let (seq, hash) = parts.ok_or_else(|| "not of the form NUMBER:HASH".to_owned())?;
        Ok(Self { seq, hash })
    }
}

fn hash(previous: &str, seq: i32, event: &audit_event::Model) -> String {
    let mut digest = Sha256::new();
    // Each part with its length, so that nothing can be moved from one into the next.
    let mut add = |part: Option<&str>| match part {
        None => digest.update([0]),
        Some(text) => {
            digest.update([1]);
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
    };
    let number = |value: Option<i32>| value.map(|value| value.to_string());
    add(Some(previous));
    add(Some(&seq.to_string()));
    add(Some(&event.id.to_string()));
    add(Some(&event.at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()));
    add(number(event.user_id).as_deref());
    add(Some(&event.who));
    add(Some(&event.origin.to_string()));
    add(event.address.as_deref());
    add(Some(&event.verb));
    add(Some(&event.subject_type));
    add(number(event.subject_id).as_deref());
    add(Some(&event.subject_name));
    add(number(event.experiment_id).as_deref());
    add(event.before.as_deref());
    add(event.after.as_deref());
    add(event.reason.as_deref());
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

async fn last(connection: &impl ConnectionTrait) -> Result<Option<audit_seal::Model>, DbErr> {
    audit_seal::Entity::find().order_by_desc(audit_seal::Column::Seq).one(connection).await
}

/// Gives all events that have none their place in the chain. Gives how many. Of several servers that do it at the same
/// time one does.
///
/// # Errors
/// When the database cannot be written.
pub async fn seal(database: &Database) -> Result<usize, DbErr> {
    let mut sealed = 0;
    loop {
        let events = unsealed(database.reader(), BATCH).await?;
        if events.is_empty() {
            return Ok(sealed);
        }
        let transaction = database.begin().await?;
        let (mut seq, mut previous) = match last(&*transaction).await? {
            Some(last) => (last.seq, last.hash),
            None => (0, String::new()),
        };
        let mut rows = Vec::with_capacity(events.len());
        for event in &events {
            seq += 1;
            previous = hash(&previous, seq, event);
            rows.push(audit_seal::ActiveModel { seq: Set(seq), event_id: Set(event.id), hash: Set(previous.clone()) });
        }
        match audit_seal::Entity::insert_many(rows).exec_without_returning(&*transaction).await {
            Ok(_) => transaction.commit().await?,
            // Another server was first; what it left is for the next time.
            Err(error) if database::is_duplicate(&error) || database::is_transient(&error) => return Ok(sealed),
            Err(error) => return Err(error),
        }
        sealed += events.len();
        if (events.len() as u64) < BATCH {
            return Ok(sealed);
        }
    }
}

/// Events without a place in the chain, the oldest first.
async fn unsealed(connection: &impl ConnectionTrait, most: u64) -> Result<Vec<audit_event::Model>, DbErr> {
    let newest: Option<Option<i32>> = audit_seal::Entity::find()
        .select_only()
        .column_as(audit_seal::Column::EventId.max(), "newest")
        .into_tuple()
        .one(connection)
        .await?;
    let from = newest.flatten().unwrap_or(0).saturating_sub(LATEST);
    let sealed = audit_seal::Entity::find()
        .select_only()
        .column(audit_seal::Column::EventId)
        .filter(audit_seal::Column::EventId.gt(from))
        .into_query();
    audit_event::Entity::find()
        .filter(audit_event::Column::Id.gt(from))
        .filter(audit_event::Column::Id.not_in_subquery(sealed))
        .order_by_asc(audit_event::Column::Id)
        .limit(most)
        .all(connection)
        .await
}

/// What is wrong at one place of the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("event {event_id} (number {seq} of the chain) is missing")]
    Missing { seq: i32, event_id: i32 },
    #[error("event {event_id} (number {seq} of the chain) was changed, or the chain before it")]
    Changed { seq: i32, event_id: i32 },
    #[error("number {0} of the chain is missing")]
    Gap(i32),
    #[error("event {0} has no place in the chain")]
    Unsealed(i32),
    #[error("the chain is shorter than at {0}")]
    Shorter(Head),
    #[error("the chain had another hash at number {}", .0.seq)]
    OtherHead(Head),
}

/// What a look at the whole chain found.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    pub events: usize,
    /// None when there are no events.
    pub head: Option<Head>,
    pub wrong: Vec<Wrong>,
}

/// Looks at the whole chain, and whether it still goes through `known`, which somebody wrote down.
///
/// # Errors
/// When the database cannot be read.
pub async fn verify(database: &Database, known: Option<&Head>) -> Result<Verified, DbErr> {
    let connection = database.reader();
    let mut verified = Verified::default();
    let (mut seq, mut previous) = (0, String::new());
    let mut met = known.is_none();
    loop {
        let seals = audit_seal::Entity::find()
            .filter(audit_seal::Column::Seq.gt(seq))
            .order_by_asc(audit_seal::Column::Seq)
            .limit(BATCH)
            .all(connection)
            .await?;
        if seals.is_empty() {
            break;
        }
        let ids = seals.iter().map(|seal| seal.event_id);
        let events = audit_event::Entity::find().filter(audit_event::Column::Id.is_in(ids)).all(connection).await?;
        for seal in seals {
            if seal.seq != seq + 1 {
                verified.wrong.push(Wrong::Gap(seq + 1));
            }
            match events.iter().find(|event| event.id == seal.event_id) {
                None => verified.wrong.push(Wrong::Missing { seq: seal.seq, event_id: seal.event_id }),
                Some(event) if hash(&previous, seal.seq, event) != seal.hash => {
                    verified.wrong.push(Wrong::Changed { seq: seal.seq, event_id: seal.event_id });
                }
                Some(_) => {}
            }
            if let Some(known) = known.filter(|known| known.seq == seal.seq) {
                met = true;
                if known.hash != seal.hash {
                    verified.wrong.push(Wrong::OtherHead(known.clone()));
                }
            }
            verified.events += 1;
            // What follows is compared with what stands here, so that one change is told once.
            (seq, previous) = (seal.seq, seal.hash);
        }
    }
    if let Some(known) = known.filter(|_| !met) {
        verified.wrong.push(Wrong::Shorter(known.clone()));
    }
    verified.head = (seq > 0).then_some(Head { seq, hash: previous });
    let sealed = audit_seal::Entity::find().select_only().column(audit_seal::Column::EventId).into_query();
    let left = audit_event::Entity::find()
        .filter(audit_event::Column::Id.not_in_subquery(sealed))
        .order_by_asc(audit_event::Column::Id)
        .all(connection)
        .await?;
    verified.wrong.extend(left.iter().map(|event| Wrong::Unsealed(event.id)));
    Ok(verified)
}
