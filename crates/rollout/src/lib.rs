//! Rollouts, as pure functions: which devices get a release when, what their reports mean, and when to stop.
//!
//! A [`Rollout`] holds numbers only, never its devices: so one over 100,000 devices is as small as one over two. What is known of a
//! device is an [`Assignment`], made when the device gets its slot and not before. The caller keeps both, hands them to [`step`]
//! with an event and the time, stores what comes back and does the effects, all in one transaction.
//!
//! | Module | Owns |
//! |---|---|
//! | [`plan`] | what an operator asks for, and whether it makes sense |
//! | [`window`] | hours of the day |
//! | [`state`] | where a rollout stands, and where a device is |
//! | [`device`] | one device in a rollout, and how it moves |
//! | [`heard`] | what a device's report says about the release |
//! | [`rollout`] | the whole: waves, soak, halt, pause, abort |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod device;
pub mod heard;
pub mod plan;
pub mod rollout;
pub mod state;
pub mod window;

pub use cairn_fleet::{Rate, Seconds, Selector, Share};
pub use device::{Assignment, DeviceEvent, Reason};
pub use heard::{Heard, Target};
pub use plan::{Deadlines, Plan, PlanError};
pub use rollout::{Counts, Effect, Event, Illegal, Rollout, admit, step};
pub use state::{DeviceState, Status};
pub use window::Window;
