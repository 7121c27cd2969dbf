//! Our PKGBUILDs, by the real makepkg and as pacman reads what it made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cairn_system::Command;
use cairn_tests::own_packages::Recipe;
use cairn_tests::{fleet, workshop};

/// What pacman says of a package file.
fn pacman(query: &str, package: &Path) -> Result<String> {
    let pacman = Command::new("pacman")
        .env("LC_ALL", "C")
        .args(["-Qp", query]);
    Ok(pacman.arg(package).run()?.text())
}

fn make(folder: &'static str, programs: &[&Path]) -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let programs = programs.iter().map(|path| path.to_path_buf()).collect();
    let package = Recipe { folder, programs }.make(dir.path())?;
    Ok((dir, package))
}

fn holds(package: &Path, files: &[&str]) -> Result<()> {
    let list = pacman("-lq", package)?;
    for file in files {
        assert!(
            list.lines().any(|line| line == *file),
            "no {file} in:\n{list}"
        );
    }
    assert!(
        !list.contains("PKGBUILD") && !list.contains("Cargo.toml"),
        "{list}"
    );
    Ok(())
}

#[test]
fn the_hook_comes_with_its_shims() -> Result<()> {
    let programs = workshop::Programs::build(false)?;
    let (_dir, package) = make("initramfs-hook", &[&programs.hook])?;
    holds(
        &package,
        &[
            "/usr/lib/cairn/cairn-initramfs-hook",
            "/usr/lib/initcpio/install/cairn",
            "/usr/lib/initcpio/hooks/cairn",
            "/usr/lib/dracut/modules.d/90cairn/module-setup.sh",
        ],
    )
}

#[test]
fn the_agent_and_the_control_plane_come_with_their_units() -> Result<()> {
    let programs = fleet::Programs::build(false)?;
    let (_dir, package) = make("agent", &[&programs.agent])?;
    holds(
        &package,
        &[
            "/usr/bin/cairn-agent",
            "/usr/lib/systemd/system/cairn-agent.service",
            "/usr/lib/cairn/agent.d/",
        ],
    )?;
    let (_dir, package) = make("control-plane", &[&programs.control, &programs.ctl])?;
    holds(
        &package,
        &[
            "/usr/bin/cairn-control",
            "/usr/bin/cairnctl",
            "/usr/lib/systemd/system/cairn-control.service",
            "/usr/lib/sysusers.d/cairn-control.conf",
            "/usr/share/bash-completion/completions/cairnctl",
        ],
    )?;
    let about = pacman("-i", &package)?;
    let license = about.lines().find(|line| line.starts_with("Licenses"));
    assert!(license.context("no licence")?.ends_with("Apache-2.0"));
    Ok(())
}
