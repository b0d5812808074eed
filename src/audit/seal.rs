//! The hash chain over the events.
//!
//! Each seal is SHA-256 over the previous hash and the whole content of its event. Events are sealed a moment after
//! their commit, so that transactions do not wait for one another to be numbered. Three things reveal a change in the
//! database:
//!
//! - an event carries a signature that needs the server's `SECRET_KEY`: a row that was changed or inserted is found;
//! - an event carries the end of the chain at the time it was written: rows that were removed before it are missed,
//!   even if the chain was rebuilt without them;
//! - a head that is stored elsewhere ([`Head`], shown by `studygovernor audit verify`) shows whether the end was cut
//!   off.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sea_orm::ActiveValue::Set;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use sha2::{Digest, Sha256};

use crate::database::{self, Database};
use crate::entity::{audit_event, audit_seal};

use super::content::{Parts, write};
use super::key::{self, Signature};

/// Events that are sealed in one transaction, and rows that are verified at once.
pub(super) const BATCH: u64 = 500;

/// An event may be committed later than events that were begun after it, but not later than this many.
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

/// The hash at position `seq` of the chain.
pub(super) fn hash(previous: &str, seq: i32, event: &audit_event::Model) -> String {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| digest.update(bytes);
    write(&mut add, Some(previous));
    write(&mut add, Some(&seq.to_string()));
    write(&mut add, Some(&event.id.to_string()));
    event.parts(&mut |part| write(&mut add, part));
    if let Some(signature) = &event.signature {
        write(&mut add, Some(signature));
    }
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

/// The end of the chain; `None` if nothing is sealed.
pub(super) async fn last(connection: &impl ConnectionTrait) -> Result<Option<Head>, DbErr> {
    let row = audit_seal::Entity::find().order_by_desc(audit_seal::Column::Seq).one(connection).await?;
    Ok(row.map(|row| Head { seq: row.seq, hash: row.hash }))
}

/// The result of sealing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Number of events that were sealed.
    pub count: usize,
    /// Events that are not sealed because no program with the key wrote them.
    pub forged: Vec<i32>,
    /// The end of the chain that an event refers to and that is not in the chain: seals were removed. Nothing is sealed
    /// until an administrator has checked it.
    pub missing: Option<Head>,
}

/// Seals all events that are not sealed yet. Of several servers that try at the same time, one succeeds.
///
/// Events without a valid signature are skipped, and nothing is sealed while seals are missing that events refer to:
/// the server would conceal what was removed. [`seal_again`] seals after a person has decided so.
pub async fn seal(database: &Database) -> Result<Sealed, DbErr> {
    seal_all(database, false).await
}

/// As [`seal`], even if seals are missing. The verification continues to report what is missing.
///
/// # Errors
/// As [`seal`].
pub async fn seal_again(database: &Database) -> Result<Sealed, DbErr> {
    seal_all(database, true).await
}

async fn seal_all(database: &Database, is_again: bool) -> Result<Sealed, DbErr> {
    let key = key::current()?;
    let mut sealed = Sealed::default();
    let mut after = 0;
    loop {
        let events = unsealed(database.reader(), after, BATCH).await?;
        let Some(newest) = events.last() else { return Ok(sealed) };
        let is_last = (events.len() as u64) < BATCH;
        let newest = newest.id;
        if !is_again && let Some(missing) = missing_head(database.reader(), &events).await? {
            sealed.missing = Some(missing);
            return Ok(sealed);
        }
        let is_ours = |event: &audit_event::Model| {
            event.signature.as_deref().is_some_and(|signature| key.check(signature, event) != Signature::Forged)
        };
        let (ours, forged): (Vec<_>, Vec<_>) = events.into_iter().partition(is_ours);
        sealed.forged.extend(forged.iter().map(|event| event.id));
        // A batch that another server has sealed in the meantime is read again.
        if append(database, &ours).await? {
            sealed.count += ours.len();
            after = newest;
        } else {
            return Ok(sealed);
        }
        if is_last {
            return Ok(sealed);
        }
    }
}

/// Appends events to the chain; returns false if another server was first.
async fn append(database: &Database, events: &[audit_event::Model]) -> Result<bool, DbErr> {
    if events.is_empty() {
        return Ok(true);
    }
    let transaction = database.begin().await?;
    let (mut seq, mut previous) = last(&*transaction).await?.map_or((0, String::new()), |head| (head.seq, head.hash));
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        seq += 1;
        previous = hash(&previous, seq, event);
        rows.push(audit_seal::ActiveModel { seq: Set(seq), event_id: Set(event.id), hash: Set(previous.clone()) });
    }
    match audit_seal::Entity::insert_many(rows).exec_without_returning(&*transaction).await {
        Ok(_) => transaction.commit().await.map(|()| true),
        // Events that the other server left are sealed next time.
        Err(error) if database::is_duplicate(&error) || database::is_transient(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The latest head that one of these events refers to, if it is not in the chain.
async fn missing_head(connection: &impl ConnectionTrait, events: &[audit_event::Model]) -> Result<Option<Head>, DbErr> {
    let Some(seen) = events.iter().filter_map(head_of).max_by_key(|head| head.seq) else { return Ok(None) };
    let row = audit_seal::Entity::find_by_id(seen.seq).one(connection).await?;
    Ok(Some(seen).filter(|seen| row.is_none_or(|row| row.hash != seen.hash)))
}

/// The end of the chain when the event was written.
pub(super) fn head_of(event: &audit_event::Model) -> Option<Head> {
    event.head.as_deref()?.parse().ok()
}

/// Events that are not sealed, the oldest first.
async fn unsealed(connection: &impl ConnectionTrait, after: i32, most: u64) -> Result<Vec<audit_event::Model>, DbErr> {
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
        .filter(audit_event::Column::Id.gt(from.max(after)))
        .filter(audit_event::Column::Id.not_in_subquery(sealed))
        .order_by_asc(audit_event::Column::Id)
        .limit(most)
        .all(connection)
        .await
}
