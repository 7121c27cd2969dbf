//! The control plane: one server for devices and people, and `cairnctl`.
//!
//! | Module | Owns |
//! |---|---|
//! | [`app`] | what every handler needs, in one handle |
//! | [`config`] | what the server is told at its start |
//! | [`server`] | listeners, start and shutdown |
//! | [`tls`] | the server's certificate, and what a client's certificate says |
//! | [`store`] | the database |
//! | [`ca`] | the certificate authority |
//! | [`registry`] | devices, their attributes, enrolment tokens, credentials |
//! | [`sessions`] | which device is connected, and how to reach it |
//! | [`devices`] | the device API over MQTT and HTTP |
//! | [`telemetry`] | taking and reading telemetry |
//! | [`stream`] | what comes from devices, for other systems to read |
//! | [`traffic`] | traffic that is paid for |
//! | [`metrics`] | what Prometheus reads |
//! | [`people`] | accounts, logins, API tokens, the audit log |
//! | [`api`] | REST for people |
//! | [`web`] | what all handlers of HTTP share: errors, pages |
//! | [`releases`] | the release store |
//! | [`rollouts`] | which device shall run which release |
//! | [`workloads`] | what customers have the fleet run, and where |
//! | [`disks`] | how devices' disks shall be laid out |
//! | [`desired`] | what each device shall be: revisions, and who has been told |
//! | [`alarms`] | what is wrong with devices, and who is told |
//! | [`duration`] | durations as people write them |
//! | [`coins`] | limits on what happens at a rate |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod alarms;
pub mod api;
pub mod app;
pub mod ca;
pub mod coins;
pub mod config;
pub mod desired;
pub mod devices;
pub mod disks;
pub mod duration;
pub mod metrics;
pub mod people;
pub mod registry;
pub mod releases;
pub mod rollouts;
pub mod server;
pub mod sessions;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod traffic;
pub mod web;
pub mod workloads;
