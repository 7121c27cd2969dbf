//! The other tools, over the same images. All that come by HTTP are served by [`Wire`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use cairn_release::index::BlockIndex;
use cairn_tests::tools;

use super::measure::{self, Cost};
use super::ours;
use super::wire::Wire;

/// An update of one image file, and a folder to work in.
pub struct Task<'t> {
    /// What the node has.
    pub old: &'t Path,
    /// What it shall have.
    pub new: &'t Path,
    /// Empty at first.
    pub dir: &'t Path,
}

/// What a tool needed.
pub struct Row {
    /// Its name.
    pub tool: String,
    /// Bytes over the wire.
    pub wire: u64,
    /// What getting the new image cost the node; `None` if it was computed.
    pub cost: Option<Cost>,
}

impl Task<'_> {
    /// Where the tool puts the new image, and GNU time its notes; nothing is there.
    pub fn out(&self) -> Result<(PathBuf, PathBuf)> {
        let out = self.dir.join("out");
        if out.exists() {
            fs::remove_file(&out)?;
        }
        Ok((out, self.dir.join("time")))
    }

    /// Whether a tool has made the new image; what it left unsynced is no cost of the next.
    pub fn done(&self, tool: &str, wire: u64, cost: Cost) -> Result<Row> {
        let (out, _) = (self.dir.join("out"), ());
        ensure!(
            fs::read(&out)? == fs::read(self.new)?,
            "{tool} made another image"
        );
        File::open(&out)?.sync_all()?;
        fs::remove_file(&out)?;
        Ok(Row {
            tool: tool.to_owned(),
            wire,
            cost: Some(cost),
        })
    }

    /// The whole image, written by dd and synced: what any tool has to write at least.
    ///
    /// # Errors
    /// If dd fails.
    pub fn whole(&self) -> Result<Row> {
        let (out, notes) = self.out()?;
        let name = |key: &str, path: &Path| format!("{key}={}", path.display());
        let args = [
            name("if", self.new),
            name("of", &out),
            "bs=1M".to_owned(),
            "conv=fsync".to_owned(),
        ];
        let cost = measure::run("dd", args, &notes)?;
        self.done("whole (dd conv=fsync)", fs::metadata(self.new)?.len(), cost)
    }

    /// zstd over the whole image with all of the old one as its dictionary.
    ///
    /// # Errors
    /// If zstd fails.
    pub fn zstd(&self) -> Result<Row> {
        let (out, notes) = self.out()?;
        let packed = self.dir.join("zstd");
        let from = format!("--patch-from={}", self.old.display());
        let path = |path: &Path| path.display().to_string();
        let zstd = |more: &[&str], input: &Path, output: &Path| {
            let mut args: Vec<String> = more.iter().map(|arg| (*arg).to_owned()).collect();
            args.extend([from.clone(), path(input), "-o".to_owned(), path(output)]);
            measure::run("zstd", args, &notes)
        };
        zstd(&["-q", "-f", "-19", "--long=31"], self.new, &packed)?;
        let cost = zstd(&["-q", "-d", "--long=31"], &packed, &out)?;
        self.done("zstd -19 --patch-from", fs::metadata(&packed)?.len(), cost)
    }

    /// casync with chunks of this size on average, from an HTTP store, the old image as seed.
    ///
    /// # Errors
    /// If casync fails.
    pub fn casync(&self, average: u32) -> Result<Row> {
        let (out, notes) = self.out()?;
        let served = self.dir.join(format!("casync-{average}"));
        fs::create_dir_all(&served)?;
        let path = |path: &Path| path.display().to_string();
        measure::run(
            tools::require("casync")?,
            [
                "make".to_owned(),
                format!("--chunk-size={average}"),
                format!("--store={}", path(&served.join("new.castr"))),
                path(&served.join("new.caibx")),
                path(self.new),
            ],
            &notes,
        )?;
        let wire = Wire::serve(&served)?;
        let cost = measure::run(
            "casync",
            [
                "extract".to_owned(),
                format!("--store=http://{}/new.castr", wire.address),
                format!("--seed={}", path(self.old)),
                format!("http://{}/new.caibx", wire.address),
                path(&out),
            ],
            &notes,
        )?;
        fs::remove_dir_all(&served)?;
        self.done(
            &format!("casync, chunks of {} KiB", average >> 10),
            wire.taken(),
            cost,
        )
    }

    /// bita with chunks of this size on average, from an HTTP server, the old image as seed.
    ///
    /// # Errors
    /// If bita isn't there or fails.
    pub fn bita(&self, average: u32) -> Result<Row> {
        let (out, notes) = self.out()?;
        let served = self.dir.join("bita");
        fs::create_dir_all(&served)?;
        let path = |path: &Path| path.display().to_string();
        measure::run(
            bita()?,
            [
                "compress".to_owned(),
                "--force-create".to_owned(),
                format!("--avg-chunk-size={average}"),
                format!("--min-chunk-size={}", average / 4),
                format!("--input={}", path(self.new)),
                path(&served.join("new.cba")),
            ],
            &notes,
        )?;
        let wire = Wire::serve(&served)?;
        let cost = measure::run(
            bita()?,
            [
                "clone".to_owned(),
                format!("--seed={}", path(self.old)),
                format!("http://{}/new.cba", wire.address),
                path(&out),
            ],
            &notes,
        )?;
        fs::remove_dir_all(&served)?;
        self.done(
            &format!("bita, chunks of {} KiB", average >> 10),
            wire.taken(),
            cost,
        )
    }

    /// RAUC's block-hash-index, computed from its rule (`src/hash_index.c` and the manual's
    /// "Adaptive Updates"): the index of 32 bytes for each 4 KiB of the image is fetched
    /// whole, then each 4 KiB chunk that neither the old slot nor what is written of the new
    /// one has. It can't run here: it streams by nbd and dm-verity. That a bundle is a
    /// squashfs, so that its blocks are fetched whole around a chunk, is left out in its
    /// favour; requests count as ours do.
    ///
    /// # Errors
    /// If an image can't be read.
    pub fn rauc(&self) -> Result<Row> {
        let new = fs::read(self.new)?;
        let index = BlockIndex::of(&new).as_bytes().len() as u64;
        Ok(Row {
            tool: "RAUC block-hash-index (computed)".to_owned(),
            wire: index + ours::REQUEST + ours::missing(self.old, &new)?,
            cost: None,
        })
    }
}

/// bita, which `.ci/setup bench` puts below the target folder.
fn bita() -> Result<PathBuf> {
    let own = tools::target_dir().join("tools/bin/bita");
    match (own.is_file(), tools::require("bita")) {
        (true, _) => Ok(own),
        (false, Ok(other)) => Ok(other),
        (false, Err(_)) => bail!("bita is not installed: run `.ci/setup bench`"),
    }
}
