//! `cairn-initramfs-hook`: see the library.

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use cairn_initramfs_hook::{boot, shutdown};

const USAGE: &str = "\
usage: cairn-initramfs-hook --mounted-data DIR --new-root DIR

Makes the verified root of the release named on the kernel command line at
--new-root, from a DATA partition that is mounted at --mounted-data.
As process 1 it is the initramfs' /init and the exit ramdisk's /shutdown.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let program = args.first().map_or("", String::as_str);
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match (std::process::id(), Path::new(program).file_name()) {
        (1, Some(name)) if name == "shutdown" => shutdown::run(words.first().copied()),
        (1, _) => boot::run(),
        _ => return helper(&words),
    }
    // The end of process 1 is a panic, and with panic=5 a reset: the last resort.
    ExitCode::FAILURE
}

fn helper(words: &[&str]) -> ExitCode {
    match words {
        ["--mounted-data", data, "--new-root", new_root] => {
            match boot::onto(Path::new(data), Path::new(new_root)) {
                Ok(()) => ExitCode::SUCCESS,
                // Told on the console already.
                Err(_) => ExitCode::FAILURE,
            }
        }
        _ => {
            let _ = io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}
