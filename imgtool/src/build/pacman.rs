//! Installing packages with the real pacman.

use crate::error::{Error, Result};
use crate::files;
use cairn_release::Timestamp;
use cairn_system::{Command, CommandError};
use std::path::Path;
use std::time::Duration;

/// Where pacman keeps what is installed, within a root.
pub const DATABASE: &str = "var/lib/pacman";

/// Installs `packages` and what they depend on into `root`. Downloads are kept in `cache`.
///
/// # Errors
/// If pacman isn't there or says no. A package that no repository has is the
/// caller's input, and is named.
pub fn install(
    root: &Path,
    conf: &Path,
    cache: &Path,
    packages: &[String],
    epoch: Timestamp,
) -> Result<()> {
    files::make_folder(&root.join(DATABASE))?;
    Command::new("pacman")
        .clear_env()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root")
        .arg("--root")
        .arg(root)
        .arg("--dbpath")
        .arg(root.join(DATABASE))
        .arg("--config")
        .arg(conf)
        .arg("--cachedir")
        .arg(cache)
        .arg("--hookdir")
        .arg(root.join("etc/pacman.d/hooks"))
        .args([
            "--logfile",
            "/dev/null",
            "--noconfirm",
            "--noprogressbar",
            "-Sy",
            "--needed",
        ])
        // systemd and others write this time where they would write today's.
        .env("SOURCE_DATE_EPOCH", epoch.unix().to_string())
        .arg("--")
        .args(packages)
        .timeout(Duration::from_secs(4 * 3600))
        .run()
        .map(drop)
        .map_err(explain)
}

fn explain(error: CommandError) -> Error {
    match &error {
        CommandError::NotFound { .. } => Error::failed(error.to_string())
            .hint("install pacman (on Debian: pacman-package-manager)"),
        CommandError::Failed { stderr, .. } => match missing(stderr).as_slice() {
            [] if stderr.contains("Write failed") || stderr.contains("No space left") => {
                Error::failed("the work area is too small for the packages")
                    .hint("it lies in memory; give it more with --work-size, or the machine more swap")
            }
            [] if stderr.contains("invalid or corrupted package") => {
                Error::failed("pacman could not install the packages").because(error).hint(
                    "a package of the same name and version but other content may lie in --cache; \
                     remove it there",
                )
            }
            [] => Error::failed("pacman could not install the packages").because(error),
            names => Error::input(format!("no repository has the package {}", names.join(", ")))
                .hint("look for it in packages.x86_64, in the site file, and in pacman.conf's repositories"),
        },
        _ => Error::failed("pacman could not install the packages").because(error),
    }
}

fn missing(stderr: &str) -> Vec<String> {
    stderr
        .lines()
        .filter_map(|line| line.split_once("target not found: "))
        .map(|(_, name)| format!("{:?}", name.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_the_packages_that_are_missing() {
        let stderr =
            "warning: x\nerror: target not found: nosuch\nerror: target not found: other\n";
        assert_eq!(super::missing(stderr), ["\"nosuch\"", "\"other\""]);
    }
}
