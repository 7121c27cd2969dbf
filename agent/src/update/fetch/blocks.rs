//! An image block by block: from older images, from what an interrupted download left, and only what is nowhere from the
//! server.
//!
//! The verity tree at the image's end is its index: it has a digest of each block, and the signed manifest has the digest
//! of the tree. It is fetched first and kept in its place, so that after an interruption each block that is there is known.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cairn_delta::apply::PIECE;
use cairn_delta::{BLOCK, Local, Run, Source, local, runs};
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::verity::Salt;
use cairn_update::Cause;
use futures_util::{TryStreamExt as _, stream};

use super::old::{Old, pieces};
use super::patience::Patience;
use super::{Fetch, SYNC_EVERY};
use crate::update::effects::{Answer, Body, Effects, GetError, Part};

/// Requests at once: while one waits for its answer, others come.
const REQUESTS: usize = 4;
/// No tree is longer that is held in memory: that of an image of 4 GiB.
const TREE_LIMIT: u64 = 32 << 20;

/// Why no more blocks come.
enum Ended {
    /// The server knows no ranges.
    NoRanges,
    Disk(Cause),
    Network(GetError),
}

impl From<GetError> for Ended {
    fn from(error: GetError) -> Self {
        Self::Network(error)
    }
}

impl From<Cause> for Ended {
    fn from(cause: Cause) -> Self {
        Self::Disk(cause)
    }
}

/// An image that is being put together.
struct Work<'w> {
    part: Part,
    url: &'w str,
    index: &'w BlockIndex,
    salt: &'w Salt,
    state: Mutex<State>,
    progress: &'w (dyn Fn(u64) + Send + Sync),
}

/// Which blocks are there, and checked.
struct State {
    have: Vec<bool>,
    count: u64,
    /// Bytes since the disk was told to keep them.
    unsynced: u64,
}

impl Work<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, block: u32) -> bool {
        self.state().have.get(block as usize) == Some(&true)
    }

    fn is_right(&self, block: u32, bytes: &[u8]) -> bool {
        self.index.digest(block) == Some(&self.salt.digest(bytes).0[..])
    }

    fn got(&self, run: Run) {
        let mut state = self.state();
        for block in run.at..run.end() {
            if let Some(have) = state.have.get_mut(block as usize).filter(|have| !**have) {
                *have = true;
                state.count += 1;
            }
        }
        let bytes = state.count * BLOCK as u64;
        state.unsynced += u64::from(run.count) * BLOCK as u64;
        drop(state);
        (self.progress)(bytes);
    }

    /// What isn't there, but for `copied`.
    fn missing(&self, copied: &[local::Copy]) -> Vec<Run> {
        let state = self.state();
        let mut later = copied.iter().map(|copy| copy.to).peekable();
        let mut missing = Vec::new();
        for (block, have) in (0..).zip(&state.have) {
            while later.next_if(|run| run.end() <= block).is_some() {}
            let is_copied = later.peek().is_some_and(|run| run.at <= block);
            if !have && !is_copied {
                runs::push(&mut missing, block);
            }
        }
        missing
    }
}

