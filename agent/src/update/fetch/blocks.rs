//! An image block by block: from older images, from what an interrupted download left, and only what is nowhere from the
//! server.
//!
//! The verity tree at the image's end is its index: it has a digest of each block, and the signed manifest has the digest
//! of the tree. It is fetched first and kept in its place, so that after an interruption each block that is there is known.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use cairn_delta::apply::PIECE;
use cairn_delta::{BLOCK, Local, Run, Source, local, runs};
use cairn_release::Version;
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_update::Cause;
use futures_util::{TryStreamExt as _, stream};

use super::old::{Old, pieces};
use super::{Fetch, ImageWanted, SYNC_EVERY, patch};
use crate::update::effects::{Answer, Body, Effects, GetError, Part};

/// Requests at once: while one waits for its answer, others come.
pub(super) const REQUESTS: usize = 4;
/// No tree is longer that is held in memory: that of an image of 4 GiB.
const TREE_LIMIT: u64 = 32 << 20;
/// How long one request to a neighbour may take, in milliseconds, and for how many bytes.
const NEAR_MS: u64 = 60_000;
const NEAR_BYTES: u64 = 1 << 20;

/// Why no more blocks come.
pub(super) enum Ended {
    /// The server knows no ranges, or the index is too long to be held.
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

/// Where the image's bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    /// On the server.
    Far(&'p str),
    /// At a neighbour.
    Near(&'p str),
}

/// An image that is being put together. Which blocks are there says its offer.
pub(super) struct Work {
    index: BlockIndex,
    /// What is copied within the image at the end.
    itself: Vec<local::Copy>,
    /// Bytes since the disk was told to keep them.
    unsynced: AtomicU64,
}

impl ImageWanted<'_> {
    fn is_right(&self, block: u32, bytes: &[u8]) -> bool {
        let digest = self.work.as_ref().and_then(|work| work.index.digest(block));
        digest == Some(&self.image.verity.salt.digest(bytes).0[..])
    }

    fn got(&self, run: Run) {
        let bytes = self.offer.got(run.at..run.end()) * BLOCK as u64;
        if let Some(work) = &self.work {
            work.unsynced
                .fetch_add(u64::from(run.count) * BLOCK as u64, Relaxed);
        }
        (self.progress)(bytes);
    }

    /// What isn't there, but for what will be copied within the image.
    pub(super) fn missing(&self) -> Vec<Run> {
        let itself = self.work.iter().flat_map(|work| &work.itself);
        let mut later = itself.map(|copy| copy.to).peekable();
        let mut missing = Vec::new();
        for block in self.offer.missing() {
            while later.next_if(|run| run.end() <= block).is_some() {}
            if later.peek().is_none_or(|run| run.at > block) {
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

    /// Fetches the index from the server.
    ///
    /// # Errors
    /// If it isn't there, or is another one, or the disk doesn't take it.
    pub(super) async fn index(&self, wanted: &ImageWanted<'_>) -> Result<BlockIndex, Ended> {
        let ImageWanted { part, image, .. } = *wanted;
        if image.verity.tree_size() > TREE_LIMIT {
            return Err(Ended::NoRanges);
        }
        self.rest_of_tree(wanted).await?;
        let tree = self.read(part, image.verity.hash_offset..image.size)?;
        if let Some(index) = image.verity.index(&tree) {
            // It says what of the rest is whole.
            self.sync(part).await?;
            return Ok(index);
        }
        self.discard(part)?;
        self.reserve(part, image.size)?;
        Err(GetError::Wrong(wrong("its verity tree is not the one")).into())
    }

    /// Gets the index from a neighbour, all of it or nothing.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn index_near(
        &self,
        wanted: &ImageWanted<'_>,
        url: &str,
    ) -> Result<BlockIndex, Ended> {
        let ImageWanted { part, image, .. } = *wanted;
        let size = image.verity.tree_size();
        if size > TREE_LIMIT {
            return Err(GetError::passing("its tree is too long").into());
        }
        let began = self.effects.uptime_ms();
        let limit = NEAR_MS * (1 + size / NEAR_BYTES);
        let start = image.verity.hash_offset;
        let mut body = self.range(Place::Near(url), start..image.size).await?;
        let mut tree = Vec::new();
        while (tree.len() as u64) < size {
            let at = start + tree.len() as u64;
            tree.extend_from_slice(&body.chunk().await?.ok_or_else(|| ended(at))?);
            if self.effects.uptime_ms().saturating_sub(began) > limit {
                return Err(GetError::passing("the neighbour is too slow").into());
            }
        }
        tree.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let index = image.verity.index(&tree);
        let index =
            index.ok_or_else(|| GetError::Wrong(wrong("its verity tree is not the one")))?;
        self.write(part, start, &tree)?;
        self.sync(part).await?;
        Ok(index)
    }

    pub(super) fn length(&self, part: Part) -> Result<u64, Cause> {
        let length = self.effects.fetched(self.version, part);
        length.map_err(|error| super::disk("read", part, &error))
    }

    /// The tree's bytes are written one after the other, so that the file's length tells how many there are.
    async fn rest_of_tree(&self, wanted: &ImageWanted<'_>) -> Result<(), Ended> {
        let ImageWanted { part, image, .. } = *wanted;
        let start = image.verity.hash_offset;
        let mut at = self.length(part)?.max(start);
        if at >= image.size {
            return Ok(());
        }
        let far = Place::Far(wanted.url);
        let mut body = self.range(far, at..image.size).await?;
        while at < image.size {
            let bytes = body.chunk().await?.ok_or_else(|| ended(at))?;
            let room = usize::try_from(image.size - at).unwrap_or(usize::MAX);
            let taken = &bytes[..room.min(bytes.len())];
            self.write(part, at, taken)?;
            at += taken.len() as u64;
            wanted.offer.progress(at - start);
            self.came(far, bytes.len()).await;
        }
        Ok(())
    }

    async fn range(&self, place: Place<'_>, range: Range<u64>) -> Result<E::Body, Ended> {
        let from = range.start;
        let Answer { start, body, .. } = match place {
            Place::Far(url) => self.effects.get(url, range).await?,
            Place::Near(url) => self.effects.get_near(url, range).await?,
        };
        match start {
            start if start == from => Ok(body),
            0 => Err(Ended::NoRanges),
            _ => {
                let reason = format!("asked from byte {from}, got from byte {start}");
                Err(GetError::passing(reason).into())
            }
        }
    }

    /// What comes from far keeps to the rate.
    async fn came(&self, place: Place<'_>, bytes: usize) {
        if let Place::Far(_) = place {
            self.keep_pace(bytes as u64).await;
        }
    }

    /// Now that the index is known, and no patch is needed: sees what is there of the image, and copies what older ones
    /// have of it.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) async fn begin(
        &self,
        wanted: &mut ImageWanted<'_>,
        index: BlockIndex,
    ) -> Result<(), Cause> {
        let ImageWanted { part, image, .. } = *wanted;
        self.discard(patch::of(part))?;
        wanted.offer.begin(index.blocks());
        let mut indexes = Vec::new();
        for old in wanted.old {
            indexes.push(old.index(self.effects, part, &image.verity.salt).await);
        }
        let local = Local::of(&index, &indexes.iter().collect::<Vec<_>>());
        drop(indexes);
        let (itself, others): (Vec<_>, Vec<_>) = local
            .copies
            .into_iter()
            .partition(|copy| copy.source == Source::Itself);
        wanted.work = Some(Work {
            index,
            itself,
            unsynced: AtomicU64::new(0),
        });
        self.look(wanted).await?;
        for copy in &others {
            if let Source::Image(number) = copy.source
                && let Some(old) = wanted.old.get(number)
            {
                self.copy(wanted, copy, &old.version).await?;
            }
        }
        let missing = runs::bytes(&wanted.missing());
        tracing::info!(
            file = part.name(),
            bytes = missing,
            of = image.size,
            "some blocks aren't here"
        );
        Ok(())
    }

    /// Fetches the missing blocks from the server.
    ///
    /// # Errors
    /// If the server doesn't have them, or the disk doesn't take them.
    pub(super) async fn blocks(&self, wanted: &mut ImageWanted<'_>) -> Result<(), Ended> {
        loop {
            let requests = wanted.missing().into_iter();
            let far = Place::Far(wanted.url);
            let requests = requests.map(|run| Ok(self.run(wanted, far, run)));
            stream::iter(requests)
                .try_buffer_unordered(REQUESTS)
                .try_for_each(|()| std::future::ready(Ok(())))
                .await?;
            if self.finish(wanted).await? {
                return Ok(());
            }
        }
    }

    /// Once nothing else is missing: copies within the image. Says whether all is there now: not if an older image had
    /// other bytes than its tree says, and they were needed twice.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) async fn finish(&self, wanted: &mut ImageWanted<'_>) -> Result<bool, Cause> {
        let itself = wanted.work.as_ref().map(|work| work.itself.clone());
        for copy in itself.iter().flatten() {
            self.copy(wanted, copy, self.version).await?;
        }
        if let Some(work) = &mut wanted.work {
            work.itself.clear();
        }
        if !wanted.missing().is_empty() {
            return Ok(false);
        }
        self.sync(wanted.part).await?;
        Ok(true)
    }

    /// Sees what an earlier attempt left.
    async fn look(&self, wanted: &ImageWanted<'_>) -> Result<(), Cause> {
        for piece in pieces(wanted.image.verity.data_blocks) {
            let bytes = self.read(wanted.part, piece.bytes())?;
            for (block, bytes) in (piece.at..).zip(bytes.chunks_exact(BLOCK)) {
                if wanted.is_right(block, bytes) {
                    wanted.got(Run {
                        at: block,
                        count: 1,
                    });
                }
            }
            tokio::task::yield_now().await;
        }
        if let Some(work) = &wanted.work {
            work.unsynced.store(0, Relaxed);
        }
        Ok(())
    }

    /// Copies what isn't there yet; what can't be read or is another block stays missing.
    async fn copy(
        &self,
        wanted: &ImageWanted<'_>,
        copy: &local::Copy,
        from: &Version,
    ) -> Result<(), Cause> {
        for done in (0..copy.to.count).step_by(PIECE as usize) {
            let count = PIECE.min(copy.to.count - done);
            let source = Run {
                at: copy.from + done,
                count,
            };
            let first = copy.to.at + done;
            if (first..first + count).all(|block| wanted.offer.has(block)) {
                continue;
            }
            let Ok(bytes) = self.effects.read(from, wanted.part, source.bytes()) else {
                continue;
            };
            let blocks = (first..).zip(bytes.chunks_exact(BLOCK));
            let place = |at: u64| at - u64::from(first) * BLOCK as u64 + source.bytes().start;
            self.take(wanted, blocks, |at, bytes| {
                self.share(wanted.part, at, bytes, (from, place(at)))
            })?;
            self.keep(wanted).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Has those of these blocks written that are right and weren't there. Gives the first that is wrong.
    fn take<'b>(
        &self,
        wanted: &ImageWanted<'_>,
        blocks: impl Iterator<Item = (u32, &'b [u8])>,
        write: impl Fn(u64, &[u8]) -> Result<(), Cause>,
    ) -> Result<Option<u32>, Cause> {
        let mut wrong = None;
        let mut right: Option<(Run, Vec<u8>)> = None;
        let done = |(run, bytes): (Run, Vec<u8>)| {
            write(run.bytes().start, &bytes)?;
            wanted.got(run);
            Ok::<_, Cause>(())
        };
        for (block, bytes) in blocks {
            let fits = wanted.is_right(block, bytes);
            if !fits {
                wrong = wrong.or(Some(block));
            }
            if fits && !wanted.offer.has(block) {
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
                    done(before)?;
                }
            }
        }
        right.map_or(Ok(()), done)?;
        Ok(wrong)
    }

    /// Sees what was written onto the disk, now and then.
    async fn keep(&self, wanted: &ImageWanted<'_>) -> Result<(), Cause> {
        if let Some(work) = &wanted.work
            && work.unsynced.load(Relaxed) >= SYNC_EVERY
        {
            work.unsynced.store(0, Relaxed);
            self.sync(wanted.part).await?;
        }
        Ok(())
    }

    /// One request. Each block is checked before it counts.
    ///
    /// # Errors
    /// If the blocks aren't there, or are others, or the disk doesn't take them.
    pub(super) async fn run(
        &self,
        wanted: &ImageWanted<'_>,
        place: Place<'_>,
        run: Run,
    ) -> Result<(), Ended> {
        let began = self.effects.uptime_ms();
        let mut body = self.range(place, run.bytes()).await?;
        let (mut block, mut came) = (run.at, Vec::new());
        while block < run.end() {
            let at = u64::from(block) * BLOCK as u64 + came.len() as u64;
            let bytes = body.chunk().await?.ok_or_else(|| ended(at))?;
            came.extend_from_slice(&bytes);
            let blocks = (block..run.end()).zip(came.chunks_exact(BLOCK));
            let whole = blocks.len();
            let write = |at, bytes: &[u8]| self.write(wanted.part, at, bytes);
            if let Some(wrong_one) = self.take(wanted, blocks, write)? {
                let what = format!("block {wrong_one} is not the one");
                return Err(GetError::Wrong(wrong(&what)).into());
            }
            came.drain(..whole * BLOCK);
            block += u32::try_from(whole).unwrap_or(u32::MAX);
            self.keep(wanted).await?;
            self.came(place, bytes.len()).await;
            let took = self.effects.uptime_ms().saturating_sub(began);
            if matches!(place, Place::Near(_)) && took > NEAR_MS && block < run.end() {
                // What came is good, and others may be quicker with the rest.
                let some = block > run.at;
                let slow = GetError::passing("the neighbour is too slow");
                return if some { Ok(()) } else { Err(slow.into()) };
            }
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
