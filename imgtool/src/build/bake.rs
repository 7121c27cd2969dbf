//! Baking a site's file into a root.

use super::tree::permit;
use crate::error::{Error, Result};
use crate::files::{cannot, folder_of, make_folder, remove};
use crate::profile::definition::Permission;
use crate::profile::site::{ControlPlane, Site, source_path};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the baked site file lies in the image; the agent reads it there.
const BAKED: &str = "etc/cairn/site.toml";
/// Where the control plane's CA lies in the image.
const CA: &str = "etc/cairn/control-plane-ca.pem";

/// The agent's settings that come from the site file.
const AGENT: &str = "etc/cairn/agent.d/10-site.toml";

/// Bakes `site`, which was read from `path`, into `root`.
///
/// # Errors
/// If a file can't be read or written, or the root has no such time zone.
pub fn bake(root: &Path, site: &Site, path: &Path) -> Result<()> {
    let source = |source: &Path| {
        source_path(path, source).map_err(|e| Error::input(format!("{}: {e}", path.display())))
    };
    let mut baked = site.clone();
    baked.file.clear();
    if let Some(ControlPlane { ca, address }) = &mut baked.control_plane {
        copy(&source(ca)?, root, CA)?;
        *ca = PathBuf::from("/").join(CA);
        let mut server = toml::Table::new();
        server.insert("url".to_owned(), address.clone().into());
        server.insert("ca".to_owned(), format!("/{CA}").into());
        let settings: toml::Table = [("server".to_owned(), server.into())].into_iter().collect();
        write(root, AGENT, &settings.to_string())?;
    }
    let text = toml::to_string(&baked)
        .map_err(|e| Error::failed("cannot write the site file's baked form").because(e))?;
    write(root, BAKED, &text)?;

    if let Some(name) = &site.hostname {
        bake_hostname(root, name)?;
    }
    if let Some(zone) = &site.timezone {
        let file = format!("usr/share/zoneinfo/{zone}");
        if !root.join(&file).is_file() {
            return Err(Error::input(format!(
                "{}: timezone: the image has no {zone:?}",
                path.display()
            ))
            .hint("the package tzdata brings the time zones"));
        }
        remove(&root.join("etc/localtime"))?;
        let link = root.join("etc/localtime");
        symlink(format!("../{file}"), &link).map_err(|e| cannot("write", &link, e))?;
    }
    for (number, network) in site.network.iter().enumerate() {
        write(
            root,
            &format!("etc/systemd/network/{:02}-cairn.network", 10 + number),
            &network.unit(),
        )?;
    }
    for file in &site.file {
        let mode = file.mode_bits().map_err(Error::input)?;
        let inside = file
            .path
            .strip_prefix("/")
            .unwrap_or(&file.path)
            .to_string_lossy()
            .into_owned();
        copy(&source(&file.source)?, root, &inside)?;
        permit(
            &root.join(&inside),
            &Permission {
                uid: file.uid,
                gid: file.gid,
                mode,
            },
        )?;
    }
    Ok(())
}

/// A plain name is a file; one with placeholders is filled in at boot.
fn bake_hostname(root: &Path, name: &str) -> Result<()> {
    if !name.contains('{') {
        return write(root, "etc/hostname", &format!("{name}\n"));
    }
    remove(&root.join("etc/hostname"))?;
    write(root, "usr/lib/cairn/hostname-pattern", &format!("{name}\n"))?;
    write(
        root,
        "usr/lib/cairn/set-hostname",
        include_str!("set-hostname.sh"),
    )?;
    permit(
        &root.join("usr/lib/cairn/set-hostname"),
        &Permission {
            uid: 0,
            gid: 0,
            mode: 0o755,
        },
    )?;
    write(
        root,
        "usr/lib/systemd/system/cairn-hostname.service",
        include_str!("cairn-hostname.service"),
    )?;
    let wants = root.join("usr/lib/systemd/system/sysinit.target.wants");
    make_folder(&wants)?;
    let link = wants.join("cairn-hostname.service");
    remove(&link)?;
    symlink("../cairn-hostname.service", &link).map_err(|e| cannot("write", &link, e))
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let full = placed(root, path)?;
    fs::write(&full, text).map_err(|e| cannot("write", &full, e))
}

fn copy(from: &Path, root: &Path, path: &str) -> Result<()> {
    let full = placed(root, path)?;
    fs::copy(from, &full)
        .map(drop)
        .map_err(|e| cannot("copy", from, e))
}

/// The place for a new file: whatever was there is gone, and its folder is there
/// and truly within the root, whatever symlinks packages have brought.
fn placed(root: &Path, path: &str) -> Result<PathBuf> {
    let full = root.join(path);
    let mut folder = folder_of(&full).to_owned();
    // A usr-merged root has symlinks such as lib → usr/lib; absolute ones would
    // lead to the building host.
    while folder.symlink_metadata().is_err() {
        folder = folder_of(&folder).to_owned();
    }
    let real = folder
        .canonicalize()
        .map_err(|e| cannot("open", &folder, e))?;
    if !real.starts_with(root.canonicalize().map_err(|e| cannot("open", root, e))?) {
        return Err(Error::input(format!(
            "/{path}: the symlink leaves the tree: /{path} is {}",
            real.display()
        )));
    }
    make_folder(folder_of(&full))?;
    remove(&full)?;
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_baked_and_stays_in_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        make_folder(&root.join("usr/share/zoneinfo/Asia")).unwrap();
        make_folder(&root.join("etc")).unwrap();
        fs::write(root.join("usr/share/zoneinfo/Asia/Shanghai"), "").unwrap();
        fs::write(folder.path().join("ca.pem"), "CA").unwrap();
        fs::write(folder.path().join("motd"), "hello").unwrap();
        let path = folder.path().join("site.toml");
        let text = r#"
            format = 1
            hostname = "edge-{machine-id}"
            timezone = "Asia/Shanghai"
            control-plane = { address = "https://c.example", ca = "ca.pem" }
            file = [{ source = "motd", path = "/etc/motd", mode = "0600" }]
        "#;
        fs::write(&path, text).unwrap();
        let site = Site::load(&path).unwrap();
        bake(&root, &site, &path).unwrap();
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(read("etc/motd"), "hello");
        assert_eq!(read(CA), "CA");
        assert!(read(BAKED).contains("/etc/cairn/control-plane-ca.pem"));
        assert_eq!(
            read(AGENT),
            "[server]\nca = \"/etc/cairn/control-plane-ca.pem\"\nurl = \"https://c.example\"\n"
        );
        assert_eq!(
            read("usr/lib/cairn/hostname-pattern"),
            "edge-{machine-id}\n"
        );
        assert_eq!(
            fs::read_link(root.join("etc/localtime")).unwrap(),
            Path::new("../usr/share/zoneinfo/Asia/Shanghai")
        );

        let mut elsewhere = site.clone();
        elsewhere.timezone = Some("Moon/Base".into());
        let error = bake(&root, &elsewhere, &path).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("timezone: the image has no \"Moon/Base\"")
        );

        symlink("/tmp", root.join("out")).unwrap();
        let mut leaving = site;
        leaving.file[0].path = "/out/motd".into();
        assert!(
            bake(&root, &leaving, &path)
                .unwrap_err()
                .to_string()
                .contains("leaves the tree")
        );
    }
}
