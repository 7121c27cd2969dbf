//! Groups and their batches in the database.
//!
//! A group's `next` is the first offset that no member was given. A batch is a stretch of offsets before it; when it is acknowledged its
//! row goes. What is before the oldest batch, or before `next` if there is none, is done.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::audience::Audience;
use super::blocks::{self, Look};
use super::engine::{Batch, Filter, Group, GroupError, GroupId, Groups, Start, Taken};
use crate::store::StoreError;

/// Groups of one owner.
const MOST_GROUPS: i64 = 100;
/// Members of one group that have batches.
const MOST_MEMBERS: i64 = 64;
/// Members' names are labels, and none of them begins like this: the rest of a batch that was too large to be given again at once.
const REST: char = '+';

/// A stretch of offsets.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: i64,
    next: i64,
}

fn owner(id: &GroupId) -> &str {
    id.supplier.as_deref().unwrap_or_default()
}

fn stretch(row: &Row<'_>) -> rusqlite::Result<Stretch> {
    Ok(Stretch {
        first: row.get(0)?,
        next: row.get(1)?,
    })
}

/// The filter of a group, and its `next`.
fn load(connection: &Connection, id: &GroupId) -> Result<(Filter, i64), GroupError> {
    let found: Option<(String, i64)> = connection
        .prepare_cached("SELECT filter, next FROM stream_group WHERE supplier = ?1 AND name = ?2")?
        .query_row([owner(id), &id.name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (filter, next) = found.ok_or(GroupError::None)?;
    Ok((read(&filter)?, next))
}

fn read(filter: &str) -> Result<Filter, StoreError> {
    serde_json::from_str(filter).map_err(|error| StoreError::Damaged {
        what: "a stream group's filter",
        reason: error.to_string(),
    })
}

/// A member's own batch, or one that another has had for too long.
fn pending(
    connection: &Connection,
    id: &GroupId,
    member: &str,
    now: i64,
) -> Result<Option<(String, Stretch)>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT first, next, member FROM stream_batch
         WHERE supplier = ?1 AND grp = ?2 AND (member = ?3 OR until <= ?4)
         ORDER BY member <> ?3, first LIMIT 1",
    )?;
    let found = query.query_row(params![owner(id), id.name, member, now], |row| {
        Ok((row.get(2)?, stretch(row)?))
    });
    Ok(found.optional()?)
}

/// Keeps a batch as this member's.
fn keep(
    connection: &Connection,
    id: &GroupId,
    member: &str,
    stretch: Stretch,
    lost: i64,
    until: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO stream_batch (supplier, grp, member, first, next, lost, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (supplier, grp, member) DO UPDATE SET
                 first = excluded.first, next = excluded.next, lost = excluded.lost, until = excluded.until",
        )?
        .execute(params![owner(id), id.name, member, stretch.first, stretch.next, lost, until])?;
    Ok(())
}

/// What is left of a stretch; what was lost of it comes first.
fn see(
    connection: &Connection,
    id: &GroupId,
    filter: &Filter,
    stretch: Stretch,
    oldest: i64,
    limit: usize,
) -> Result<(Look, i64), StoreError> {
    let start = stretch.first.max(oldest.min(stretch.next));
    let mut audience = Audience::new(connection, id.supplier.as_deref(), filter);
    let look = blocks::look(connection, start..stretch.next, limit, |head| {
        audience.sees(head)
    })?;
    Ok((look, start - stretch.first))
}

