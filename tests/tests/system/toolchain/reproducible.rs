//! The same bytes, whoever builds, where and when.

use super::bench::{Bench, User};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn another_user_folder_time_and_locale_give_the_same_bytes() -> Result<()> {
    let bench = Bench::new()?;
    let mut first = bench.build(User::Root, "1.0.0", &[]);
    // The second in another time zone and language, where new files are private.
    let second = bench.build(User::Ci, "1.0.0", &[]);
    let mut shell = bench.program(User::Ci, "sh");
    shell
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .args(second.get_args().skip_while(|arg| *arg != "--").skip(1))
        .env("TZ", "Asia/Kathmandu")
        .env("LANG", "tr_TR.UTF-8")
        .env("LC_ALL", "tr_TR.UTF-8");
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output()?;
        assert!(output.status.success(), "{}", bench.text(&output));
        Ok(())
    };
    run(&mut first)?;
    run(&mut shell)?;

    let folder = |user| bench.home(user).join("out/1.0.0");
    let (one, two) = (folder(User::Root), folder(User::Ci));
    let initramfs = |release: &Path| -> Result<Vec<u8>> {
        let cat = cairn_system::Command::new("unsquashfs")
            .arg("-cat")
            .arg(release.join("kernel.squashfs"));
        Ok(cat.arg("initramfs.img").run()?.stdout)
    };
    assert_eq!(initramfs(&one)?, initramfs(&two)?, "initramfs.img");
    assert!(initramfs(&one)?.len() > 100_000);
    let (one, two) = (release(&one)?, release(&two)?);
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        [
            "contents.jsonl.zst",
            "kernel.squashfs",
            "kernel.squashfs.index",
            "manifest.dsse.json",
            "root.erofs",
            "root.erofs.index",
            "sbom.cdx.json",
        ]
    );
    let differ: Vec<_> = one
        .keys()
        .filter(|name| one.get(*name) != two.get(*name))
        .collect();
    assert!(
        differ.is_empty() && one.len() == two.len(),
        "{differ:?} differ"
    );
    bench.is_at_rest()
}

fn release(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}
