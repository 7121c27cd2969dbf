//! What is done inside the sandbox to make a release: from packages to two closed
//! images. Signing is asked of the outside.

use super::hook::Hook;
use super::work_area::{Devices, mount_at};
use super::{bake, bill, image, initramfs, listing, pacman, tree};
use crate::error::{Error, Result};
use crate::files::{self, cannot, make_folder};
use crate::profile::Profile;
use crate::profile::site::Site;
use crate::sandbox::Outside;
use cairn_release::manifest::{Image, Kernel};
use cairn_release::name;
use cairn_release::verity::Salt;
use cairn_release::{Digest, Timestamp, Version};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Files that GRUB checks by a signature of their own, within the kernel container.
pub const SIGNED: [&str; 3] = ["vmlinuz", "initramfs.img", "boot.env"];
/// What the outside is asked for.
pub const SIGN: &str = "sign";

/// What to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The profile's folder.
    pub profile: PathBuf,
    /// The site's file.
    pub site: Option<PathBuf>,
    /// The release's name.
    pub version: Version,
    /// The time that everything is stamped with.
    pub epoch: Timestamp,
    /// The folder that the outside sees; the release's files are left there.
    pub out: PathBuf,
    /// pacman's downloads.
    pub cache: PathBuf,
    /// The initramfs hook.
    pub hook: Hook,
    /// The trust root that goes into the initramfs.
    pub trust: Vec<u8>,
    /// Size of the work area.
    pub work_size: String,
}

/// What was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Made {
    /// The kernel container.
    pub kernel: Kernel,
    /// The root image.
    pub root: Image,
    /// Digest of the bill of materials.
    pub sbom: Digest,
    /// Digest of the list of files.
    pub contents: Digest,
    /// Bytes of the initramfs.
    pub initramfs_size: u64,
}

/// Makes the images.
///
/// # Errors
/// If any step fails.
pub fn make(job: Job, outside: &Outside) -> Result<Made> {
    let profile = Profile::load(&job.profile)?;
    let site = job.site.as_deref().map(Site::load).transpose()?;
    let work = job.out.join("work");
    make_folder(&work)?;
    mount_at(&work, &job.work_size)?;
    let root = work.join("root");
    outside.step("installing packages", || {
        install(&job, &profile, site.as_ref(), &root, outside)
    })?;
    let kernel = outside.step("settling the root", || {
        if let (Some(site), Some(path)) = (&site, &job.site) {
            bake::bake(&root, site, path)?;
        }
        tree::settle(&root, job.epoch)?;
        files::stays_inside(&root)?;
        tree::KernelTree::split(&root, &work.join("kernel"))
    })?;

    let seed = Digest::of(profile.definition.name.as_bytes());
    let salt = Salt::new(&seed.0).map_err(|e| Error::failed("cannot salt").because(e))?;
    let teller = outside.teller();
    let out = |name: &str| job.out.join(name);
    std::thread::scope(|scope| {
        let root_image = scope.spawn(|| {
            let path = out(name::ROOT);
            teller.step("packing the root image", || {
                image::erofs(
                    &root,
                    &path,
                    &profile.settings.root.compression,
                    job.epoch,
                    seed,
                )?;
                image::close(&path, &out(name::ROOT_INDEX), salt.clone())
            })
        });
        let size = outside.step("making the initramfs", || {
            complete(&job, &profile, &kernel, &root, outside)
        })?;
        let container = scope.spawn(|| {
            let path = out(name::KERNEL);
            teller.step("packing the kernel container", || {
                image::squashfs(
                    &kernel.folder,
                    &path,
                    profile.settings.kernel.compression,
                    job.epoch,
                    &SIGNED
                        .map(|file| [file.to_owned(), format!("{file}.sig")])
                        .concat(),
                )?;
                image::close(&path, &out(name::KERNEL_INDEX), salt.clone())
            })
        });
        let contents = outside.step("listing files and packages", || {
            let bill = bill::of(&root, &profile.definition.name, &job.version, job.epoch)?;
            let list = listing::list(&kernel.folder, &root)?;
            Ok((
                put(&out(name::SBOM), &bill)?,
                put(&out(name::CONTENTS), &list)?,
            ))
        });
        let joined = |result: std::thread::Result<Result<Image>>| {
            result.unwrap_or_else(|_| Err(Error::failed("packing an image ended in the middle")))
        };
        // Both are waited for before either's error is told.
        let (container, root_image) = (joined(container.join()), joined(root_image.join()));
        let (sbom, contents) = contents?;
        Ok(Made {
            kernel: Kernel {
                kernel_version: kernel.version.clone(),
                image: container?,
            },
            root: root_image?,
            sbom,
            contents,
            initramfs_size: size,
        })
    })
}

fn install(
    job: &Job,
    profile: &Profile,
    site: Option<&Site>,
    root: &Path,
    outside: &Outside,
) -> Result<()> {
    let permissions = &profile.definition.permissions;
    for path in tree::lay_over(root, profile.airootfs.as_deref(), permissions)? {
        outside.teller().warn(format!(
            "profiledef.sh: file_permissions names {path}, which airootfs doesn't have"
        ));
    }
    let mut packages = profile.packages.clone();
    packages.extend(site.iter().flat_map(|site| site.packages.clone()));
    packages.sort();
    packages.dedup();
    let _devices = Devices::mount(root)?;
    pacman::install(root, &profile.pacman_conf, &job.cache, &packages, job.epoch)
}

/// Completes the kernel container's tree; gives the initramfs's size.
fn complete(
    job: &Job,
    profile: &Profile,
    kernel: &tree::KernelTree,
    root: &Path,
    outside: &Outside,
) -> Result<u64> {
    let initramfs = initramfs::pack(
        kernel,
        &profile.settings.initramfs,
        &job.hook.find(root)?,
        &job.trust,
        job.epoch,
    )?;
    let here = |name: &str| kernel.folder.join(name);
    put(&here("initramfs.img"), &initramfs)?;
    put(
        &here("boot.env"),
        &environment_block(&profile.settings.kernel.arguments),
    )?;
    // The outside can't see this work area, so the files pass through its folder.
    for file in SIGNED {
        pass(&here(file), &job.out.join(file))?;
    }
    outside.request(SIGN)?;
    for file in SIGNED {
        for name in [file.to_owned(), format!("{file}.sig")] {
            pass(&job.out.join(&name), &here(&name))?;
        }
    }
    Ok(initramfs.len() as u64)
}

fn pass(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(|e| cannot("write", to, e))?;
    // The outside has its caller's umask, which must not show in an image.
    fs::set_permissions(to, fs::Permissions::from_mode(0o644))
        .map_err(|e| cannot("change the mode of", to, e))?;
    fs::remove_file(from).map_err(|e| cannot("remove", from, e))
}

fn put(path: &Path, bytes: &[u8]) -> Result<Digest> {
    fs::write(path, bytes).map_err(|e| cannot("write", path, e))?;
    Ok(Digest::of(bytes))
}

/// A GRUB environment block: a first line, `name=value` lines, filled up with `#`
/// to 1024 bytes. Source: GRUB's manual, "The GRUB environment block".
fn environment_block(arguments: &str) -> Vec<u8> {
    let mut block = format!("# GRUB Environment Block\ncairn_cmdline={arguments}\n").into_bytes();
    block.resize(1024, b'#');
    block
}
