//! Lists in pages: a page says where the next one begins.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiError;

/// Items on a page if nobody says how many.
const USUAL: usize = 100;
/// Items on a page at most.
const MOST: usize = 1000;

/// A part of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// `cursor` of the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page. `last` is the last item's place in the list, if more follows.
    pub fn new(items: Vec<T>, last: Option<String>) -> Self {
        Self {
            items,
            next: last.map(|last| URL_SAFE_NO_PAD.encode(last)),
        }
    }

    /// A page out of up to `limit + 1` items; the one too many says that more follows.
    pub fn cut(mut items: Vec<T>, limit: usize, place: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more).map(place);
        Self::new(items, last)
    }
}

/// Which page.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next` of the page before.
    cursor: Option<String>,
    /// Items at most, up to 1000; 100 if not said.
    limit: Option<usize>,
}

impl PageQuery {
    /// How many items.
    ///
    /// # Errors
    /// 400 if it is 0 or too many.
    pub fn limit(&self) -> Result<usize, ApiError> {
        match self.limit.unwrap_or(USUAL) {
            limit @ 1..=MOST => Ok(limit),
            limit => Err(ApiError::bad(
                "bad-limit",
                format!("expected a limit of 1 to {MOST}, got {limit}"),
            )),
        }
    }

    /// The place of the last item of the page before.
    ///
    /// # Errors
    /// 400 if the cursor is none of ours.
    pub fn cursor(&self) -> Result<Option<String>, ApiError> {
        let decode = |cursor: &String| {
            URL_SAFE_NO_PAD
                .decode(cursor)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(Self::bad_cursor)
        };
        self.cursor.as_ref().map(decode).transpose()
    }

    /// The error for a cursor that is none of ours.
    pub fn bad_cursor() -> ApiError {
        ApiError::bad(
            "bad-cursor",
            "expected as cursor the next of the page before",
        )
    }
}
