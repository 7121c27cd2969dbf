//! People's side of the control plane, against a server that listens on the loopback, over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cairnctl;
mod device_data;
mod full_disk;
mod patches;
mod release;
mod scopes;
mod serving;
mod site;
mod stream;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
mod uploads;
mod who;
mod workloads;
