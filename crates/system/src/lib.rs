//! Side effects that more than one program needs, each behind a narrow face.
//!
//! | Module | Owns |
//! |---|---|
//! | [`command`] | running another program: argv, time limit, the end of its stderr |

pub mod command;

pub use command::{Command, CommandError};
