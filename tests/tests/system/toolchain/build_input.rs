//! Wrong input to `imgtool build` and `imgtool loader`: one clear error, and
//! nothing half-made.

use super::bench::{Bench, User, refuses};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// Changes a file of root's profile, does something, and puts it back.
fn with_file(path: &Path, text: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = fs::read(path).ok();
    fs::write(path, text)?;
    work()?;
    match before {
        Some(bytes) => fs::write(path, bytes)?,
        None => fs::remove_file(path)?,
    }
    Ok(())
}

#[test]
fn a_wrong_profile_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let profile = bench.home(User::Root).join("profile");
    let build = || bench.build(User::Root, "1", &[]);
    let cases = [
        (
            "unknown_field",
            "image.toml",
            "[kernel]\nargument = \"quiet\"\n",
        ),
        ("no_package", "packages.x86_64", "# nothing yet\n"),
        ("option_as_package", "packages.x86_64", "base\n--root=/\n"),
        (
            "wrong_architecture",
            "profiledef.sh",
            "iso_name=edge\narch=riscv64\n",
        ),
        (
            "failing_definition",
            "profiledef.sh",
            "iso_name=edge\nexit 7\n",
        ),
        (
            "no_repository",
            "pacman.conf",
            "[options]\nArchitecture = x86_64\n",
        ),
        (
            "repository_gone",
            "pacman.conf",
            "[options]\nArchitecture = x86_64\n[gone]\nSigLevel = Never\nServer = file:///no/such/repo\n",
        ),
        (
            "missing_package",
            "packages.x86_64",
            "base\nno-such-package\n",
        ),
        ("no_kernel", "packages.x86_64", "filesystem\n"),
    ];
    for (name, file, text) in cases {
        with_file(&profile.join(file), text, || {
            refuses!(bench, User::Root, name, build());
            Ok(())
        })?;
    }
    let link = profile.join("airootfs/etc/leaving");
    symlink("../../../../etc/shadow", &link)?;
    refuses!(bench, User::Root, "leaving_symlink", build());
    fs::remove_file(link)?;
    fs::remove_file(profile.join("profiledef.sh"))?;
    refuses!(bench, User::Root, "no_profiledef", build());
    refuses!(
        bench,
        User::Root,
        "no_profile",
        replaced(build(), "profile", "nowhere", &bench)
    );
    Ok(())
}

#[test]
fn a_wrong_site_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let site = bench.home(User::Root).join("site.toml");
    for (name, text) in [
        ("site_unknown_key", "format = 1\nhost-name = \"edge\"\n"),
        ("site_not_toml", "format 1\n"),
        (
            "site_missing_package",
            "format = 1\npackages = [\"no-such-package\"]\n",
        ),
        (
            "site_source_leaves",
            "format = 1\n[[file]]\nsource = \"../../../etc/shadow\"\npath = \"/etc/shadow\"\n",
        ),
        (
            "site_source_missing",
            "format = 1\n[[file]]\nsource = \"motd\"\npath = \"/etc/motd\"\n",
        ),
        ("site_timezone", "format = 1\ntimezone = \"Moon/Base\"\n"),
    ] {
        fs::write(&site, text)?;
        refuses!(
            bench,
            User::Root,
            name,
            bench.build(User::Root, "1", &["--site", "site.toml"])
        );
    }
    Ok(())
}

