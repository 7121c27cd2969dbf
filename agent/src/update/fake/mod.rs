//! A world in memory: a disk, a bootloader, a release store and a power plug, all of which can fail at any moment.

mod effects;
mod neighbour;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_boot_state::transition::Event;
use cairn_boot_state::{BootState, Slot, Tries, candidates, pick};
use cairn_delta::make::make;
use cairn_release::manifest::Image;
use cairn_release::trust::Role;
use cairn_release::verity::{Builder, Salt};
use cairn_release::{
    BLOCK, Digest, Envelope, Manifest, SecretKey, Sequence, TrustRoot, Version, manifest,
};
use cairn_wire::{ReleaseOrder, UpdateReport, UpdateState, When};

use super::effects::Part;
use crate::neighbours::Offer;

pub use effects::Fake;
pub use neighbour::{FakeNeighbour, Manner};

/// More side effects than any update needs: something goes round in circles.
const TOO_MANY: u64 = 20_000;
/// Bytes of one piece of an answer.
const PIECE: usize = 4096;

/// Why an agent's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// kill -9.
    Killed,
    /// The plug was pulled.
    PowerCut,
    /// The node restarts in good order.
    Restart,
}

/// What goes wrong, and at which side effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The life ends before the effect.
    Before(u64, End),
    /// The life ends after it.
    After(u64, End),
    /// The power goes within it: what can be half done is.
    Torn(u64),
    /// It fails.
    Fails(u64, Trouble),
    /// From here on all of its kind fail.
    FailsFromOn(u64, Trouble),
}

/// How an effect fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// ENOSPC
    Full,
    /// EIO
    Broken,
    /// Fewer bytes than there are.
    Short,
    /// The network, in one of its ways.
    Net(Net),
}

/// How the network fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    TimeOut,
    NotFound,
    Truncated,
    WrongRange,
    RangeIgnored,
    Endless,
    BeyondEnd,
    ServerError,
}

/// What a release does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Works,
    Panics,
    Unhealthy,
    /// The initramfs gives it up and says so.
    GivenUp,
    /// It never reaches the control plane.
    NoNetwork,
}

type Files = BTreeMap<Part, Vec<u8>>;

/// What outlives an agent.
pub struct World {
    pub state: Option<Vec<u8>>,
    pub installed: BTreeMap<Version, Files>,
    pub partial: BTreeMap<Version, Files>,
    pub boot: [Vec<u8>; 2],
    pub store: BTreeMap<String, Vec<u8>>,
    pub trust: Vec<Vec<u8>>,
    pub behaviour: BTreeMap<Version, Behaviour>,
    pub running: Version,
    pub slot: Slot,
    pub boots: u32,
    pub uptime_ms: u64,
    pub wall: Option<i64>,
    pub free: u64,
    pub reports: Vec<UpdateReport>,
    pub evidence: BTreeMap<String, Vec<u8>>,
    pub declared: bool,
    pub control_plane: bool,
    pub fault: Option<Fault>,
    pub calls: u64,
    pub log: Vec<String>,
    /// How often each file was asked for.
    pub asked: Vec<(String, u64)>,
    /// So many more times the disk has lost a bit of this file when it is read back.
    pub rots: BTreeMap<Part, u32>,
    /// The agent reads another byte here, in a file of an installed release.
    pub weak: Option<(Part, usize)>,
    /// The store knows no ranges.
    pub no_ranges: bool,
    /// Bytes that came over the network.
    pub traffic: u64,
    /// The other nodes of the site.
    pub neighbours: Vec<FakeNeighbour>,
    /// What this node had for them.
    pub offered: Vec<Arc<Offer>>,
}

pub fn version(text: &str) -> Version {
    text.parse().unwrap()
}

pub fn root_key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

pub fn release_key() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

pub fn trust_root(number: u64, release: &SecretKey) -> Vec<u8> {
    let role = |key: &SecretKey| Role {
        threshold: 1,
        keys: vec![key.public()],
    };
    let trust = TrustRoot {
        format: cairn_release::trust::FORMAT,
        version: number,
        expires: None,
        root: role(&root_key()),
        release: role(release),
        boot_key: None,
        revoked: Vec::new(),
    };
    let mut envelope = trust.to_envelope();
    envelope.sign(&root_key());
    envelope.to_json()
}

/// An image of these blocks, with its tree.
pub fn image(mut bytes: Vec<u8>) -> (Image, Vec<u8>) {
    let mut tree = Builder::new(Salt::default());
    bytes.chunks(BLOCK).for_each(|block| tree.push(block));
    let (tree, verity) = tree.finish();
    bytes.extend(tree);
    let image = Image {
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
        index: Digest::of(b"index"),
        verity,
    };
    (image, bytes)
}

