//! The peer that `make bench` measures the hook against: the same boot without a
//! signature and without dm-verity. It is an example, so it is in nothing that ships.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cairn_initramfs_hook::cmdline::Cmdline;
use cairn_initramfs_hook::config::{self, Config};
use cairn_initramfs_hook::loopdev::LoopDevice;
use cairn_initramfs_hook::modules::Loader;
use cairn_initramfs_hook::watchdog::Watchdog;
use cairn_initramfs_hook::{boot, log, mounts, switch};

fn main() {
    if let Err(error) = run() {
        log::error(error);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    mounts::system()?;
    log::unlimited();
    log::take_console();
    let cmdline = Cmdline::parse(&fs::read_to_string("/proc/cmdline")?)?;
    log::name_release(&cmdline.release);
    let config: Config = config::read(config::HOOK)?;
    let mut loader = Loader::new(config::read(config::MODULES)?);
    let watchdog = Watchdog::arm(config.watchdog_seconds, &mut loader);
    loader.load_wanted();
    let found = boot::find_data(cmdline.data, &config, &mut loader, || {})?;
    let data = Path::new(mounts::DATA);
    mounts::data(&found.data, data, &config.data_fs)?;

    let folder = data.join("releases").join(cmdline.release.as_str());
    let attach = |name: &'static str| -> Result<PathBuf, Box<dyn Error>> {
        let device = LoopDevice::attach(&File::open(folder.join(name))?, name)?;
        let path = device.path().to_owned();
        // Kept for ever: this process becomes the next init.
        std::mem::forget(device);
        Ok(path)
    };
    let (kernel, new_root) = (Path::new(mounts::KERNEL), Path::new(mounts::NEW_ROOT));
    mounts::image(&attach("kernel.squashfs")?, kernel, "squashfs")?;
    mounts::image(&attach("root.erofs")?, new_root, "erofs")?;
    mounts::furnish(new_root, kernel, data)?;
    let init = switch::init_of(new_root)?;
    mounts::move_to(data, &new_root.join("data"))?;
    switch::prepare_exit()?;
    log::notice("root not verified");
    log::limited();
    drop(watchdog);
    match switch::switch(new_root, init)? {}
}