#[test]
fn wrong_keys_and_trust_are_named() -> Result<()> {
    let bench = Bench::new()?;
    let home = bench.home(User::Root);
    cairn_system::Command::new(bench.path("imgtool"))
        .args(["keygen", "boot", "--no-passphrase", "--out", "other.key"])
        .dir(&home)
        .run()?;
    fs::write(home.join("empty"), "")?;
    fs::write(
        home.join("cut.json"),
        &fs::read(home.join("trust/1.dsse.json"))?[..100],
    )?;
    let build = |more: &[&str]| bench.build(User::Root, "1", more);
    let loader = |more: &[&str]| bench.loader(User::Root, more);
    refuses!(bench, User::Root, "build_other_boot_key", {
        replaced(build(&[]), "boot.key", "other.key", &bench)
    });
    refuses!(bench, User::Root, "loader_other_boot_key", {
        replaced(loader(&[]), "boot.key.pub", "other.key.pub", &bench)
    });
    refuses!(bench, User::Root, "wrong_passphrase", {
        let mut command = build(&[]);
        command.env("CAIRN_PASSPHRASE", "not this one");
        command
    });
    refuses!(
        bench,
        User::Root,
        "empty_key",
        replaced(build(&[]), "release.key", "empty", &bench)
    );
    refuses!(
        bench,
        User::Root,
        "missing_key",
        replaced(build(&[]), "release.key", "no.key", &bench)
    );
    refuses!(bench, User::Root, "cut_trust", {
        replaced(build(&[]), "trust/1.dsse.json", "cut.json", &bench)
    });
    refuses!(bench, User::Root, "no_hook", build(&["--hook", "nowhere"]));
    refuses!(
        bench,
        User::Root,
        "hook_is_text",
        build(&["--hook", "profile/profiledef.sh"])
    );

    let key = bench.home(User::Ci).join("release.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000))?;
    refuses!(
        bench,
        User::Ci,
        "unreadable_key",
        bench.build(User::Ci, "1", &[])
    );
    refuses!(
        bench,
        User::Ci,
        "loader_unreadable_key",
        bench.loader(User::Ci, &[])
    );
    Ok(())
}

#[test]
fn a_place_that_takes_no_release_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let home = bench.home(User::Root);
    fs::create_dir(home.join("out/1"))?;
    fs::create_dir(home.join("out/loader"))?;
    fs::write(home.join("file"), "")?;
    refuses!(
        bench,
        User::Root,
        "version_there",
        bench.build(User::Root, "1", &[])
    );
    refuses!(
        bench,
        User::Root,
        "loader_there",
        bench.loader(User::Root, &[])
    );
    refuses!(
        bench,
        User::Root,
        "out_is_a_file",
        replaced(bench.build(User::Root, "2", &[]), "out", "file", &bench)
    );
    refuses!(
        bench,
        User::Root,
        "no_version",
        bench.build(User::Root, "../2", &[])
    );
    refuses!(
        bench,
        User::Root,
        "no_size",
        bench.build(User::Root, "2", &["--work-size", "much"])
    );
    refuses!(bench, User::Root, "small_work_area", {
        bench.build(User::Root, "2", &["--work-size", "20M"])
    });
    refuses!(bench, User::Root, "loader_small_work_area", {
        replaced(
            bench.loader(User::Root, &["--work-size", "20M"]),
            "out/loader",
            "out/l2",
            &bench,
        )
    });

    let out = bench.home(User::Ci).join("out");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o555))?;
    refuses!(
        bench,
        User::Ci,
        "read_only_out",
        bench.build(User::Ci, "1", &[])
    );
    refuses!(
        bench,
        User::Ci,
        "loader_read_only_out",
        bench.loader(User::Ci, &[])
    );
    Ok(())
}

#[test]
fn a_file_system_that_is_full_or_read_only_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let on = |options: &str, command: &std::process::Command| {
        mounted(&bench, options, command).context("unshare")
    };
    let build = bench.build(User::Root, "1", &[]);
    let loader = bench.loader(User::Root, &[]);
    refuses!(bench, User::Root, "full_out", on("size=4M", &build)?);
    refuses!(
        bench,
        User::Root,
        "loader_full_out",
        on("size=256k", &loader)?
    );
    refuses!(
        bench,
        User::Root,
        "out_mounted_read_only",
        on("ro", &build)?
    );
    Ok(())
}

/// The command with a file system in memory mounted on `out`, and a list of what
/// is on it afterwards.
fn mounted(
    bench: &Bench,
    options: &str,
    command: &std::process::Command,
) -> Result<std::process::Command> {
    let mut shell = bench.program(User::Root, "unshare");
    shell
        .args(["--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o {options} none out && \"$@\"; code=$?; ls -A out; exit $code"
        ))
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args());
    Ok(shell)
}

/// The command with another argument in the place of `from`.
fn replaced(
    command: std::process::Command,
    from: &str,
    to: &str,
    bench: &Bench,
) -> std::process::Command {
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    let args: Vec<_> = args
        .map(|arg| if arg == from { to.into() } else { arg })
        .collect();
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    bench.imgtool(User::Root, &args)
}
