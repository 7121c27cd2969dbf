//! The agent: it tells the control plane how a node is, does what it is asked, and updates the node.
//!
//! | Module | Owns |
//! |---|---|
//! | [`config`] | settings: fragments, what they say, what is made of it |
//! | [`setting`] | a single one: what is wrong with it, spans of time |
//! | [`identity`] | the node's key and certificate: enrolment, renewal, recovery |
//! | [`link`] | MQTT and HTTP to the server, and what it orders |
//! | [`neighbours`] | the other nodes of the site, who have images, too |
//! | [`rpc`] | what the server may ask for |
//! | [`outbox`] | what waits to be sent, on the disk |
//! | [`telemetry`] | measuring the node; what it is |
//! | [`traffic`] | metering what is paid for |
//! | [`lines`] | probing the node's lines, and how fast they are |
//! | [`tamper`] | signs of tampering, told with evidence |
//! | [`metrics`] | Prometheus' text, and a listener for it |
//! | [`diagnostics`] | what a person wants to see of a node that is far away |
//! | [`requests`], [`pace`] | the little of an HTTP server that is needed; a rate, kept |
//! | [`clock`] | the time, as far as it is known |
//! | [`files`] | small files that survive a power cut |
//! | [`shutdown`] | telling tasks to end |
//! | [`daemon`] | starts all of it, reloads, shuts down |
//! | [`logging`] | where messages go
//! | [`disks`] | laying disks out as declared |
//! | [`workloads`] | containers of customers, by the Docker Engine |
//! | [`status`], [`socket`] | what a person at the console sees |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stdout,
        clippy::print_stderr
    )
)]

pub mod clock;
pub mod config;
pub mod daemon;
pub mod diagnostics;
pub mod disks;
pub mod files;
pub mod identity;
pub mod lines;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod neighbours;
#[cfg(test)]
mod netns;
pub mod outbox;
pub mod pace;
pub mod requests;
pub mod rpc;
pub mod setting;
pub mod shutdown;
pub mod socket;
pub mod status;
pub mod tamper;
pub mod telemetry;
pub mod told;
pub mod traffic;
pub mod update;
pub mod workloads;
