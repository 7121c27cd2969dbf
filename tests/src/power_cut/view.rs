//! What somebody finds on a disk who starts from it now: GRUB, which reads the boot
//! state and the releases without replaying a journal, and then the hook, whose kernel
//! has replayed it.
//!
//! A digest is taken again only if the file lies elsewhere or one of its blocks was
//! written to; that makes a look at a state cost about 50 ms.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_boot_state::{BootState, Copy, Picked, candidates, pick};
use cairn_release::manifest::Image;
use cairn_release::{Digest, Manifest, TrustRoot, Version, name};

use super::ext4::{BLOCK, Ext4, Placement};
use super::grub::{Entry, Grub};
use crate::Disk;

/// No manifest is larger.
const LARGEST_MANIFEST: u64 = 1 << 20;
/// What GRUB loads from a kernel container.
const LOADED: [&str; 6] = [
    "boot.env",
    "boot.env.sig",
    "initramfs.img",
    "initramfs.img.sig",
    "vmlinuz",
    "vmlinuz.sig",
];

/// One release, or why it can't be started from there.
pub type Sight = Result<(), String>;

/// A release that the boot state names, or that GRUB would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub version: Version,
    /// What GRUB reads of it.
    pub by_grub: Sight,
    /// What the hook reads of it.
    pub by_hook: Sight,
}

/// A disk as it is found.
#[derive(Debug, Clone)]
pub struct View {
    /// The boot state, both copies.
    pub boot: Picked,
    /// The releases that GRUB finds, newest first.
    pub installed: Vec<Version>,
    /// Those that matter.
    pub seen: Vec<Seen>,
    /// Why DATA can't be mounted, if so.
    pub data: Sight,
}

/// What is installed, and how those of them look that matter.
type ByGrub = (Vec<Version>, Vec<(Version, Sight)>);

struct Known {
    places: Vec<Range<u64>>,
    digest: Digest,
    bytes: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    by_grub: bool,
    file: String,
    placement: Placement,
}

/// Looks at an image again and again as it changes.
pub struct Onlooker {
    image: PathBuf,
    grub: Grub,
    ext4: Ext4,
    scratch: PathBuf,
    esp: Range<u64>,
    data: Range<u64>,
    trust: TrustRoot,
    known: HashMap<Key, Known>,
    readable: HashSet<Digest>,
    last: Option<View>,
    /// How often a look was answered by the one before, since nothing had changed.
    pub skipped: usize,
}

impl Onlooker {
    /// On an image of a disk, trusting what `trust` trusts; `scratch` is a folder.
    ///
    /// # Errors
    /// If it isn't a disk of ours.
    pub fn new(image: &Path, trust: TrustRoot, scratch: &Path) -> Result<Self> {
        let disk = Disk::open(image)?;
        let range = |name| -> Result<Range<u64>> {
            let partition = disk.partition(name)?;
            Ok(partition.start..partition.start + partition.size)
        };
        let (esp, data) = (range("cairn-esp")?, range("cairn-data")?);
        let ext4 = Ext4::open(image, data.clone())?;
        Ok(Self {
            image: image.to_owned(),
            grub: Grub::on(image),
            ext4,
            scratch: scratch.to_owned(),
            esp,
            data,
            trust,
            known: HashMap::new(),
            readable: HashSet::new(),
            last: None,
            skipped: 0,
        })
    }

    /// Where DATA begins, in bytes of the disk.
    pub fn data_start(&self) -> u64 {
        self.data.start
    }

    /// Looks; `touched` is what was written since the last look.
    ///
    /// # Errors
    /// If a tool is missing. Whatever is wrong with the disk is in the view.
    pub fn look(&mut self, touched: &[Range<u64>]) -> Result<View> {
        let inside = |range: &Range<u64>, outer: &Range<u64>| {
            range.start >= outer.start && range.end <= outer.end
        };
        let state = touched.iter().any(|range| meets(range, &self.esp));
        let data: Vec<_> = touched
            .iter()
            .filter(|range| meets(range, &self.data))
            .collect();
        let beside_journal = data.iter().any(|range| {
            !self
                .ext4
                .journal()
                .iter()
                .any(|journal| inside(range, journal))
        });
        self.known.retain(|_, known| {
            let hit = |place: &Range<u64>| touched.iter().any(|range| meets(range, place));
            !known.places.iter().any(hit)
        });

        for range in touched {
            self.ext4.changed(range);
        }

        let last = self.last.take();
        let view = match last {
            Some(last) if !state && data.is_empty() => {
                self.skipped += 1;
                last
            }
            last => self.look_again(last, state, beside_journal)?,
        };
        self.last = Some(view.clone());
        Ok(view)
    }

