//! The world's effects for one agent, each of which can be cut or fail.

use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cairn_boot_state::Copy;
use cairn_release::{Digest, Envelope, Version, manifest};
use cairn_update::survey::{Installed, Survey};
use cairn_wire::UpdateReport;

use super::{Behaviour, End, Fault, Files, Net, PIECE, TOO_MANY, Trouble, World, created};
use crate::neighbours::{Neighbour, Offer};
use crate::update::effects::{Answer, Body, Booted, Effects, GetError, Part};
use crate::update::settings::Check;

/// The world's effects for one agent.
#[derive(Clone)]
pub struct Fake(pub Arc<Mutex<World>>);

/// What a fault does to one effect.
enum Now {
    Works,
    Torn,
    Fails(Trouble),
}

impl Fake {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an effect, and says what becomes of it. `network`: whether it is one of the network's.
    fn begins(&self, name: &str, network: bool) -> Now {
        let mut world = self.world();
        world.calls += 1;
        let call = world.calls;
        world.log.push(format!("{call} {name}"));
        assert!(
            call < TOO_MANY,
            "an endless loop: {:?}",
            &world.log[world.log.len() - 60..]
        );
        let fits = |trouble: Trouble| matches!(trouble, Trouble::Net(_)) == network;
        match world.fault {
            Some(Fault::Before(at, end)) if at == call => {
                drop(world);
                resume_unwind(Box::new(end));
            }
            Some(Fault::Torn(at)) if at == call => Now::Torn,
            Some(Fault::Fails(at, trouble)) if at == call && fits(trouble) => Now::Fails(trouble),
            Some(Fault::FailsFromOn(at, trouble)) if at <= call && fits(trouble) => {
                Now::Fails(trouble)
            }
            _ => Now::Works,
        }
    }

    fn ends(&self, torn: bool) {
        let world = self.world();
        let end = match world.fault {
            Some(Fault::After(at, end)) if at == world.calls => Some(end),
            _ if torn => Some(End::PowerCut),
            _ => None,
        };
        drop(world);
        if let Some(end) = end {
            resume_unwind(Box::new(end));
        }
    }

    /// An effect on the disk: `act` is told whether it is to be torn.
    fn disk<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut World, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let torn = match self.begins(name, false) {
            Now::Works => false,
            Now::Torn => true,
            Now::Fails(Trouble::Full) => return Err(io::Error::from_raw_os_error(28)),
            Now::Fails(_) => return Err(io::Error::from_raw_os_error(5)),
        };
        let result = act(&mut self.world(), torn);
        // What decides over the next boot.
        if ["remove", "place", "write boot", "clear", "discard"]
            .iter()
            .any(|deed| name.starts_with(deed))
        {
            self.world().assert_bootable();
        }
        self.ends(torn);
        result
    }
}

pub struct FakeBody {
    fake: Fake,
    rest: Vec<u8>,
    fault: Option<Net>,
}

impl Body for FakeBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, GetError> {
        let net = match self.fake.begins("chunk", true) {
            Now::Fails(Trouble::Net(net)) => Some(net),
            _ => self.fault,
        };
        match net {
            Some(Net::Endless) => return Ok(Some(vec![0xee; PIECE].into())),
            Some(Net::Truncated) => return Ok(None),
            Some(Net::TimeOut | Net::ServerError) => return Err(GetError::passing("timed out")),
            _ => {}
        }
        let piece: Vec<u8> = self.rest.drain(..PIECE.min(self.rest.len())).collect();
        self.fake.world().traffic += piece.len() as u64;
        self.fake.ends(false);
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

impl Effects for Fake {
    type Body = FakeBody;

    async fn sleep(&self, time: Duration) {
        self.begins("sleep", false);
        self.world().uptime_ms += u64::try_from(time.as_millis()).unwrap();
        tokio::task::yield_now().await;
        self.ends(false);
    }

    fn uptime_ms(&self) -> u64 {
        self.world().uptime_ms
    }

    fn wall(&self) -> Option<i64> {
        let world = self.world();
        world
            .wall
            .map(|wall| wall + i64::try_from(world.uptime_ms / 1000).unwrap())
    }

    fn certain(&self) -> i64 {
        self.world().wall.unwrap_or(0)
    }

    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        // Not an effect: nothing happens, and what can't be read begins anew, which other tests show.
        Ok(self.world().state.clone())
    }

    fn store(&self, state: &[u8]) -> io::Result<()> {
        self.disk("store", |world, torn| {
            if !torn {
                world.state = Some(state.to_vec());
            }
            Ok(())
        })
    }

    fn booted(&self) -> io::Result<Option<Booted>> {
        let world = self.world();
        Ok(Some(Booted {
            boot_id: format!("boot-{}", world.boots),
            release: world.running.clone(),
            slot: world.slot,
        }))
    }

    fn boot_failure(&self, version: &Version) -> Option<String> {
        let given_up = self.world().behaviour.get(version) == Some(&Behaviour::GivenUp);
        given_up.then(|| "root.erofs cannot be used".to_owned())
    }

    fn device(&self) -> String {
        "node-1".into()
    }

