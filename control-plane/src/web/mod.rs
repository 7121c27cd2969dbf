//! What all handlers of HTTP share. It knows nothing of what they serve, so that everything below them can answer with its errors.
//!
//! | Module | Owns |
//! |---|---|
//! | [`error`] | what went wrong, as the caller sees it; reading bodies, queries and paths |
//! | [`page`] | lists in pages |

pub mod error;
pub mod page;

pub use error::{ApiError, Body, Path, Query, Raw, read};
pub use page::{Page, PageQuery};
