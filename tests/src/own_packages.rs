//! The project's own programs as pacman packages: made from the tree's PKGBUILDs by
//! the real makepkg, and put into a repository that stands beside the big one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use walkdir::WalkDir;

use crate::addition::meta;
use crate::pacman_repo::section;
use crate::test_package::repo_add;
use crate::tools;
use crate::workshop::EPOCH;

/// The repository's name in pacman.conf.
const NAME: &str = "cairn";
/// makepkg refuses root; `.ci/setup` makes this user.
const USER: &str = "cairn-ci";
/// What Debian calls otherwise than Arch does.
const OTHER_NAMES: [(&str, &str); 2] = [("glibc", "libc6"), ("gcc-libs", "libgcc-s1")];

/// A folder of the tree with a PKGBUILD, and the programs that it packs.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The folder, from the top of the tree.
    pub folder: &'static str,
    /// The programs, already built.
    pub programs: Vec<PathBuf>,
}

/// What in a recipe's folder is no source of a program, and so may be packed.
fn packed(folder: &Path) -> impl Iterator<Item = PathBuf> {
    WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name();
            entry.depth() != 1 || !(name == "src" || name == "target" || name == "tests")
        })
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
}

impl Recipe {
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(self.folder)
    }

    /// Every file that decides what the package holds.
    pub fn inputs(&self) -> Vec<PathBuf> {
        packed(&self.source())
            .chain(self.programs.clone())
            .collect()
    }

    /// Makes the package and says where it is; `dir` must be this recipe's alone.
    ///
    /// # Errors
    /// If makepkg isn't there or says no.
    pub fn make(&self, dir: &Path) -> Result<PathBuf> {
        tools::require("makepkg")?;
        tools::require("fakeroot")?;
        fs::create_dir_all(dir)?;
        let (tree, programs, out) = (dir.join("tree"), dir.join("programs"), dir.join("out"));
        for file in packed(&self.source()) {
            let to = tree.join(file.strip_prefix(self.source())?);
            fs::create_dir_all(to.parent().unwrap_or(&tree))?;
            fs::copy(&file, to)?;
        }
        fs::create_dir_all(&programs)?;
        fs::create_dir_all(&out)?;
        for program in &self.programs {
            let name = program.file_name().context("a program without a name")?;
            fs::copy(program, programs.join(name))
                .with_context(|| format!("cannot copy {}", program.display()))?;
        }
        let makepkg = [
            "makepkg",
            "--nodeps",
            "--noconfirm",
            "--nocolor",
            "--nosign",
        ];
        let command = if rustix::process::geteuid().is_root() {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
            Command::new("chown")
                .args(["-R", &format!("{USER}:{USER}")])
                .arg(dir)
                .run()
                .context("is there no user cairn-ci? .ci/setup makes it")?;
            Command::new("setpriv")
                .args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"])
                .args(makepkg)
        } else {
            Command::new(makepkg[0]).args(&makepkg[1..])
        };
        command
            .clear_env()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", dir)
            .env("BUILDDIR", dir.join("build"))
            .env("PKGDEST", &out)
            .env("PKGEXT", ".pkg.tar.zst")
            .env("CAIRN_PREBUILT", &programs)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .dir(&tree)
            .timeout(Duration::from_secs(300))
            .run()
            .with_context(|| format!("cannot make the package of {}", self.folder))?;
        let mut made: Vec<_> = fs::read_dir(&out)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        ensure!(made.len() == 1, "makepkg made {made:?}");
        made.pop().context("makepkg made nothing")
    }
}

/// Makes a repository of the recipes' packages in `dir`, and gives the section of
/// pacman.conf that names it.
///
/// # Errors
/// If a package or the database can't be made.
pub fn repository(dir: &Path, recipes: &[Recipe]) -> Result<String> {
    fs::create_dir_all(dir)?;
    let mut files = Vec::new();
    for recipe in recipes {
        // Where somebody else than root may come.
        let scratch = tempfile::Builder::new()
            .prefix("cairn-makepkg-")
            .tempdir()?;
        let package = recipe.make(scratch.path())?;
        let to = dir.join(package.file_name().context("a package without a name")?);
        fs::copy(&package, &to)?;
        files.push(to);
    }
    for (name, other) in OTHER_NAMES {
        files.push(meta(name, &[other]).build(dir)?);
    }
    repo_add(dir, NAME, &files)?;
    Ok(section(NAME, &format!("file://{}", dir.display())))
}
