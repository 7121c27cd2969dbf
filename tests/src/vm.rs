//! A machine in QEMU. It takes a place of the few that may run at once, and it is
//! gone, process and all, when it is dropped or the test dies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::serial::Serial;
use crate::tools::{self, FileLock};

/// How many machines run at once. A node waits half of its time, for its watchdog or for
/// an answer; more of them would only slow each other down on two processors. Each has one
/// processor: of two, under emulation, one waits for the other.
const PLACES: u32 = 3;
const OVMF_CODE: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
];
const OVMF_VARS: &[&str] = &[
    "/usr/share/OVMF/OVMF_VARS_4M.fd",
    "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
];

/// What starts the machine.
#[derive(Debug, Clone)]
pub enum Firmware {
    /// A legacy BIOS.
    Bios,
    /// UEFI with empty variables.
    Ovmf,
    /// UEFI with these variables, which [`secure_boot_vars`] makes; each machine
    /// works on a copy.
    OvmfSecureBoot {
        /// The variables' file.
        vars: PathBuf,
    },
    /// No firmware to speak of: QEMU itself loads a kernel.
    Kernel {
        /// The kernel.
        vmlinuz: PathBuf,
        /// Its initramfs.
        initrd: PathBuf,
        /// Its command line.
        cmdline: String,
    },
}

/// How a machine uses a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// They stay in the image.
    Kept,
    /// They are lost when the machine ends; the image is never written to.
    Dropped,
}

/// A machine to be.
#[derive(Debug, Clone)]
pub struct VmBuilder {
    name: String,
    memory_mib: u32,
    firmware: Firmware,
    disks: Vec<(PathBuf, Writes)>,
    log: Option<PathBuf>,
    watchdog: bool,
    rtc: Option<String>,
    no_reboot: bool,
    extra: Vec<OsString>,
}

impl VmBuilder {
    /// Sets its memory in MiB; it is 1024 otherwise.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Sets what starts it; it is the BIOS otherwise.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// Adds a virtio disk: raw, or qcow2 if its name ends so.
    #[must_use]
    pub fn disk(mut self, image: impl AsRef<Path>, writes: Writes) -> Self {
        self.disks.push((image.as_ref().to_owned(), writes));
        self
    }

    /// Logs the writes and flushes of the first disk, a raw one that keeps its writes:
    /// `log` becomes what [`crate::power_cut::log`] reads.
    #[must_use]
    pub fn log_writes(mut self, log: impl AsRef<Path>) -> Self {
        self.log = Some(log.as_ref().to_owned());
        self
    }

    /// Adds an i6300esb watchdog, which resets the machine.
    #[must_use]
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// Sets its clock: `utc`, or a time as `2026-11-22T00:00:00`.
    #[must_use]
    pub fn clock(mut self, base: &str) -> Self {
        self.rtc = Some(base.to_owned());
        self
    }

    /// Makes a reboot end it.
    #[must_use]
    pub fn no_reboot(mut self) -> Self {
        self.no_reboot = true;
        self
    }

