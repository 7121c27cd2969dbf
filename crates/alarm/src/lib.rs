//! Alarms, as pure functions: what a sample means, when an alarm fires, when people are told, and when it is over.
//!
//! A [`Template`] says what is wrong. What is known of one template, one device and one instance (a line, a file system) is a
//! [`Track`]; the caller keeps it, hands it to [`step`] with an event and the time, stores what comes back and does the effects, all
//! in one transaction. A track that has nothing to say is [`Track::default`], so that only what once was wrong takes room.
//!
//! An alarm is one *life* of a track: pending, firing, acknowledged, resolved. It fires once and is resolved once; what crosses after
//! that is another life with another number. All times are in milliseconds since 1970, durations in seconds.
//!
//! | Module | Owns |
//! |---|---|
//! | [`template`] | what an operator writes, and whether it makes sense |
//! | [`key`] | which telemetry keys, and the instance in them |
//! | [`condition`] | what a value means |
//! | [`silence`] | when nobody is told |
//! | [`track`] | the state machine |
//! | [`builtin`] | the six templates that everybody begins with |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod builtin;
pub mod condition;
pub mod key;
pub mod silence;
pub mod template;
pub mod track;

pub use cairn_fleet::{Seconds, Selector};
pub use condition::{Condition, Verdict};
pub use key::Pattern;
pub use silence::Silence;
pub use template::{Escalation, Flapping, Resource, Severity, Template, TemplateError};
pub use track::{Effect, Event, Notice, Status, Track, step};
