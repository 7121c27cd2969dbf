//! Opening the outbox after whatever happened to it.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::frame::When;
use super::ledger::{Ledger, RANGE, new_log};
use super::ranges::Ranges;
use super::segment::{self, Segment};
use super::state::State;
use super::store::{LEDGER, Store, remove};
use super::stream::Stream;
use super::{OutboxError, Settings, acks};
use crate::clock::Clock;
use crate::files;

/// Opens the folder: drops torn ends, counts what is left, gives up what was given up before.
///
/// # Errors
/// If the folder can't be made or listed.
pub(super) fn open(
    folder: &Path,
    settings: &Settings,
    clock: &Clock,
) -> Result<(Store, State), OutboxError> {
    let failed = |source| OutboxError::Io {
        path: folder.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        names.extend(name.to_str().and_then(segment::parse_name));
        if name
            .to_str()
            .and_then(|name| segment::parse_name(name.strip_suffix(".new")?))
            .is_some()
        {
            remove(&entry.path());
        }
    }
    names.sort_unstable();

    let (known, whole) = read_ledger(folder);
    let mut state = State::new(
        folder,
        settings.clone(),
        known.unwrap_or_else(|| Ledger::new(1)),
    );
    let (done, acked_ts) =
        acks::read(&folder.join(acks::FILE), state.ledger.log).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read what was acknowledged; records may be sent twice");
            Default::default()
        });
    let boot = clock.now().boot;
    let mut highest = done.iter().map(Ranges::highest).max().unwrap_or(0);
    for (stream, done) in state.streams.iter_mut().zip(done) {
        stream.done = done;
    }
    for (priority, name) in names {
        let Some(stream) = state.streams.get_mut(priority.index()) else {
            continue;
        };
        let mut seen = Seen {
            boot: &boot,
            last_ts: state.ledger.last_ts,
            log: state.ledger.log,
            last_unset: state.last_unset,
        };
        let path = segment::path(folder, priority, name);
        match recover(stream, &path, name, &mut seen) {
            Ok(damaged) if damaged > 0 => {
                tracing::warn!(file = %path.display(), damaged, "a segment of the outbox is damaged; the rest of it is kept");
                state.ledger.damaged += damaged;
                state.dirty = true;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read a segment of the outbox")
            }
        }
        state.ledger.last_ts = seen.last_ts;
        state.last_unset = seen.last_unset;
        highest = highest.max(name).max(stream.last);
        let floor = state
            .ledger
            .floor
            .get(priority.index())
            .copied()
            .unwrap_or(0);
        if stream
            .segments
            .back()
            .is_some_and(|segment| segment.name == name && segment.last <= floor)
        {
            stream.segments.pop_back();
            remove(&path);
        }
    }
    for stream in &mut state.streams {
        stream.last = stream.last.max(stream.done.highest());
    }
    state.ledger.last_ts = state.ledger.last_ts.max(acked_ts);
    state.next = state.ledger.reserved.max(highest.saturating_add(1));

    let mut store = Store::new(folder, whole);
    if !whole {
        state.ledger.log = new_log();
    }
    let before = state.ledger.reserved;
    state.ledger.reserved = state.next.saturating_add(RANGE);
    if let Err(error) = store.write_ledger(&mut state.ledger) {
        tracing::warn!(%error, "cannot write the outbox's ledger");
        // Numbers of the log on the disk can't be had, so another is begun at the first record.
        state.ledger.reserved = before.min(state.next);
        state.failing = Some(error.to_string());
        state.dirty = true;
    }
    Ok((store, state))
}

fn read_ledger(folder: &Path) -> (Option<Ledger>, bool) {
    match Ledger::read(&folder.join(LEDGER)) {
        Ok(Some((ledger, whole))) => {
            if !whole {
                tracing::warn!("half of the outbox's ledger is damaged; a new log is begun");
            }
            (Some(ledger), whole)
        }
        Ok(None) => (None, false),
        Err(error) => {
            tracing::warn!(%error, "cannot read the outbox's ledger; a new log is begun");
            (None, false)
        }
    }
}

/// What the records tell, as they are read.
struct Seen<'a> {
    boot: &'a str,
    log: u64,
    last_ts: i64,
    last_unset: Option<u64>,
}

/// Reads one segment into its stream; gives how many stretches of it are damaged.
fn recover(stream: &mut Stream, path: &Path, name: u64, seen: &mut Seen<'_>) -> io::Result<u64> {
    let size = fs::metadata(path)?.len();
    let mut after = stream
        .segments
        .back()
        .map_or(0, |segment| segment.last)
        .max(name.saturating_sub(1));
    let (mut first, mut left) = (None, 0);
    let done = &stream.done;
    let scanned = segment::scan(path, 0, size, |frame, _| {
        // A failed write may have left a record twice.
        if frame.seq > after {
            after = frame.seq;
            first = first.or(Some(frame.seq));
            left += u64::from(!done.contains(frame.seq));
        }
        match &frame.when {
            When::Wall(ms) if frame.log == seen.log => seen.last_ts = seen.last_ts.max(*ms),
            When::Boot { boot, mono_ms } if boot == seen.boot => {
                seen.last_unset = seen.last_unset.max(Some(*mono_ms))
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    let Some(first) = first else {
        remove(path);
        return Ok(scanned.damaged);
    };
    let mended = if scanned.damaged > 0 {
        // So that it isn't counted again.
        salvage(path, size)
    } else if scanned.end < size {
        // What follows the last whole record was being written when the power went.
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(scanned.end))
            .map(|()| scanned.end)
    } else {
        Ok(size)
    };
    if let Err(error) = &mended {
        tracing::warn!(file = %path.display(), %error, "cannot cut out what is damaged");
    }
    stream.last = stream.last.max(after);
    let sealed = mended.is_err();
    stream.segments.push_back(Segment {
        name,
        first,
        last: after,
        bytes: mended.unwrap_or(scanned.end),
        left,
        sealed,
    });
    Ok(scanned.damaged)
}

/// Writes a segment anew with its whole records; gives its size.
fn salvage(path: &Path, size: u64) -> io::Result<u64> {
    let mut bytes = Vec::new();
    segment::scan(path, 0, size, |frame, _| {
        bytes.extend(frame.encode());
        ControlFlow::Continue(())
    })?;
    files::replace(path, &bytes)?;
    Ok(bytes.len() as u64)
}