impl Groups for Connection {
    fn put(
        &self,
        id: &GroupId,
        filter: &Filter,
        start: Start,
        who: &str,
        now: i64,
    ) -> Result<(), GroupError> {
        let text = serde_json::to_string(filter)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        match load(self, id) {
            Ok((before, next)) => {
                if before == *filter {
                    return Ok(());
                }
                let first: Option<i64> = self
                    .prepare_cached(
                        "SELECT min(first) FROM stream_batch WHERE supplier = ?1 AND grp = ?2",
                    )?
                    .query_row([owner(id), &id.name], |row| row.get(0))?;
                self.prepare_cached("DELETE FROM stream_batch WHERE supplier = ?1 AND grp = ?2")?
                    .execute([owner(id), &id.name])?;
                self.prepare_cached("UPDATE stream_group SET filter = ?3, next = ?4 WHERE supplier = ?1 AND name = ?2")?
                    .execute(params![owner(id), id.name, text, first.unwrap_or(next)])?;
                return Ok(());
            }
            Err(GroupError::None) => {}
            Err(error) => return Err(error),
        }
        let groups: i64 = self
            .prepare_cached("SELECT count(*) FROM stream_group WHERE supplier = ?1")?
            .query_row([owner(id)], |row| row.get(0))?;
        if groups >= MOST_GROUPS {
            return Err(GroupError::TooManyGroups(groups));
        }
        let bounds = blocks::bounds(self)?;
        let next = match start {
            Start::Now => bounds.end,
            Start::Oldest => bounds.start,
        };
        self.prepare_cached(
            "INSERT INTO stream_group (supplier, name, filter, next, created, created_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![owner(id), id.name, text, next, now / 1000, who])?;
        Ok(())
    }

    fn list(
        &self,
        supplier: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Group>, StoreError> {
        let mut names = self.prepare_cached(
            "SELECT name FROM stream_group WHERE supplier = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
        )?;
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let names = names.query_map(params![supplier.unwrap_or_default(), after, most], |row| {
            row.get(0)
        })?;
        let mut groups = Vec::new();
        for name in names {
            let id = GroupId {
                supplier: supplier.map(str::to_owned),
                name: name?,
            };
            groups.extend(self.show(&id)?);
        }
        Ok(groups)
    }

    fn show(&self, id: &GroupId) -> Result<Option<Group>, StoreError> {
        let mut query = self.prepare_cached(
            "SELECT filter, next, lost, created, created_by FROM stream_group WHERE supplier = ?1 AND name = ?2",
        )?;
        let found = query
            .query_row([owner(id), &id.name], |row| {
                let filter: String = row.get(0)?;
                let numbers: (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
                Ok((filter, numbers, row.get(4)?))
            })
            .optional()?;
        let Some((filter, (next, lost, created), created_by)) = found else {
            return Ok(None);
        };
        let mut batches = self.prepare_cached(
            "SELECT member, first FROM stream_batch WHERE supplier = ?1 AND grp = ?2 ORDER BY member",
        )?;
        let batches =
            batches.query_map([owner(id), &id.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let batches: Vec<(String, i64)> = batches.collect::<Result<_, _>>()?;
        let oldest = batches.iter().map(|(_, first)| *first).min();
        let acknowledged = oldest.unwrap_or(next);
        let mut members: Vec<String> = batches.into_iter().map(|(member, _)| member).collect();
        members.retain(|member| !member.starts_with(REST));
        Ok(Some(Group {
            name: id.name.clone(),
            filter: read(&filter)?,
            acknowledged,
            behind: blocks::bounds(self)?.end - acknowledged,
            lost,
            members,
            created,
            created_by,
        }))
    }

    fn remove(&self, id: &GroupId) -> Result<bool, StoreError> {
        let gone = self
            .prepare_cached("DELETE FROM stream_group WHERE supplier = ?1 AND name = ?2")?
            .execute([owner(id), &id.name])?;
        Ok(gone > 0)
    }

    fn ready(&self, id: &GroupId, member: &str, now: i64) -> Result<bool, GroupError> {
        let (_, next) = load(self, id)?;
        Ok(next < blocks::bounds(self)?.end || pending(self, id, member, now)?.is_some())
    }

    fn take(
        &self,
        id: &GroupId,
        member: &str,
        limit: usize,
        now: i64,
        until: i64,
    ) -> Result<Taken, GroupError> {
        let (filter, next) = load(self, id)?;
        let bounds = blocks::bounds(self)?;
        if let Some((holder, given)) = pending(self, id, member, now)? {
            // As much of it as there is room for: more may be seen by now than when it was given first.
            let (look, lost) = see(self, id, &filter, given, bounds.start, limit)?;
            self.prepare_cached(
                "DELETE FROM stream_batch WHERE supplier = ?1 AND grp = ?2 AND member = ?3",
            )?
            .execute([owner(id), &id.name, &holder])?;
            let now_given = Stretch {
                next: look.next,
                ..given
            };
            keep(self, id, member, now_given, lost, until)?;
            if look.next < given.next {
                let rest = Stretch {
                    first: look.next,
                    ..given
                };
                keep(self, id, &format!("{REST}{}", rest.first), rest, 0, 0)?;
            }
            return Ok(Taken::Batch(Batch {
                events: look.events,
                next: look.next,
                lost,
            }));
        }
        let all = Stretch {
            first: next,
            next: bounds.end,
        };
        if all.first >= all.next {
            return Ok(Taken::Nothing);
        }
        let (look, lost) = see(self, id, &filter, all, bounds.start, limit)?;
        self.prepare_cached("UPDATE stream_group SET next = ?3 WHERE supplier = ?1 AND name = ?2")?
            .execute(params![owner(id), id.name, look.next])?;
        if look.events.is_empty() && lost == 0 {
            return Ok(match look.next < bounds.end {
                true => Taken::GoOn,
                false => Taken::Nothing,
            });
        }
        let members: i64 = self
            .prepare_cached("SELECT count(*) FROM stream_batch WHERE supplier = ?1 AND grp = ?2")?
            .query_row([owner(id), &id.name], |row| row.get(0))?;
        if members >= MOST_MEMBERS {
            return Err(GroupError::TooManyMembers(members));
        }
        let given = Stretch {
            next: look.next,
            ..all
        };
        keep(self, id, member, given, lost, until)?;
        Ok(Taken::Batch(Batch {
            events: look.events,
            next: look.next,
            lost,
        }))
    }

    fn acknowledge(&self, id: &GroupId, member: &str, next: i64) -> Result<bool, StoreError> {
        let mut query = self.prepare_cached(
            "SELECT lost FROM stream_batch WHERE supplier = ?1 AND grp = ?2 AND member = ?3 AND next = ?4",
        )?;
        let lost: Option<i64> = query
            .query_row(params![owner(id), id.name, member, next], |row| row.get(0))
            .optional()?;
        let Some(lost) = lost else {
            return Ok(false);
        };
        self.prepare_cached(
            "DELETE FROM stream_batch WHERE supplier = ?1 AND grp = ?2 AND member = ?3",
        )?
        .execute([owner(id), &id.name, member])?;
        self.prepare_cached(
            "UPDATE stream_group SET lost = lost + ?3 WHERE supplier = ?1 AND name = ?2",
        )?
        .execute(params![owner(id), id.name, lost])?;
        Ok(true)
    }
}