    async fn get(&self, url: &str, range: Range<u64>) -> Result<Answer<FakeBody>, GetError> {
        let from = range.start;
        let fault = match self.begins(&format!("get {url} from {from}"), true) {
            Now::Fails(Trouble::Net(net)) => Some(net),
            _ if self.world().no_ranges => Some(Net::RangeIgnored),
            _ => None,
        };
        self.world().asked.push((url.to_owned(), from));
        match fault {
            Some(Net::TimeOut | Net::ServerError) => return Err(GetError::passing("503")),
            Some(Net::NotFound) => return Err(GetError::Refused("404".into())),
            Some(Net::BeyondEnd) => return Err(GetError::BeyondEnd("416".into())),
            _ => {}
        }
        let whole = self
            .world()
            .store
            .get(url)
            .cloned()
            .ok_or_else(|| GetError::Refused("404".into()))?;
        let total = whole.len() as u64;
        let (start, end) = match fault {
            Some(Net::WrongRange) => (from + 1, total),
            Some(Net::RangeIgnored) => (0, total),
            _ => (from, range.end.min(total)),
        };
        let (start_at, end) = (start as usize, end as usize);
        let rest = whole.get(start_at..end).unwrap_or_default().to_vec();
        self.ends(false);
        Ok(Answer {
            start,
            total: Some(total),
            body: FakeBody {
                fake: self.clone(),
                rest,
                fault,
            },
        })
    }

    fn offer(&self, _version: &Version, _part: Part, offer: &Arc<Offer>) {
        self.world().offered.push(offer.clone());
    }

    async fn neighbours(&self, image: &Digest) -> Vec<Neighbour> {
        let mut world = self.world();
        let now_ms = world.uptime_ms;
        let asked = world.neighbours.iter_mut().enumerate();
        asked
            .filter_map(|(number, neighbour)| neighbour.answer(number, image, now_ms))
            .collect()
    }

    async fn get_near(&self, url: &str, range: Range<u64>) -> Result<Answer<FakeBody>, GetError> {
        let number: usize = url.parse().unwrap();
        let rest = self.world().neighbours[number].give(range.clone())?;
        Ok(Answer {
            start: range.start,
            total: None,
            body: FakeBody {
                fake: self.clone(),
                rest,
                fault: None,
            },
        })
    }

    fn given_ms(&self) -> Option<u64> {
        None
    }

    fn trust_roots(&self) -> io::Result<Vec<Vec<u8>>> {
        self.disk("trust_roots", |world, _| Ok(world.trust.clone()))
    }

    fn keep_trust_root(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk("keep_trust_root", |world, torn| {
            assert_eq!(number, world.trust.len() as u64 + 1);
            if !torn {
                world.trust.push(bytes.to_vec());
            }
            Ok(())
        })
    }

    async fn survey(&self, coming: Option<&Version>) -> io::Result<Survey> {
        self.disk("survey", |world, _| {
            let size = |files: &Files| files.values().map(|bytes| bytes.len() as u64).sum::<u64>();
            let installed = world.installed.iter().map(|(version, files)| Installed {
                version: version.clone(),
                digest: files
                    .get(&Part::Manifest)
                    .and_then(|bytes| Envelope::parse(bytes, manifest::PAYLOAD_TYPE).ok())
                    .map(|envelope| Digest::of(&envelope.payload)),
                bytes: size(files),
                created: created(files),
                whole: world.whole(version),
            });
            Ok(Survey {
                free: world.free,
                installed: installed.collect(),
                fetched: coming
                    .and_then(|version| world.partial.get(version))
                    .map_or(0, size),
            })
        })
    }

