//! Verifies the whole chain. It only reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};

use crate::database::Database;
use crate::entity::{audit_event, audit_seal};

use super::key::{self, Key, Signature};
use super::seal::{BATCH, Head, hash, head_of};

/// An error at one place of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("event {event_id} (number {seq} of the chain) is missing")]
    Missing { seq: i32, event_id: i32 },
    #[error("event {event_id} (number {seq} of the chain), or the chain before it, was changed")]
    Changed { seq: i32, event_id: i32 },
    #[error("number {0} of the chain is missing")]
    Gap(i32),
    /// Its signature is invalid.
    #[error("event {0} was not written by Study Governor, or was changed")]
    Forged(i32),
    #[error("event {event_id} is a copy of event {of}")]
    Copied { event_id: i32, of: i32 },
    /// The chain that the event refers to is not the present one.
    #[error("event {event_id} was written when the chain ended at {head}; earlier events were removed or replaced")]
    Replaced { event_id: i32, head: Head },
    #[error("{count} events are signed with another SECRET_KEY ({id}); pass that key with --old-key to verify them")]
    OtherKey { id: String, count: usize },
    #[error("the chain is shorter than head {0}")]
    Shorter(Head),
    #[error("the chain has another hash at number {}", .0.seq)]
    OtherHead(Head),
}

/// The result of verifying the whole chain.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    pub events: usize,
    /// `None` if nothing is sealed.
    pub head: Option<Head>,
    /// Events with a valid signature that are not sealed yet, the oldest first.
    pub unsealed: Vec<i32>,
    pub wrong: Vec<Wrong>,
}

/// Verifies the whole chain and the events that are not sealed, and whether the chain still contains `known`, a head
/// that was stored elsewhere. Signatures are checked with this process's key and with `old` ones.
pub async fn verify(database: &Database, known: Option<&Head>, old: &[Key]) -> Result<Verified, DbErr> {
    let connection = database.reader();
    let mut look = Look::new(std::iter::once(key::current()?).chain(old).collect());
    loop {
        let seals = audit_seal::Entity::find()
            .filter(audit_seal::Column::Seq.gt(look.seq))
            .order_by_asc(audit_seal::Column::Seq)
            .limit(BATCH)
            .all(connection)
            .await?;
        if seals.is_empty() {
            break;
        }
        look.batch(connection, seals, known).await?;
    }
    if let Some(known) = known.filter(|known| known.seq > look.seq) {
        look.verified.wrong.push(Wrong::Shorter(known.clone()));
    }
    look.unsealed(connection).await?;
    look.copies(connection).await?;
    let Look { seq, hash, other_keys, mut verified, .. } = look;
    verified.wrong.extend(other_keys.into_iter().map(|(id, count)| Wrong::OtherKey { id, count }));
    verified.head = (seq > 0).then_some(Head { seq, hash });
    Ok(verified)
}

/// The position up to which the chain is verified.
struct Look<'a> {
    keys: Vec<&'a Key>,
    seq: i32,
    hash: String,
    /// Whether a signed event was found: no unsigned event may follow.
    is_signed: bool,
    /// Heads that were reported as missing: many events refer to each.
    replaced: BTreeSet<i32>,
    other_keys: BTreeMap<String, usize>,
    verified: Verified,
}

impl<'a> Look<'a> {
    fn new(keys: Vec<&'a Key>) -> Self {
        let (seq, hash, is_signed, verified) = (0, String::new(), false, Verified::default());
        Self { keys, seq, hash, is_signed, replaced: BTreeSet::new(), other_keys: BTreeMap::new(), verified }
    }

