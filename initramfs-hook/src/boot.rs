//! The order of the steps, from pid 1 to the new root's init.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_release::manifest::Image;
use cairn_release::{TrustRoot, name};
use rustix::fs::sync;
use rustix::system::RebootCommand;

use crate::cmdline::Cmdline;
use crate::config::{self, Config};
use crate::disks::{self, Found};
use crate::error::{IoError, cannot, chain};
use crate::failure::{self, BootError, Entry};
use crate::gpt::Guid;
use crate::images::{self, Machine, Release};
use crate::loopdev::LoopDevice;
use crate::modules::Loader;
use crate::uevent::Uevents;
use crate::watchdog::Watchdog;
use crate::{dm, esp, log, mounts, shutdown, switch, trust};

/// How long the kernel may take to show a device that it was asked for.
const DEVICE_LIMIT: Duration = Duration::from_secs(5);

/// Where the built-in trust root is left for the running system; it lies on `/run` and so comes along.
const TRUST_COPY: &str = "/run/cairn/trust.dsse.json";

/// How far a boot came: what a failure can still reach.
#[derive(Default)]
struct Progress {
    cmdline: Option<Cmdline>,
    data: Option<PathBuf>,
    esp: Option<PathBuf>,
    watchdog: Option<Watchdog>,
}

impl Progress {
    fn step(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.keep_alive();
        }
    }
}

/// Pid 1 of the initramfs. Only returns if the kernel refuses to reboot.
pub fn run() {
    let mut progress = Progress::default();
    let Err(error) = boot(&mut progress);
    give_up(&progress, &error);
    shutdown::take_down(&[mounts::NEW_ROOT, mounts::OURS]);
    sync();
    shutdown::finish(RebootCommand::Restart);
}

/// For another initramfs, which has DATA mounted at `data` already: makes the
/// verified root at `new_root` and leaves the rest to its caller.
///
/// # Errors
/// As a boot would fail; recorded and told by then.
pub fn onto(data: &Path, new_root: &Path) -> Result<(), BootError> {
    let mut progress = Progress {
        data: Some(data.to_owned()),
        ..Progress::default()
    };
    let result = mounted(&mut progress, data, new_root);
    if let Err(error) = &result {
        give_up(&progress, error);
    }
    result
}

fn boot(progress: &mut Progress) -> Result<Infallible, BootError> {
    mounts::system()?;
    log::unlimited();
    log::take_console();
    let cmdline = read_cmdline()?;
    log::name_release(&cmdline.release);
    progress.cmdline = Some(cmdline.clone());

    let config: Config = config::read(config::HOOK)?;
    let mut loader = Loader::new(config::read(config::MODULES)?);
    progress.watchdog = Watchdog::arm(config.watchdog_seconds, &mut loader);
    loader.load_wanted();

    let found = find_data(cmdline.data, &config, &mut loader, || progress.step())?;
    progress.esp = found.esp;
    let data = Path::new(mounts::DATA);
    mounts::data(&found.data, data, &config.data_fs)?;
    progress.data = Some(data.to_owned());

    let new_root = Path::new(mounts::NEW_ROOT);
    assemble(&cmdline, &config, data, new_root)?;
    progress.step();
    let init = switch::init_of(new_root).map_err(in_image(name::ROOT))?;
    let data_in_root = new_root.join("data");
    mounts::move_to(data, &data_in_root).map_err(in_image(name::ROOT))?;
    progress.data = Some(data_in_root);
    switch::prepare_exit()?;
    log::notice("root verified");
    log::limited();

    // The device has to be free for the next init; the timer goes on.
    progress.step();
    progress.watchdog = None;
    let Err(error) = switch::switch(new_root, init);
    if !new_root.exists() {
        // The root is the new one already.
        progress.data = Some("/data".into());
    }
    Err(in_image(name::ROOT)(error))
}

fn mounted(progress: &mut Progress, data: &Path, new_root: &Path) -> Result<(), BootError> {
    let cmdline = read_cmdline()?;
    log::name_release(&cmdline.release);
    progress.cmdline = Some(cmdline.clone());
    // DATA may lie on a RAID or in the network, where there is no ESP to find.
    progress.esp = disks::find(cmdline.data, false).and_then(|found| found.esp);
    let config: Config = config::read(config::HOOK)?;
    // The drivers are the caller's business; the timer goes on when this returns.
    progress.watchdog = Watchdog::arm(config.watchdog_seconds, &mut Loader::default());
    assemble(&cmdline, &config, data, new_root)?;
    switch::init_of(new_root).map_err(in_image(name::ROOT))?;
    mounts::bind(data, &new_root.join("data")).map_err(in_image(name::ROOT))?;
    switch::prepare_exit()?;
    log::notice("root verified");
    Ok(())
}

fn read_cmdline() -> Result<Cmdline, BootError> {
    let text = fs::read_to_string("/proc/cmdline").map_err(cannot("read", "/proc/cmdline"))?;
    Ok(Cmdline::parse(&text)?)
}

