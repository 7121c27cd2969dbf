//! The command line.

use clap::{Parser, Subcommand};

use crate::commands::{
    account, alarm, api_token, audit, call, device, login, registry, release, rollout, stream,
    token, traffic, workload,
};

/// The Cairn control plane for people and pipelines
#[derive(Debug, Parser)]
#[command(name = "cairnctl", version, arg_required_else_help = true)]
pub struct Cli {
    /// Write results and errors as JSON
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in to a server, and keep the session
    Login(login::Login),
    /// End the session
    Logout,
    /// Who is logged in, where, and what they may do
    Whoami,
    /// Enrolment tokens: what a node trades for its first certificate
    #[command(subcommand)]
    Token(token::Command),
    /// Devices
    #[command(subcommand)]
    Device(device::Command),
    /// Releases
    #[command(subcommand)]
    Release(release::Command),
    /// Rollouts: which devices shall run which release
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Workloads: what customers have the fleet run, and where
    #[command(subcommand)]
    Workload(workload::Command),
    /// Registries that workloads' images come from, and who asks there
    #[command(subcommand)]
    Registry(registry::Command),
    /// Alarms: what is wrong with devices, and who is told
    #[command(subcommand)]
    Alarm(alarm::Command),
    /// Traffic: what was counted, and what it comes to
    #[command(subcommand)]
    Traffic(traffic::Command),
    /// The stream of what devices send, for other systems
    #[command(subcommand)]
    Stream(stream::Command),
    /// Call a device and wait for its own answer
    Rpc(call::Rpc),
    /// The last lines of a device's journal
    Logs(call::Logs),
    /// Accounts
    #[command(subcommand)]
    Account(account::Command),
    /// API tokens, for pipelines
    #[command(subcommand)]
    ApiToken(api_token::Command),
    /// The audit log
    Audit(audit::Audit),
    /// Write what a shell needs to complete this command line
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
