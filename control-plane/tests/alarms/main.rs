//! Alarms from a device to the people, against a server that listens on the loopback and receivers that are real servers too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cairnctl;
mod channels;
mod course;
mod receiver;
mod scene;
mod suppliers;
#[path = "../support/mod.rs"]
mod support;