    async fn batch(
        &mut self,
        connection: &impl ConnectionTrait,
        seals: Vec<audit_seal::Model>,
        known: Option<&Head>,
    ) -> Result<(), DbErr> {
        let ids = seals.iter().map(|seal| seal.event_id);
        let events = audit_event::Entity::find().filter(audit_event::Column::Id.is_in(ids)).all(connection).await?;
        let heads = heads_in_chain(connection, &events).await?;
        let events: HashMap<i32, audit_event::Model> = events.into_iter().map(|event| (event.id, event)).collect();
        for seal in seals {
            if seal.seq != self.seq + 1 {
                self.verified.wrong.push(Wrong::Gap(self.seq + 1));
            }
            match events.get(&seal.event_id) {
                None => self.verified.wrong.push(Wrong::Missing { seq: seal.seq, event_id: seal.event_id }),
                Some(event) if hash(&self.hash, seal.seq, event) != seal.hash => {
                    self.verified.wrong.push(Wrong::Changed { seq: seal.seq, event_id: seal.event_id });
                }
                Some(event) => {
                    self.signature(event);
                    self.pinned(event, &heads);
                }
            }
            if let Some(known) = known.filter(|known| known.seq == seal.seq && known.hash != seal.hash) {
                self.verified.wrong.push(Wrong::OtherHead(known.clone()));
            }
            self.verified.events += 1;
            // The next row is compared with what is stored here, so that one change is reported once.
            (self.seq, self.hash) = (seal.seq, seal.hash);
        }
        Ok(())
    }

    /// Returns true if the signature is valid.
    fn signature(&mut self, event: &audit_event::Model) -> bool {
        let Some(signature) = &event.signature else {
            if self.is_signed {
                self.verified.wrong.push(Wrong::Forged(event.id));
            }
            return false;
        };
        self.is_signed = true;
        let found = self.keys.iter().map(|key| key.check(signature, event)).find(|found| *found != Signature::OtherKey);
        match found {
            Some(Signature::Sound) => return true,
            Some(_) => self.verified.wrong.push(Wrong::Forged(event.id)),
            None => {
                let id = signature.split(':').next().unwrap_or_default().to_owned();
                *self.other_keys.entry(id).or_default() += 1;
            }
        }
        false
    }

    /// Checks whether the chain that the event refers to is the present one.
    fn pinned(&mut self, event: &audit_event::Model, heads: &HashMap<i32, String>) {
        let Some(head) = head_of(event) else { return };
        if heads.get(&head.seq) != Some(&head.hash) && self.replaced.insert(head.seq) {
            self.verified.wrong.push(Wrong::Replaced { event_id: event.id, head });
        }
    }

    /// Events that are not sealed.
    async fn unsealed(&mut self, connection: &impl ConnectionTrait) -> Result<(), DbErr> {
        let sealed = audit_seal::Entity::find().select_only().column(audit_seal::Column::EventId).into_query();
        let left = audit_event::Entity::find()
            .filter(audit_event::Column::Id.not_in_subquery(sealed))
            .order_by_asc(audit_event::Column::Id)
            .all(connection)
            .await?;
        let heads = heads_in_chain(connection, &left).await?;
        // An event without a signature is never sealed: where there are signatures, another program inserted it.
        self.is_signed = true;
        for event in &left {
            if self.signature(event) {
                self.verified.unsealed.push(event.id);
            }
            self.pinned(event, &heads);
        }
        Ok(())
    }

    /// Finds signed rows that were copied under another id.
    async fn copies(&mut self, connection: &impl ConnectionTrait) -> Result<(), DbErr> {
        #[derive(FromQueryResult)]
        struct Copy {
            first: i32,
            newest: i32,
        }
        let copies = audit_event::Entity::find()
            .select_only()
            .column_as(audit_event::Column::Id.min(), "first")
            .column_as(audit_event::Column::Id.max(), "newest")
            .filter(audit_event::Column::Signature.is_not_null())
            .group_by(audit_event::Column::Signature)
            .having(audit_event::Column::Id.count().gt(1))
            .into_model::<Copy>()
            .all(connection)
            .await?;
        let copied = |copy: Copy| Wrong::Copied { event_id: copy.newest, of: copy.first };
        self.verified.wrong.extend(copies.into_iter().map(copied));
        Ok(())
    }
}

/// The hashes of the chain at the positions that these events refer to as its end.
async fn heads_in_chain(
    connection: &impl ConnectionTrait,
    events: &[audit_event::Model],
) -> Result<HashMap<i32, String>, DbErr> {
    let seen: BTreeSet<i32> = events.iter().filter_map(|event| Some(head_of(event)?.seq)).collect();
    let mut heads = HashMap::new();
    for some in seen.into_iter().collect::<Vec<_>>().chunks(500) {
        let rows = audit_seal::Entity::find().filter(audit_seal::Column::Seq.is_in(some.iter().copied()));
        heads.extend(rows.all(connection).await?.into_iter().map(|row| (row.seq, row.hash)));
    }
    Ok(heads)
}