    /// Compares the last look with what e2fsck makes of a copy, and lets it check the
    /// whole file system.
    ///
    /// # Errors
    /// With what it finds, or where it and this program disagree.
    pub fn check_data(&mut self) -> Result<()> {
        let seen = self.last.iter().flat_map(|view| &view.seen);
        let all: Vec<String> = seen.flat_map(|seen| paths(&seen.version)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let theirs = self.ext4.second_opinion(&self.scratch, &all)?;
        self.ext4.replay()?;
        let ours = self.ext4.placements(&all);
        self.ext4.take_back()?;
        ensure!(
            ours? == theirs,
            "e2fsck replays the journal in another way than this program"
        );
        Ok(())
    }

    fn look_again(
        &mut self,
        last: Option<View>,
        state: bool,
        beside_journal: bool,
    ) -> Result<View> {
        let boot = match &last {
            Some(last) if !state => last.boot.clone(),
            _ => {
                let read = |copy: Copy| {
                    let path = format!("(loop0,gpt2)/{}", copy.path());
                    self.grub.read(&path).unwrap_or_default()
                };
                pick(&read(Copy::A), &read(Copy::B))
            }
        };
        let (installed, by_grub) = match &last {
            // Only the journal changed, which GRUB doesn't read.
            Some(last) if !state && !beside_journal => {
                let sights = last
                    .seen
                    .iter()
                    .map(|seen| (seen.version.clone(), seen.by_grub.clone()));
                (last.installed.clone(), sights.collect())
            }
            _ => self.look_as_grub(&boot.state)?,
        };
        let versions: Vec<Version> = by_grub.iter().map(|(version, _)| version.clone()).collect();
        let (data, by_hook) = self.look_as_hook(&versions)?;
        let seen = by_grub.into_iter().zip(by_hook);
        let seen = seen.map(|((version, by_grub), by_hook)| Seen {
            version,
            by_grub,
            by_hook,
        });
        Ok(View {
            boot,
            installed,
            seen: seen.collect(),
            data,
        })
    }

    fn look_as_grub(&mut self, state: &BootState) -> Result<ByGrub> {
        let found = self.grub.releases()?;
        let installed: Vec<Version> = found.iter().map(|(version, _)| version.clone()).collect();
        let mut wanted = names(state);
        // Without a state, or with no tries left, it is another one.
        let first = candidates(state, &installed).into_iter().next();
        let first = first.map(|first| first.version);
        wanted.extend(first.filter(|first| !wanted.contains(first)));
        let mut sights = Vec::new();
        for version in wanted {
            let files = found.iter().find(|(found, _)| *found == version);
            let sight = match files {
                None => Err("GRUB finds no such folder".to_owned()),
                Some((_, files)) => self.release_by_grub(&version, files),
            };
            sights.push((version, sight));
        }
        Ok((installed, sights))
    }

    fn release_by_grub(&mut self, version: &Version, files: &[Entry]) -> Sight {
        for file in [name::MANIFEST, name::KERNEL, name::ROOT] {
            if !files
                .iter()
                .any(|entry| entry.name == file && entry.size.is_some())
            {
                return Err(format!("GRUB finds no {file}"));
            }
        }
        let paths = paths(version);
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let places = self.ext4.placements(&paths).map_err(said)?;
        let manifest = self.manifest(true, version, &paths, &places)?;
        let digest = self.image(true, &paths, &places, 1, &manifest.kernel.image)?;
        self.container(digest, paths[1]).map_err(said)
    }

    fn look_as_hook(&mut self, versions: &[Version]) -> Result<(Sight, Vec<Sight>)> {
        if let Err(error) = self.ext4.replay() {
            self.ext4.take_back()?;
            let reason = format!("DATA can't be mounted: {error:#}");
            let sights = versions.iter().map(|_| Err(reason.clone())).collect();
            return Ok((Err(reason), sights));
        }
        let all: Vec<String> = versions.iter().flat_map(paths).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let sights = match self.ext4.placements(&all) {
            Err(error) => versions.iter().map(|_| Err(format!("{error:#}"))).collect(),
            Ok(places) => {
                let releases = versions.iter().zip(all.chunks(3).zip(places.chunks(3)));
                releases
                    .map(|(version, (paths, places))| self.release_by_hook(version, paths, places))
                    .collect()
            }
        };
        self.ext4.take_back()?;
        Ok((Ok(()), sights))
    }

    fn release_by_hook(
        &mut self,
        version: &Version,
        paths: &[&str],
        places: &[Option<Placement>],
    ) -> Sight {
        let manifest = self.manifest(false, version, paths, places)?;
        self.image(false, paths, places, 1, &manifest.kernel.image)?;
        self.image(false, paths, places, 2, &manifest.root)?;
        Ok(())
    }

    fn manifest(
        &mut self,
        by_grub: bool,
        version: &Version,
        paths: &[&str],
        places: &[Option<Placement>],
    ) -> Result<Manifest, String> {
        let (file, trust) = (name::MANIFEST, self.trust.clone());
        let known = self.known(by_grub, paths[0], &places[0])?;
        let bytes = known
            .bytes
            .as_deref()
            .ok_or(format!("{file} is too large"))?;
        let manifest = trust.parse_manifest(bytes);
        let manifest = manifest.map_err(|error| format!("{file} is not trusted: {error}"))?;
        match manifest.version == *version {
            true => Ok(manifest),
            false => Err(format!("{file} is of release {}", manifest.version)),
        }
    }

    fn image(
        &mut self,
        by_grub: bool,
        paths: &[&str],
        places: &[Option<Placement>],
        which: usize,
        image: &Image,
    ) -> Result<Digest, String> {
        let (path, place) = (paths[which], &places[which]);
        let size = place.as_ref().map_or(0, |place| place.size);
        if size != image.size {
            return Err(format!("{path}: expected {} bytes, got {size}", image.size));
        }
        match self.known(by_grub, path, place)?.digest {
            digest if digest == image.sha256 => Ok(digest),
            digest => Err(format!("{path}: expected {}, got {digest}", image.sha256)),
        }
    }

    /// A file's digest; of a small one, the bytes too.
    fn known(
        &mut self,
        by_grub: bool,
        path: &str,
        place: &Option<Placement>,
    ) -> Result<&Known, String> {
        let placement = place.clone().ok_or_else(|| format!("{path} is missing"))?;
        let key = Key {
            by_grub,
            file: path.to_owned(),
            placement,
        };
        if !self.known.contains_key(&key) {
            let known = self
                .take_digest(&key)
                .map_err(|error| format!("{path}: {error:#}"))?;
            self.known.insert(key.clone(), known);
        }
        self.known
            .get(&key)
            .ok_or_else(|| format!("{path} is missing"))
    }

    fn take_digest(&self, key: &Key) -> Result<Known> {
        let bytes = match key.by_grub {
            true => self.grub.read(&format!("(loop0,gpt3){}", key.file))?,
            false => self.read_placed(&key.placement)?,
        };
        Ok(Known {
            places: self.ext4.ranges(&key.placement),
            digest: Digest::of(&bytes),
            bytes: (key.placement.size <= LARGEST_MANIFEST).then_some(bytes),
        })
    }

    /// The bytes as the kernel reads them: zeros where nothing was ever written.
    fn read_placed(&self, placement: &Placement) -> Result<Vec<u8>> {
        let disk = File::open(&self.image)?;
        ensure!(
            placement.size <= self.data.end - self.data.start,
            "larger than DATA: {} bytes",
            placement.size
        );
        let mut bytes = vec![0; usize::try_from(placement.size)?];
        for extent in placement.extents.iter().filter(|extent| !extent.unwritten) {
            let start = extent.logical * BLOCK;
            let end = (start + extent.blocks * BLOCK).min(placement.size);
            if start < end {
                let part = usize::try_from(start)?..usize::try_from(end)?;
                let place = self.data.start + extent.physical * BLOCK;
                let part = bytes.get_mut(part).context("an extent beyond the file")?;
                disk.read_exact_at(part, place)?;
            }
        }
        Ok(bytes)
    }

    /// That GRUB can read what it loads from the container of this digest.
    fn container(&mut self, digest: Digest, path: &str) -> Result<()> {
        if self.readable.contains(&digest) {
            return Ok(());
        }
        let copy = self.scratch.join("kernel.squashfs");
        std::fs::write(&copy, self.grub.read(&format!("(loop0,gpt3){path}"))?)?;
        let inside = Grub::on(&copy);
        for file in LOADED {
            inside.can_read(&format!("(loop0)/{file}"))?;
        }
        std::fs::remove_file(copy)?;
        self.readable.insert(digest);
        Ok(())
    }
}

/// The releases that a boot state makes GRUB start first: the trial and the good one.
fn names(state: &BootState) -> Vec<Version> {
    let trial = state
        .trial
        .iter()
        .filter(|trial| state.trial_tries > 0 && !state.has_failed(trial));
    let names: BTreeSet<Version> = trial.chain(&state.good).cloned().collect();
    names.into_iter().collect()
}

fn paths(version: &Version) -> [String; 3] {
    [name::MANIFEST, name::KERNEL, name::ROOT].map(|file| format!("/releases/{version}/{file}"))
}

fn meets(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn said(error: anyhow::Error) -> String {
    format!("{error:#}")
}