    fn manifest(&self, version: &Version) -> io::Result<Vec<u8>> {
        let world = self.world();
        let folders = [world.installed.get(version), world.partial.get(version)];
        folders
            .into_iter()
            .flatten()
            .find_map(|files| files.get(&Part::Manifest).cloned())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn remove(&self, version: &Version) -> io::Result<()> {
        self.disk(&format!("remove {version}"), |world, torn| {
            if let Some(mut files) = world.installed.remove(version) {
                if torn {
                    files.remove(&Part::Root);
                    world
                        .partial
                        .insert(format!("{version}.removed").parse().unwrap(), files);
                } else {
                    world.free += 40_000;
                }
            }
            Ok(())
        })
    }

    async fn clear_partials(&self, keep: Option<&Version>) -> io::Result<()> {
        self.disk("clear_partials", |world, _| {
            world.partial.retain(|version, _| Some(version) == keep);
            Ok(())
        })
    }

    fn is_placed(&self, version: &Version) -> io::Result<bool> {
        self.disk("is_placed", |world, _| {
            Ok(world.installed.contains_key(version))
        })
    }

    fn fetched(&self, version: &Version, part: Part) -> io::Result<u64> {
        self.disk("fetched", |world, _| {
            let files = world.partial.get(version);
            Ok(files
                .and_then(|files| files.get(&part))
                .map_or(0, |bytes| bytes.len() as u64))
        })
    }

    fn reserve(&self, version: &Version, part: Part, size: u64) -> io::Result<()> {
        self.disk("reserve", |world, _| {
            let file = world
                .partial
                .entry(version.clone())
                .or_default()
                .entry(part)
                .or_default();
            file.truncate(usize::try_from(size).unwrap());
            Ok(())
        })
    }

    fn read(&self, version: &Version, part: Part, range: Range<u64>) -> io::Result<Vec<u8>> {
        let (start, end) = (range.start as usize, range.end as usize);
        self.disk("read", |world, torn| {
            let partial = world.partial.get(version);
            let files = partial.or_else(|| world.installed.get(version));
            let file = files.and_then(|files| files.get(&part));
            let file = file.ok_or(io::ErrorKind::NotFound)?;
            let end = end.min(file.len());
            let mut bytes = file.get(start..end).unwrap_or_default().to_vec();
            if let Some((weak, at)) = world.weak
                && (partial.is_none(), weak) == (true, part)
                && let Some(byte) = at.checked_sub(start).and_then(|at| bytes.get_mut(at))
            {
                *byte ^= 1;
            }
            bytes.truncate(bytes.len() / if torn { 2 } else { 1 });
            Ok(bytes)
        })
    }

    fn write(&self, version: &Version, part: Part, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk("write", |world, torn| {
            let file = world
                .partial
                .get_mut(version)
                .and_then(|files| files.get_mut(&part))
                .ok_or(io::ErrorKind::NotFound)?;
            let bytes = if torn {
                &bytes[..bytes.len() / 2]
            } else {
                bytes
            };
            let at = usize::try_from(at).unwrap();
            let end = at + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[at..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn discard(&self, version: &Version, part: Part) -> io::Result<()> {
        self.disk("discard", |world, _| {
            world
                .partial
                .get_mut(version)
                .map(|files| files.remove(&part));
            Ok(())
        })
    }

    async fn sync(&self, _: &Version, _: Part) -> io::Result<()> {
        self.disk("sync", |_, _| Ok(()))
    }

    async fn digest(&self, version: &Version, part: Part) -> io::Result<(u64, Digest)> {
        let (fault, next) = {
            let world = self.world();
            (world.fault, world.calls + 1)
        };
        let short = fault == Some(Fault::Fails(next, Trouble::Short));
        let result = self.disk("digest", |world, _| {
            world.rot(version, part);
            let files = world
                .partial
                .get(version)
                .or_else(|| world.installed.get(version));
            let bytes = files
                .and_then(|files| files.get(&part))
                .ok_or(io::ErrorKind::NotFound)?;
            Ok((bytes.len() as u64, Digest::of(bytes)))
        });
        if short {
            Ok((17, Digest::of(b"short")))
        } else {
            result
        }
    }

    async fn place(&self, version: &Version, _: i64) -> io::Result<()> {
        self.disk("place", |world, _| {
            if let Some(files) = world.partial.remove(version) {
                world.installed.insert(version.clone(), files);
            }
            if world.installed.contains_key(version) {
                Ok(())
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        })
    }

    async fn boot_copies(&self) -> io::Result<[Vec<u8>; 2]> {
        self.disk("boot_copies", |world, _| Ok(world.boot.clone()))
    }

    async fn write_boot_copy(&self, copy: Copy, block: Vec<u8>) -> io::Result<()> {
        self.disk(&format!("write {copy}"), |world, torn| {
            let old = &mut world.boot[usize::from(copy == Copy::B)];
            if torn {
                old.resize(block.len(), b'#');
                old[..60].copy_from_slice(&block[..60]);
            } else {
                *old = block;
            }
            Ok(())
        })
    }

    async fn restart(&self, attempt: u32) -> io::Result<()> {
        // Roughly enough it always works.
        if attempt < 5 {
            self.disk("restart", |_, _| Ok(()))?;
        }
        resume_unwind(Box::new(End::Restart))
    }

    fn declare(&self) -> io::Result<()> {
        self.disk("declare", |world, _| {
            world.declared = true;
            Ok(())
        })
    }

    async fn check(&self, _: &Check) -> Option<String> {
        self.begins("check", false);
        let world = self.world();
        let unhealthy = world.behaviour.get(&world.running) == Some(&Behaviour::Unhealthy);
        unhealthy.then(|| "inactive".to_owned())
    }

    fn control_plane_reached(&self) -> bool {
        let world = self.world();
        world.control_plane && world.behaviour.get(&world.running) != Some(&Behaviour::NoNetwork)
    }

    async fn collect(&self, version: &Version, reason: &str) -> Vec<u8> {
        self.begins("collect", false);
        format!("{version}: {reason}").into_bytes()
    }

    fn keep_evidence(&self, name: &str, text: &[u8]) -> io::Result<()> {
        self.disk("keep_evidence", |world, torn| {
            if !torn {
                world.evidence.insert(name.to_owned(), text.to_vec());
            }
            Ok(())
        })
    }

    async fn report(&self, report: &UpdateReport) -> io::Result<()> {
        self.disk(&format!("report {:?}", report.state), |world, torn| {
            if !torn {
                world.reports.push(report.clone());
            }
            Ok(())
        })
    }
}