/// Loads drivers as devices appear, until the partition `data` is there; `alive` is
/// called in between. When half of the time is over, every driver is tried, and
/// damaged partition tables too.
///
/// # Errors
/// If it isn't there when the time is over.
pub fn find_data(
    data: Guid,
    config: &Config,
    loader: &mut Loader,
    mut alive: impl FnMut(),
) -> Result<Found, BootError> {
    let uevents = Uevents::open()?;
    let start = Instant::now();
    let (half, whole) = (config.data_timeout() / 2, config.data_timeout());
    let mut desperate = false;
    loop {
        alive();
        loader.coldplug();
        if let Some(found) = disks::find(data, desperate) {
            return Ok(found);
        }
        let waited = start.elapsed();
        if waited >= whole {
            return Err(BootError::NoData {
                data: data.to_string(),
                seconds: config.data_timeout_seconds,
                disks: disks::names(),
            });
        }
        if waited >= half && !desperate {
            log::warn("DATA is late; every driver is tried");
            loader.load_all();
            desperate = true;
            continue;
        }
        uevents.wait(if desperate { whole } else { half }.saturating_sub(waited));
    }
}

/// Verifies the release in `data` and makes a root of it at `new_root`.
fn assemble(
    cmdline: &Cmdline,
    config: &Config,
    data: &Path,
    new_root: &Path,
) -> Result<(), BootError> {
    let trust = trust_root(data)?;
    let machine = Machine::here();
    let folder = data.join("releases").join(cmdline.release.as_str());
    let release = Release::open(&folder, &cmdline.release, &trust, &machine)?;

    let kernel = Path::new(mounts::KERNEL);
    let image = &release.manifest.kernel.image;
    let panics = config.panic_on_corruption;
    let device = map(&release.kernel, name::KERNEL, "cairn-kernel", image, panics)?;
    mounts::image(&device, kernel, "squashfs").map_err(in_image(name::KERNEL))?;
    same_kernel(kernel, &machine)?;

    let image = &release.manifest.root;
    let device = map(&release.root, name::ROOT, "cairn-root", image, panics)?;
    mounts::image(&device, new_root, "erofs").map_err(in_image(name::ROOT))?;
    mounts::furnish(new_root, kernel, data).map_err(|error| {
        // A folder that isn't there is the image's fault, anything else may pass.
        if error.is_not_found() {
            in_image(name::ROOT)(error)
        } else {
            error.into()
        }
    })
}

fn trust_root(data: &Path) -> Result<TrustRoot, BootError> {
    let bytes = images::read(Path::new(config::TRUST))?;
    let builtin = TrustRoot::parse(&bytes).map_err(BootError::Trust)?;
    // The initramfs is gone soon; the running system starts from the same root.
    if let Err(error) = mounts::hand_over(TRUST_COPY, &bytes) {
        log::warn(chain(&error));
    }
    let read = |number| match images::read(&data.join(format!("trust/{number}.dsse.json"))) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    };
    Ok(trust::walk(builtin, read, |number, error| {
        log::error(format_args!(
            "trust root {number} is ignored: {}",
            chain(error)
        ));
    }))
}

/// A verified block device over an image.
fn map(
    file: &fs::File,
    file_name: &'static str,
    device_name: &str,
    image: &Image,
    panic_on_corruption: bool,
) -> Result<PathBuf, BootError> {
    let device = LoopDevice::attach(file, file_name)?;
    // Listens before it asks, so that the device can't appear unheard.
    let uevents = Uevents::open()?;
    let path = device.path().display().to_string();
    let mapped = dm::open_verity(device_name, &path, &image.verity, panic_on_corruption)?;
    if !uevents.wait_until(DEVICE_LIMIT, || mapped.exists()) {
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        return Err(cannot("find", mapped.display())(late).into());
    }
    Ok(mapped)
}

/// The container itself must agree with its manifest: a mistake of the builder
/// shows itself here instead of as modules that don't load.
fn same_kernel(kernel: &Path, machine: &Machine) -> Result<(), BootError> {
    let path = kernel.join("kernel-version");
    let stated = fs::read_to_string(&path)
        .map_err(cannot("read", path.display()))
        .map_err(in_image(name::KERNEL))?;
    Ok(images::same_kernel(stated.trim_end(), machine)?)
}

fn in_image(image: &'static str) -> impl FnOnce(IoError) -> BootError {
    move |source| BootError::Image { image, source }
}

/// Tells and records a failure. Each step is tried whatever became of the one before.
fn give_up(progress: &Progress, error: &BootError) {
    let reason = chain(error);
    log::error(&reason);
    let Some(cmdline) = &progress.cmdline else {
        return;
    };
    if let Some(data) = &progress.data {
        let line = Entry::now(&cmdline.release, cmdline.slot, &reason).to_line();
        if let Err(error) = failure::record(&data.join("agent"), &line) {
            log::error(chain(&error));
        }
    }
    if !error.is_definitive() {
        return;
    }
    let Some(device) = &progress.esp else {
        log::warn("the disk has no ESP; the bootloader tries this release again");
        return;
    };
    match esp::release_failed(device, &cmdline.release) {
        Ok(()) => log::notice("the bootloader will not try this release again"),
        Err(error) => log::error(chain(&error)),
    }
}