impl<E: Effects> Fetch<'_, E> {
    /// The index that an earlier attempt left.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn kept_index(
        &self,
        part: Part,
        image: &Image,
    ) -> Result<Option<BlockIndex>, Cause> {
        if self.length(part)? != image.size || image.verity.tree_size() > TREE_LIMIT {
            return Ok(None);
        }
        let tree = self.read(part, image.verity.hash_offset..image.size)?;
        Ok(image.verity.index(&tree))
    }

    /// The index out of an installed image that is the same.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub(super) fn own_index(
        &self,
        part: Part,
        image: &Image,
        old: &[Old],
    ) -> Result<Option<BlockIndex>, Cause> {
        let range = image.verity.hash_offset..image.size;
        let same = old.iter().find(|old| old.image.verity == image.verity);
        let tree = same.and_then(|old| self.effects.read(&old.version, part, range).ok());
        let Some(tree) = tree else { return Ok(None) };
        let index = image.verity.index(&tree);
        if index.is_some() {
            self.write(part, image.verity.hash_offset, &tree)?;
        }
        Ok(index)
    }

    /// Fetches the index; `None` if the server knows no ranges, or the index is too long to be held.
    ///
    /// # Errors
    /// If the server doesn't have it, or has another one, or nothing came for too long, or the disk doesn't take it.
    pub(super) async fn index(
        &self,
        part: Part,
        image: &Image,
    ) -> Result<Option<BlockIndex>, Cause> {
        if image.verity.tree_size() > TREE_LIMIT {
            return Ok(None);
        }
        let (url, start) = (self.file(part), image.verity.hash_offset);
        let mut patience = Patience::default();
        loop {
            let before = self.length(part)?;
            let error = match self.rest_of_tree(part, &url, image).await {
                Ok(()) => {
                    let tree = self.read(part, start..image.size)?;
                    if let Some(index) = image.verity.index(&tree) {
                        // It says what of the rest is whole.
                        self.sync(part).await?;
                        return Ok(Some(index));
                    }
                    self.discard(part)?;
                    self.reserve(part, image.size)?;
                    GetError::Wrong(wrong("its verity tree is not the one"))
                }
                Err(Ended::NoRanges) => return Ok(None),
                Err(Ended::Disk(cause)) => return Err(cause),
                Err(Ended::Network(error)) => error,
            };
            if self.length(part)? > before {
                patience.progress();
            }
            patience.wait(self.effects, &url, error).await?;
        }
    }

    fn length(&self, part: Part) -> Result<u64, Cause> {
        let length = self.effects.fetched(self.version, part);
        length.map_err(|error| super::disk("read", part, &error))
    }

    /// The tree's bytes are written one after the other, so that the file's length tells how many there are.
    async fn rest_of_tree(&self, part: Part, url: &str, image: &Image) -> Result<(), Ended> {
        let mut at = self.length(part)?.max(image.verity.hash_offset);
        if at >= image.size {
            return Ok(());
        }
        let mut body = self.range(url, at, image.size).await?;
        while at < image.size {
            let bytes = body.chunk().await?.ok_or_else(|| ended(at))?;
            let room = usize::try_from(image.size - at).unwrap_or(usize::MAX);
            let taken = &bytes[..room.min(bytes.len())];
            self.write(part, at, taken)?;
            at += taken.len() as u64;
            self.keep_pace(bytes.len() as u64).await;
        }
        Ok(())
    }

    async fn range(&self, url: &str, from: u64, to: u64) -> Result<E::Body, Ended> {
        let Answer { start, body, .. } = self.effects.get(url, from..to).await?;
        match start {
            start if start == from => Ok(body),
            0 => Err(Ended::NoRanges),
            _ => {
                let reason = format!("asked from byte {from}, got from byte {start}");
                Err(GetError::passing(reason).into())
            }
        }
    }

    /// Puts the image together. Says whether it could: not from a server that knows no ranges.
    ///
    /// # Errors
    /// If the server doesn't have it, or has another one, or nothing came for too long, or the disk doesn't take it.
    pub(super) async fn blocks(
        &self,
        part: Part,
        image: &Image,
        index: &BlockIndex,
        old: &[Old],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<bool, Cause> {
        let salt = &image.verity.salt;
        let work = Work {
            part,
            url: &self.file(part),
            index,
            salt,
            state: Mutex::new(State {
                have: vec![false; index.blocks()],
                count: 0,
                unsynced: 0,
            }),
            progress,
        };
        self.look(&work).await?;
        let mut indexes = Vec::new();
        for one in old {
            indexes.push(one.index(self.effects, part, salt).await);
        }
        let local = Local::of(index, &indexes.iter().collect::<Vec<_>>());
        drop(indexes);
        let (itself, others): (Vec<_>, Vec<_>) = local
            .copies
            .into_iter()
            .partition(|copy| copy.source == Source::Itself);
        for copy in &others {
            if let Source::Image(number) = copy.source
                && let Some(old) = old.get(number)
            {
                self.copy(&work, copy, &old.version).await?;
            }
        }
        let missing = runs::bytes(&work.missing(&itself));
        tracing::info!(
            file = part.name(),
            bytes = missing,
            of = image.size,
            "fetching the blocks that aren't here"
        );
        if !self.missing(&work, &itself).await? {
            return Ok(false);
        }
        for copy in &itself {
            self.copy(&work, copy, self.version).await?;
        }
        // An older image had other bytes than its tree says, and they were needed twice.
        if !self.missing(&work, &[]).await? {
            return Ok(false);
        }
        self.sync(part).await?;
        Ok(true)
    }

    /// Sees what an earlier attempt left.
    async fn look(&self, work: &Work<'_>) -> Result<(), Cause> {
        for piece in pieces(work.index.blocks() as u64) {
            let bytes = self.read(work.part, piece.bytes())?;
            for (block, bytes) in (piece.at..).zip(bytes.chunks_exact(BLOCK)) {
                if work.is_right(block, bytes) {
                    work.got(Run {
                        at: block,
                        count: 1,
                    });
                }
            }
            tokio::task::yield_now().await;
        }
        work.state().unsynced = 0;
        Ok(())
    }

    /// Copies what isn't there yet; what can't be read or is another block stays missing.
    async fn copy(
        &self,
        work: &Work<'_>,
        copy: &local::Copy,
        from: &cairn_release::Version,
    ) -> Result<(), Cause> {
        for done in (0..copy.to.count).step_by(PIECE as usize) {
            let count = PIECE.min(copy.to.count - done);
            let source = Run {
                at: copy.from + done,
                count,
            };
            let first = copy.to.at + done;
            if (first..first + count).all(|block| work.has(block)) {
                continue;
            }
            let Ok(bytes) = self.effects.read(from, work.part, source.bytes()) else {
                continue;
            };
            let blocks = (first..).zip(bytes.chunks_exact(BLOCK));
            self.take(work, blocks)?;
            self.keep(work).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes those of these blocks that are right and weren't there. Gives the first that is wrong.
    fn take<'b>(
        &self,
        work: &Work<'_>,
        blocks: impl Iterator<Item = (u32, &'b [u8])>,
    ) -> Result<Option<u32>, Cause> {
        let mut wrong = None;
        let mut right: Option<(Run, Vec<u8>)> = None;
        let write = |(run, bytes): (Run, Vec<u8>)| {
            self.write(work.part, run.bytes().start, &bytes)?;
            work.got(run);
            Ok::<_, Cause>(())
        };
        for (block, bytes) in blocks {
            let fits = work.is_right(block, bytes);
            if !fits {
                wrong = wrong.or(Some(block));
            }
            if fits && !work.has(block) {
                match &mut right {
                    Some((run, together)) if run.end() == block => {
                        run.count += 1;
                        together.extend_from_slice(bytes);
                        continue;
                    }
                    _ => {}
                }
                let run = Run {
                    at: block,
                    count: 1,
                };
                if let Some(before) = right.replace((run, bytes.to_vec())) {
                    write(before)?;
                }
            }
        }
        right.map_or(Ok(()), write)?;
        Ok(wrong)
    }

    /// Sees what was written onto the disk, now and then.
    async fn keep(&self, work: &Work<'_>) -> Result<(), Cause> {
        let much = {
            let mut state = work.state();
            let much = state.unsynced >= SYNC_EVERY;
            if much {
                state.unsynced = 0;
            }
            much
        };
        if much {
            self.sync(work.part).await?;
        }
        Ok(())
    }

    /// Fetches what is missing but for `copied`. Says whether the server knows ranges.
    async fn missing(&self, work: &Work<'_>, copied: &[local::Copy]) -> Result<bool, Cause> {
        let mut patience = Patience::default();
        loop {
            let missing = work.missing(copied);
            if missing.is_empty() {
                return Ok(true);
            }
            let before = work.state().count;
            let requests = missing.into_iter().map(|run| Ok(self.run(work, run)));
            let ended = stream::iter(requests)
                .try_buffer_unordered(REQUESTS)
                .try_for_each(|()| std::future::ready(Ok(())))
                .await;
            match ended {
                Ok(()) => {}
                Err(Ended::NoRanges) => return Ok(false),
                Err(Ended::Disk(cause)) => return Err(cause),
                Err(Ended::Network(error)) => {
                    if work.state().count > before {
                        patience.progress();
                    }
                    tracing::info!(file = work.part.name(), %error, "the download broke off and goes on");
                    patience.wait(self.effects, work.url, error).await?;
                }
            }
        }
    }

    /// One request. Each block is checked before it counts.
    async fn run(&self, work: &Work<'_>, run: Run) -> Result<(), Ended> {
        let range = run.bytes();
        let mut body = self.range(work.url, range.start, range.end).await?;
        let (mut block, mut came) = (run.at, Vec::new());
        while block < run.end() {
            let place = u64::from(block) * BLOCK as u64 + came.len() as u64;
            let bytes = body.chunk().await?.ok_or_else(|| ended(place))?;
            came.extend_from_slice(&bytes);
            let blocks = (block..run.end()).zip(came.chunks_exact(BLOCK));
            let whole = blocks.len();
            if let Some(wrong_one) = self.take(work, blocks)? {
                let what = format!("block {wrong_one} is not the one");
                return Err(GetError::Wrong(wrong(&what)).into());
            }
            came.drain(..whole * BLOCK);
            block += u32::try_from(whole).unwrap_or(u32::MAX);
            self.keep(work).await?;
            self.keep_pace(bytes.len() as u64).await;
        }
        Ok(())
    }
}

fn ended(at: u64) -> GetError {
    GetError::passing(format!("the answer ended at byte {at}"))
}

fn wrong(what: &str) -> String {
    format!("{what} that the release's manifest names; the server has another file")
}
