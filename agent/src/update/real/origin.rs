//! Files of the release store, over the link's HTTP.

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
pub async fn get(http: &Http, url: &str, from: u64) -> Result<Answer<Download>, GetError> {
    let range = (from > 0).then_some(from..u64::MAX);
    let response = http.get(url, range, &[]).await.map_err(error)?;
    let start = match response.status {
        200 => 0,
        206 => start(response.content_range.as_deref()).ok_or_else(|| {
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
        body: Download(response),
    })
}

/// `bytes 5-9/10` begins at 5.
fn start(content_range: Option<&str>) -> Option<u64> {
    let (start, _) = content_range?
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?;
    start.trim().parse().ok()
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
        assert_eq!(start(Some("bytes 5-9/10")), Some(5));
        assert_eq!(start(Some("bytes 0-0/*")), Some(0));
        for nonsense in [
            None,
            Some("bytes */10"),
            Some("5-9/10"),
            Some("bytes -5/10"),
        ] {
            assert_eq!(start(nonsense), None, "{nonsense:?}");
        }
    }
}