    /// Adds an argument of QEMU's.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.extra.push(arg.into());
        self
    }

    /// Starts it, as soon as there is a place for it.
    ///
    /// # Errors
    /// If a program or a file is missing.
    pub fn start(self) -> Result<Vm> {
        let qemu = tools::require("qemu-system-x86_64")?;
        let setpriv = tools::require("setpriv")?;
        for (image, _) in &self.disks {
            File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
        }
        if let Some(log) = &self.log {
            // QEMU wants it to be there.
            File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        }
        let place = take_place()?;
        let scratch = TempDir::new()?;
        let mut command = Command::new(setpriv);
        command
            // Whatever ends the test ends the machine.
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu)
            .args(self.args(scratch.path())?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(scratch.path().join("stderr"))?);
        let log = tools::cache_dir()?.join(format!("logs/{}.log", self.name));
        Vm::spawn(command, &log, scratch, place)
    }

    fn args(&self, scratch: &Path) -> Result<Vec<OsString>> {
        let mut args: Vec<OsString> = [
            "-accel",
            "tcg,thread=multi,tb-size=1024",
            "-machine",
            "q35",
            // The least that Arch runs on: emulating newer ones takes a fifth more. With cx16 QEMU 7.2 crashes now and then;
            // for svm the guest would load KVM.
            "-cpu",
            "qemu64,-cx16,-svm",
            "-nographic",
            "-nodefaults",
            "-serial",
            "stdio",
            "-monitor",
            "none",
            "-m",
            &self.memory_mib.to_string(),
            "-object",
            "rng-random,id=rng,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng",
        ]
        .map(OsString::from)
        .into();
        let mut add = |option: &str, value: OsString| args.extend([option.into(), value]);
        match &self.firmware {
            Firmware::Bios => {}
            Firmware::Ovmf => self.flash(&first(OVMF_VARS)?, scratch, &mut add)?,
            Firmware::OvmfSecureBoot { vars } => self.flash(vars, scratch, &mut add)?,
            Firmware::Kernel {
                vmlinuz,
                initrd,
                cmdline,
            } => {
                add("-kernel", vmlinuz.into());
                add("-initrd", initrd.into());
                add("-append", cmdline.into());
            }
        }
        for (number, (image, writes)) in self.disks.iter().enumerate() {
            if let (0, Some(log)) = (number, &self.log) {
                add("-blockdev", logged(image, log));
                add("-device", "virtio-blk-pci,drive=logged".into());
                continue;
            }
            let format = match image.extension() {
                Some(extension) if extension == "qcow2" => "qcow2",
                _ => "raw",
            };
            let snapshot = if *writes == Writes::Dropped {
                "on"
            } else {
                "off"
            };
            let options = format!(
                "if=none,id=disk{number},format={format},snapshot={snapshot},discard=unmap,file="
            );
            add("-drive", file_option(&options, image));
            add(
                "-device",
                format!("virtio-blk-pci,drive=disk{number}").into(),
            );
        }
        if self.watchdog {
            add("-device", "i6300esb".into());
            add("-action", "watchdog=reset".into());
        }
        if let Some(base) = &self.rtc {
            add("-rtc", format!("base={base}").into());
        }
        if self.no_reboot {
            args.push("-no-reboot".into());
        }
        args.extend(self.extra.iter().cloned());
        Ok(args)
    }

    fn flash(
        &self,
        vars: &Path,
        scratch: &Path,
        add: &mut impl FnMut(&str, OsString),
    ) -> Result<()> {
        let own = scratch.join("vars.fd");
        fs::copy(vars, &own).with_context(|| format!("cannot copy {}", vars.display()))?;
        let code = file_option(
            "if=pflash,format=raw,unit=0,readonly=on,file=",
            &first(OVMF_CODE)?,
        );
        add("-drive", code);
        add(
            "-drive",
            file_option("if=pflash,format=raw,unit=1,file=", &own),
        );
        Ok(())
    }
}

/// QEMU takes a comma for the end of a value unless it is doubled.
fn file_option(options: &str, file: &Path) -> OsString {
    let file = file.to_string_lossy().replace(',', ",,");
    format!("{options}{file}").into()
}

/// A disk whose writes go to the image, and to the log as well.
fn logged(image: &Path, log: &Path) -> OsString {
    // QEMU flushes the log with each flush of the guest's; only a crash of the host
    // would need that.
    let log = file_option("log.cache.no-flush=on,log.driver=file,log.filename=", log);
    let mut options =
        OsString::from("driver=blklogwrites,node-name=logged,log-sector-size=512,discard=unmap,");
    options.push(file_option(
        "file.driver=file,file.discard=unmap,file.filename=",
        image,
    ));
    options.push(",");
    options.push(log);
    options
}

fn first(files: &[&str]) -> Result<PathBuf> {
    let found = files.iter().map(PathBuf::from).find(|file| file.is_file());
    found.with_context(|| format!("there is no {}: run .ci/setup as root", files.join(" or ")))
}

/// Waits for any of the places; a thread that gets one too late gives it back.
fn take_place() -> Result<FileLock> {
    let dir = tools::cache_dir()?;
    let (sender, receiver) = mpsc::channel();
    for place in 0..PLACES {
        let path = dir.join(format!("vm-{place}.lock"));
        let sender = sender.clone();
        thread::spawn(move || {
            let _ = sender.send(FileLock::wait(&path));
        });
    }
    receiver.recv().context("no place for a machine")?
}