/// Five blocks: two that all releases have, one of them twice, and two of its own.
fn blocks(what: &str, name: &str) -> Vec<u8> {
    let texts = [
        format!("{what} of all "),
        format!("{what} of {name} "),
        format!("more {what} of all "),
        format!("{what} of all "),
        format!("more {what} of {name} "),
    ];
    let blocks = texts.iter().map(|text| text.bytes().cycle().take(BLOCK));
    blocks.flatten().collect()
}

/// A release's files, signed by `key`.
pub fn release(name: &str, sequence: u64, key: &SecretKey) -> (Manifest, Files) {
    release_with(name, sequence, key, name)
}

/// The same with the kernel container of another release.
pub fn release_with(
    name: &str,
    sequence: u64,
    key: &SecretKey,
    kernel_of: &str,
) -> (Manifest, Files) {
    let mut manifest = manifest::example::manifest(&version(name), sequence);
    manifest.created =
        cairn_release::Timestamp::from_unix(1_000_000 + i64::try_from(sequence).unwrap()).unwrap();
    let (kernel_image, kernel) = image(blocks("kernel", kernel_of));
    let (root_image, root) = image(blocks("root", name));
    manifest.kernel.image = kernel_image;
    manifest.root = root_image;
    let mut envelope = manifest.to_envelope();
    envelope.sign(key);
    (
        manifest,
        Files::from([
            (Part::Manifest, envelope.to_json()),
            (Part::Kernel, kernel),
            (Part::Root, root),
        ]),
    )
}

/// An order for a release made by [`release`].
pub fn order(id: &str, name: &str, sequence: u64) -> ReleaseOrder {
    let (manifest, _) = release(name, sequence, &release_key());
    order_for(id, name, sequence, &manifest)
}

/// An order for the release of this manifest.
pub fn order_for(id: &str, name: &str, sequence: u64, manifest: &Manifest) -> ReleaseOrder {
    ReleaseOrder {
        id: id.into(),
        version: version(name),
        sequence: Sequence(sequence),
        digest: Digest::of(&manifest.to_payload()),
        url: format!("/releases/stable/{name}/"),
        when: When::Now,
        forgive: false,
        downgrade: None,
    }
}

impl World {
    /// A node that runs 1.0, and a store that has 2.0.
    pub fn new() -> Self {
        let good = BootState {
            generation: 1,
            good: Some(version("1.0")),
            good_tries: Tries::Unlimited,
            ..BootState::default()
        };
        let mut world = Self {
            state: None,
            installed: BTreeMap::from([(version("1.0"), release("1.0", 1, &release_key()).1)]),
            partial: BTreeMap::new(),
            boot: [good.to_block().to_vec(), good.to_block().to_vec()],
            store: BTreeMap::new(),
            trust: vec![trust_root(1, &release_key())],
            behaviour: BTreeMap::new(),
            running: version("1.0"),
            slot: Slot::Good,
            boots: 1,
            uptime_ms: 20_000,
            wall: Some(1_800_000_000),
            free: 1 << 30,
            reports: Vec::new(),
            evidence: BTreeMap::new(),
            declared: false,
            control_plane: true,
            fault: None,
            calls: 0,
            log: Vec::new(),
            asked: Vec::new(),
            rots: BTreeMap::new(),
            weak: None,
            no_ranges: false,
            traffic: 0,
            neighbours: Vec::new(),
            offered: Vec::new(),
        };
        world.publish("2.0", 2, Behaviour::Works);
        world
    }

    /// Puts a release into the store.
    pub fn publish(&mut self, name: &str, sequence: u64, behaviour: Behaviour) {
        self.offer(name, release(name, sequence, &release_key()).1);
        self.behaviour.insert(version(name), behaviour);
    }

    /// Puts these files into the store.
    pub fn offer(&mut self, name: &str, files: Files) {
        for (part, bytes) in files {
            self.store
                .insert(format!("/releases/stable/{name}/{}", part.name()), bytes);
        }
    }

    /// Puts patches to a release into the store, from those that are installed.
    pub fn publish_patches(&mut self, name: &str) {
        for part in [Part::Kernel, Part::Root] {
            let new = &self.store[&format!("/releases/stable/{name}/{}", part.name())];
            let patches: Vec<_> = self
                .installed
                .values()
                .map(|files| {
                    let old = &files[&part];
                    let patch = make(old, new, new.len() - BLOCK, |_, _| {}).unwrap();
                    let from = cairn_release::name::patch(&Digest::of(old));
                    (format!("/releases/stable/{name}/patches/{from}"), patch)
                })
                .collect();
            self.store.extend(patches);
        }
    }

