//! Files of the release store, over the link's HTTP.

use std::ops::Range;

use bytes::Bytes;

use crate::link::{Http, HttpResponse, LinkError};
use crate::update::effects::{Answer, Body, GetError};

/// An answer that is being read.
#[derive(Debug)]
pub struct Download(HttpResponse);

impl Body for Download {
    async fn chunk(&mut self) -> Result<Option<Bytes>, GetError> {
        self.0.chunk().await.map_err(error)
    }
}

/// See [`crate::update::effects::Effects::get`].
///
/// # Errors
/// If no answer comes that can be used.
pub async fn get(http: &Http, url: &str, range: Range<u64>) -> Result<Answer<Download>, GetError> {
    let range = (range != (0..u64::MAX)).then_some(range);
    let response = http.get(url, range, &[]).await.map_err(error)?;
    let (start, total) = match response.status {
        200 => (0, response.content_length),
        206 => part(response.content_range.as_deref()).ok_or_else(|| {
            GetError::passing(format!("{url}: a part without a usable Content-Range"))
        })?,
        other => {
            return Err(GetError::passing(format!(
                "{url}: the server answered {other}"
            )));
        }
    };
    Ok(Answer {
        start,
        total,
        body: Download(response),
    })
}

/// `bytes 5-9/10` begins at 5, and the file has 10; a `*` says that it isn't known how many.
fn part(content_range: Option<&str>) -> Option<(u64, Option<u64>)> {
    let (start, rest) = content_range?
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?;
    let total = rest.split_once('/').map(|(_, total)| total.trim().parse());
    Some((start.trim().parse().ok()?, total.and_then(Result::ok)))
}

fn error(error: LinkError) -> GetError {
    match &error {
        LinkError::Status { status: 416, .. } => GetError::BeyondEnd(error.to_string()),
        LinkError::Status {
            status,
            retry_after,
            ..
        } if *status >= 500 || [408, 425, 429].contains(status) => GetError::Passing {
            reason: error.to_string(),
            after: *retry_after,
        },
        // A certificate that is being renewed is refused for a while.
        LinkError::Status {
            status: 401 | 403,
            retry_after,
            ..
        } => GetError::Passing {
            reason: error.to_string(),
            after: *retry_after,
        },
        LinkError::Status { .. } | LinkError::Url(_) => GetError::Refused(error.to_string()),
        LinkError::NoServer
        | LinkError::Tls(_)
        | LinkError::Transport { .. }
        | LinkError::Answer { .. } => GetError::passing(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_part_begins() {
        assert_eq!(part(Some("bytes 5-9/10")), Some((5, Some(10))));
        assert_eq!(part(Some("bytes 0-0/*")), Some((0, None)));
        for nonsense in [
            None,
            Some("bytes */10"),
            Some("5-9/10"),
            Some("bytes -5/10"),
        ] {
            assert_eq!(part(nonsense), None, "{nonsense:?}");
        }
    }
}