/// UEFI variables with Secure Boot on and these certificates (PEM) enrolled, to be
/// written to `out`.
///
/// # Errors
/// If `virt-fw-vars` is missing or says no.
pub fn secure_boot_vars(pk: &Path, kek: &Path, db: &Path, out: &Path) -> Result<()> {
    const OWNER: &str = "6d2c1c0e-7f7d-4a43-9d0e-0c1a1e5b7a11";
    cairn_system::Command::new(tools::virt_fw_vars()?)
        .arg("--input")
        .arg(first(OVMF_VARS)?)
        .arg("--output")
        .arg(out)
        .args(["--set-pk", OWNER])
        .arg(pk)
        .args(["--add-kek", OWNER])
        .arg(kek)
        .args(["--add-db", OWNER])
        .arg(db)
        .arg("--secure-boot")
        .run()?;
    Ok(())
}

/// A machine that runs.
pub struct Vm {
    serial: Serial,
    child: Child,
    reader: Option<(JoinHandle<()>, mpsc::Sender<()>)>,
    scratch: TempDir,
    started: Instant,
    _place: FileLock,
}

impl Vm {
    /// A machine whose console is logged under this name.
    pub fn builder(name: &str) -> VmBuilder {
        VmBuilder {
            name: name.to_owned(),
            memory_mib: 1024,
            firmware: Firmware::Bios,
            disks: Vec::new(),
            log: None,
            watchdog: false,
            rtc: None,
            no_reboot: false,
            extra: Vec::new(),
        }
    }

    /// The signal at the parent's death comes when the *thread* that started the
    /// process dies. So a thread of its own starts it, reads its console, and stays
    /// until somebody has waited for the process.
    fn spawn(mut command: Command, log: &Path, scratch: TempDir, place: FileLock) -> Result<Self> {
        let (child_sender, child_receiver) = mpsc::channel();
        let (feed_sender, feed_receiver) = mpsc::channel::<crate::serial::Feed>();
        let (ended_sender, ended_receiver) = mpsc::channel::<()>();
        let reader = thread::spawn(move || {
            let mut child = command.spawn();
            let output = child.as_mut().ok().and_then(|child| child.stdout.take());
            let _ = child_sender.send(child);
            if let (Some(output), Ok(feed)) = (output, feed_receiver.recv()) {
                feed.run(BufReader::new(output));
            }
            // Nothing is ever sent: it returns when the other end is dropped.
            let _ = ended_receiver.recv();
        });
        let child = child_receiver.recv().context("the reading thread died")?;
        let mut child = child.context("cannot start QEMU")?;
        let input = child.stdin.take().context("QEMU has no input")?;
        let input: Box<dyn Write + Send> = Box::new(input);
        let (serial, feed) = Serial::new(input, log)?;
        feed_sender
            .send(feed)
            .ok()
            .context("the reading thread died")?;
        Ok(Self {
            serial,
            child,
            reader: Some((reader, ended_sender)),
            scratch,
            started: Instant::now(),
            _place: place,
        })
    }

    /// Its console.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until it ends by itself: switched off, or rebooted with
    /// [`VmBuilder::no_reboot`].
    ///
    /// # Errors
    /// If it hasn't after `within`, or QEMU failed; with what QEMU said.
    pub fn wait_for_end(&mut self, within: Duration) -> Result<()> {
        if !ends_within(&self.child, within)? {
            bail!(
                "the machine still runs after {} s; its console is logged in {}",
                within.as_secs(),
                self.serial.log().display()
            );
        }
        let status: ExitStatus = self.child.wait()?;
        if !status.success() {
            let mut said = String::new();
            File::open(self.scratch.path().join("stderr"))?.read_to_string(&mut said)?;
            bail!("QEMU ended with {status}: {}", said.trim());
        }
        Ok(())
    }

    /// Pulls the plug and waits until the process is gone. What the guest had
    /// written is in the image, as far as it had told the disk.
    pub fn cut_power(self) {
        drop(self);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((reader, ended)) = self.reader.take() {
            drop(ended);
            let _ = reader.join();
        }
    }
}

fn ends_within(child: &Child, within: Duration) -> Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let process = pidfd_open(pid.context("QEMU has no process id")?, PidfdFlags::empty())?;
    let deadline = Instant::now() + within;
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut fds, Some(&Timespec::try_from(left)?)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
