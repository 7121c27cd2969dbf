//! The device API against a real server, with clients that nobody here wrote.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "devices/crowd.rs"]
mod crowd;
#[path = "devices/durability.rs"]
mod durability;
#[path = "devices/enrolment.rs"]
mod enrolment;
#[path = "devices/http.rs"]
mod http;
#[path = "devices/ingest.rs"]
mod ingest;
#[path = "devices/isolation.rs"]
mod isolation;
#[path = "devices/mosquitto.rs"]
mod mosquitto;
#[path = "devices/quota.rs"]
mod quota;
#[path = "devices/speed.rs"]
mod speed;
#[path = "devices/thingsboard.rs"]
mod thingsboard;