    /// What the disk makes of a file.
    fn rot(&mut self, version: &Version, part: Part) {
        let left = self.rots.get_mut(&part).filter(|left| **left > 0);
        let file = self.partial.get_mut(version);
        let file = file.and_then(|files| files.get_mut(&part));
        if let (Some(left), Some(byte)) = (left, file.and_then(|file| file.last_mut())) {
            *left -= 1;
            *byte ^= 1;
        }
    }

    pub fn boot_state(&self) -> BootState {
        pick(&self.boot[0], &self.boot[1]).state
    }

    fn whole(&self, version: &Version) -> bool {
        self.installed
            .get(version)
            .is_some_and(|files| Part::ALL.iter().all(|part| files.contains_key(part)))
    }

    /// Whether every file is what the manifest in it says: what GRUB and the initramfs verify.
    fn intact(&self, version: &Version) -> bool {
        let check = || {
            let files = self.installed.get(version)?;
            let envelope =
                Envelope::parse(files.get(&Part::Manifest)?, manifest::PAYLOAD_TYPE).ok()?;
            let manifest = Manifest::from_payload(&envelope.payload).ok()?;
            let kernel = Digest::of(files.get(&Part::Kernel)?) == manifest.kernel.image.sha256;
            Some(kernel && Digest::of(files.get(&Part::Root)?) == manifest.root.sha256)
        };
        check().unwrap_or(false)
    }

    fn candidates(&self) -> Vec<cairn_boot_state::Candidate> {
        let mut installed: Vec<Version> = self
            .installed
            .keys()
            .filter(|v| self.whole(v))
            .cloned()
            .collect();
        installed.sort_by_key(|version| std::cmp::Reverse(created(&self.installed[version])));
        candidates(&self.boot_state(), &installed)
    }

    /// The promise: at any moment there is a release that GRUB would come to and that works; and a trial is always whole.
    pub fn assert_bootable(&self) {
        let candidates = self.candidates();
        let works = |version: &Version| {
            let behaviour = self.behaviour.get(version).unwrap_or(&Behaviour::Works);
            self.intact(version) && !matches!(behaviour, Behaviour::Panics | Behaviour::GivenUp)
        };
        assert!(
            candidates.iter().any(|candidate| works(&candidate.version)),
            "nothing boots: {:?}\n{:?}",
            self.boot_state(),
            self.log
        );
        if let Some(trial) = candidates
            .iter()
            .find(|candidate| candidate.slot == Slot::Trial)
        {
            assert!(
                self.intact(&trial.version),
                "the trial isn't whole: {:?}\n{:?}",
                self.boot_state(),
                self.log
            );
        }
    }

    /// GRUB and the initramfs, until something runs.
    pub fn reboot(&mut self) {
        for _ in 0..100 {
            self.boots += 1;
            self.uptime_ms = 20_000;
            self.declared = false;
            let candidate = self.candidates().into_iter().next().expect("a candidate");
            self.spend_try(candidate.slot);
            let version = candidate.version;
            if !self.intact(&version) {
                self.mark_failed(&version);
                continue;
            }
            match self.behaviour.get(&version) {
                Some(Behaviour::Panics) => {}
                Some(Behaviour::GivenUp) => self.mark_failed(&version),
                _ => {
                    (self.running, self.slot) = (version, candidate.slot);
                    return;
                }
            }
        }
        panic!("nothing ever runs: {:?}", self.boot_state());
    }

    fn spend_try(&mut self, slot: Slot) {
        for copy in &mut self.boot {
            let Ok(mut state) = BootState::parse(copy) else {
                continue;
            };
            match (slot, state.good_tries) {
                (Slot::Trial, _) => state.trial_tries = state.trial_tries.saturating_sub(1),
                (Slot::Good, Tries::Left(n)) => state.good_tries = Tries::Left(n.saturating_sub(1)),
                _ => {}
            }
            *copy = state.to_block().to_vec();
        }
    }

    fn mark_failed(&mut self, version: &Version) {
        let state = cairn_boot_state::step(
            &self.boot_state(),
            Event::BootFailed {
                version: version.clone(),
            },
        )
        .unwrap();
        self.boot = [state.to_block().to_vec(), state.to_block().to_vec()];
    }

    pub fn states(&self, order: &str) -> Vec<UpdateState> {
        let mut states: Vec<_> = self
            .reports
            .iter()
            .filter(|report| report.order == order)
            .map(|report| report.state)
            .collect();
        states.dedup();
        states
    }
}

fn created(files: &Files) -> i64 {
    let envelope = files
        .get(&Part::Manifest)
        .and_then(|bytes| Envelope::parse(bytes, manifest::PAYLOAD_TYPE).ok());
    envelope
        .and_then(|envelope| Manifest::from_payload(&envelope.payload).ok())
        .map_or(0, |manifest| manifest.created.unix())
}

/// All versions that are installed.
pub fn installed(world: &World) -> BTreeSet<String> {
    world.installed.keys().map(ToString::to_string).collect()
}
