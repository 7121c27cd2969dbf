//! The commands, one file a subject.

pub mod account;
pub mod alarm;
pub mod api_token;
pub mod audit;
pub mod call;
pub mod device;
pub mod login;
mod patches;
pub mod registry;
pub mod release;
pub mod rollout;
pub mod stream;
pub mod token;
pub mod traffic;
mod upload;
pub mod workload;

use std::path::Path;

use clap::CommandFactory as _;
use clap::builder::RangedU64ValueParser;
use reqwest::Method;
use serde_json::Value;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::output::Output;

/// Largest file that a person wrote, in bytes.
const LARGEST_DOCUMENT: u64 = 256 * 1024;

/// Runs a command.
///
/// # Errors
/// If it fails.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    match command {
        Command::Login(login) => login.run(output).await,
        Command::Logout => login::logout(output).await,
        Command::Whoami => login::whoami(output).await,
        Command::Token(command) => token::run(command, output).await,
        Command::Device(command) => device::run(command, output).await,
        Command::Release(command) => release::run(command, output).await,
        Command::Rollout(command) => rollout::run(command, output).await,
        Command::Registry(command) => registry::run(command, output).await,
        Command::Workload(command) => workload::run(command, output).await,
        Command::Alarm(command) => alarm::run(command, output).await,
        Command::Rpc(rpc) => rpc.run(output).await,
        Command::Logs(logs) => logs.run(output).await,
        Command::Account(command) => account::run(command, output).await,
        Command::ApiToken(command) => api_token::run(command, output).await,
        Command::Traffic(command) => traffic::run(command, output).await,
        Command::Stream(command) => stream::run(command, output).await,
        Command::Audit(audit) => audit.run(output).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cairnctl", &mut script);
            output.bytes(&script)
        }
    }
}

/// A duration on the command line, as seconds.
fn seconds(text: &str) -> std::result::Result<i64, String> {
    let duration = cairn_control_plane::duration::parse(text).map_err(|error| error.to_string())?;
    i64::try_from(duration.as_secs()).map_err(|error| error.to_string())
}

/// How many on the command line: at least one.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// JSON that a person wrote: a file, or stdin (`-`). `described` says where it is described.
fn document(file: &Path, described: &str) -> Result<Value> {
    use std::io::Read as _;
    let cannot = || Error::new(format!("cannot read {}", file.display()));
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let stdin = std::io::stdin();
        stdin
            .take(LARGEST_DOCUMENT)
            .read_to_end(&mut bytes)
            .map_err(|error| cannot().because(error))?;
        bytes
    } else {
        cairn_control_plane::releases::files::read(file, LARGEST_DOCUMENT)
            .map_err(|error| cannot().because(error))?
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        cannot()
            .because(error)
            .hint(format!("expected JSON, as in {described}"))
    })
}

/// Puts what a person wrote; an error names its file.
async fn put_document(client: &Client, path: &str, file: &Path, described: &str) -> Result<Value> {
    let body = document(file, described)?;
    let put = client.with(Method::PUT, path, &body).await;
    put.map_err(|error| {
        Error::new(format!("cannot set what {} says", file.display())).because_of([error])
    })
}

/// A field of an object; null if there is none.
fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A field as text in a cell.
fn cell(value: &Value, name: &str) -> String {
    crate::output::cell(field(value, name))
}

/// A field as a moment.
fn moment(value: &Value, name: &str) -> String {
    crate::output::moment(field(value, name))
}
