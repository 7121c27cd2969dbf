//! What an engine of the stream promises.

use std::collections::BTreeSet;

use cairn_fleet::Selector;
use serde::{Deserialize, Serialize};

use super::event::{Event, Kind};
use crate::config::Keep;
use crate::store::StoreError;

/// Events that are appended together.
#[derive(Debug)]
pub struct Block<'b> {
    /// When they came, in milliseconds since 1970.
    pub time: i64,
    /// Of what kind all of them are.
    pub kind: Kind,
    /// Whose they are.
    pub device: &'b str,
    /// How many.
    pub events: usize,
    /// Their bodies: JSON, each ended by a line feed.
    pub lines: &'b [u8],
}

/// What the control plane does with the stream. It is implemented for a connection, so that within a transaction events become
/// readable when what they tell of does, or never.
pub trait Stream {
    /// Appends events, behind all that were appended before.
    ///
    /// # Errors
    /// The store's.
    fn append(&self, block: &Block<'_>) -> Result<(), StoreError>;

    /// Forgets a step of what is older or more than is to be kept; gives how many blocks that were, 0 when there is nothing left to do.
    ///
    /// # Errors
    /// The store's.
    fn trim(&self, keep: &Keep, now: i64) -> Result<u64, StoreError>;
}

/// Which group: its name among those of the same owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupId {
    /// Whose people it belongs to; none: the operator's.
    pub supplier: Option<String>,
    /// Its name.
    pub name: String,
}

/// Which events a group wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Of which devices.
    pub select: Selector,
    /// Of which kinds.
    pub kinds: BTreeSet<Kind>,
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Behind all that is there.
    #[default]
    Now,
    /// At the oldest event that is kept.
    Oldest,
}

/// A group, and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it wants.
    pub filter: Filter,
    /// All before this is acknowledged.
    pub acknowledged: i64,
    /// Events of whatever kind and device from there to the end of the stream.
    pub behind: i64,
    /// Events of whatever kind and device that were gone before it came to them.
    pub lost: i64,
    /// Members that have a batch.
    pub members: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// By whom.
    pub created_by: String,
}

/// Events for a member.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// What to acknowledge: the offset behind the last that was looked at.
    pub next: i64,
    /// Events of whatever kind and device that belong here and are gone.
    pub lost: i64,
}

/// What there was to take.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// Events, or word of lost ones.
    Batch(Batch),
    /// Nothing for this group among those that were looked at; there are more.
    GoOn,
    /// Nothing more.
    Nothing,
}

/// A group can't do that.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// There is none.
    #[error("there is no such group")]
    None,
    /// Too many groups.
    #[error("there are {0} groups already, no more are taken")]
    TooManyGroups(i64),
    /// Too many members.
    #[error("{0} members of this group have batches already, no more are taken")]
    TooManyMembers(i64),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for GroupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Reading in groups. Times are in milliseconds since 1970.
pub trait Groups {
    /// Makes a group, or gives it another filter. With another filter everything that isn't acknowledged is given again by the new one.
    ///
    /// # Errors
    /// If there are too many, or the store's.
    fn put(
        &self,
        id: &GroupId,
        filter: &Filter,
        start: Start,
        who: &str,
        now: i64,
    ) -> Result<(), GroupError>;

    /// Groups of an owner by name, behind `after`.
    ///
    /// # Errors
    /// The store's.
    fn list(
        &self,
        supplier: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Group>, StoreError>;

    /// One of them.
    ///
    /// # Errors
    /// The store's.
    fn show(&self, id: &GroupId) -> Result<Option<Group>, StoreError>;

    /// Forgets a group; whether there was one.
    ///
    /// # Errors
    /// The store's.
    fn remove(&self, id: &GroupId) -> Result<bool, StoreError>;

    /// Whether [`Groups::take`] may find something. It changes nothing.
    ///
    /// # Errors
    /// If there is no such group, or the store's.
    fn ready(&self, id: &GroupId, member: &str, now: i64) -> Result<bool, GroupError>;

    /// Gives a member its batch: the one that it hasn't acknowledged; else one that another member has had for too long; else the next,
    /// of at most `limit` events. It is this member's until `until`.
    ///
    /// # Errors
    /// If there is no such group, too many members have batches, or the store's.
    fn take(
        &self,
        id: &GroupId,
        member: &str,
        limit: usize,
        now: i64,
        until: i64,
    ) -> Result<Taken, GroupError>;

    /// A member has done what it was given up to `next`. Whether it had that batch.
    ///
    /// # Errors
    /// The store's.
    fn acknowledge(&self, id: &GroupId, member: &str, next: i64) -> Result<bool, StoreError>;
}
