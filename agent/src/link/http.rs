//! Requests over HTTP, with the node's own certificate.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Client, Method, Url, redirect};
use tokio::sync::watch;

use super::LinkError;
use super::tls::{self, Peer};
use crate::clock::Clock;
use crate::identity::{self, Identity};

/// How long connecting to a server may take, TLS included.
const CONNECT: Duration = Duration::from_secs(20);
/// How long an answer, or its next part, may keep one waiting.
const READ: Duration = Duration::from_secs(60);
/// How long a request with a small body may take.
const BODY: Duration = Duration::from_secs(300);
/// The same for another device on the link.
const CONNECT_NEAR: Duration = Duration::from_secs(3);
const READ_NEAR: Duration = Duration::from_secs(15);
/// The longest error that is read, in bytes.
const ERROR: usize = 4096;

/// Asks the server. Cheap to clone; a renewed certificate is used from the next request on.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    peer: Peer,
    interface: Option<String>,
    clock: Clock,
    target: watch::Receiver<Arc<Target>>,
    client: std::sync::Mutex<Option<(Arc<Target>, Client)>>,
}

/// Where requests go and who asks.
#[derive(Debug, Default)]
pub struct Target {
    /// What paths are relative to; `None` if the server has no HTTP.
    pub base: Option<String>,
    /// CA certificates in PEM that the server's is checked against; `None`: those of the identity.
    pub ca: Option<String>,
    /// Who asks.
    pub identity: Option<Arc<Identity>>,
    /// An access token, for a server that knows devices by that.
    pub token: Option<String>,
}

/// An answer of 2xx or 304.
#[derive(Debug)]
pub struct HttpResponse {
    /// HTTP's status code.
    pub status: u16,
    /// The entity's tag, as it was sent.
    pub etag: Option<String>,
    /// The header of that name.
    pub content_range: Option<String>,
    /// How many bytes follow, if the server said.
    pub content_length: Option<u64>,
    url: String,
    body: reqwest::Response,
}

impl HttpResponse {
    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// If the connection breaks or nothing comes for a minute.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, LinkError> {
        self.body
            .chunk()
            .await
            .map_err(|error| transport(&self.url, &error))
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// If it is longer, or the connection breaks.
    pub async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, LinkError> {
        let mut all = Vec::new();
        while let Some(part) = self.chunk().await? {
            if all.len() + part.len() > limit {
                return Err(LinkError::Answer {
                    url: self.url,
                    reason: format!("more than {limit} bytes"),
                });
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}

impl Http {
    /// Asks what `target` names at the time.
    pub fn new(clock: Clock, target: watch::Receiver<Arc<Target>>) -> Self {
        Self::to(Peer::Server, None, clock, target)
    }

    /// Asks other devices of the CA that `target`'s identity is of, by whole URLs.
    pub fn to_devices(clock: Clock, target: watch::Receiver<Arc<Target>>) -> Self {
        Self::to(Peer::Device, None, clock, target)
    }

    /// The same server, asked by connections of its own, over this interface if one is named.
    pub fn over(&self, interface: Option<String>) -> Self {
        let (clock, target) = (self.0.clock.clone(), self.0.target.clone());
        Self::to(self.0.peer, interface, clock, target)
    }

    fn to(
        peer: Peer,
        interface: Option<String>,
        clock: Clock,
        target: watch::Receiver<Arc<Target>>,
    ) -> Self {
        Self(Arc::new(Inner {
            peer,
            interface,
            clock,
            target,
            client: std::sync::Mutex::new(None),
        }))
    }

    /// One that always asks the same.
    pub fn fixed(clock: Clock, target: Target) -> Self {
        Self::new(clock, watch::channel(Arc::new(target)).1)
    }

    /// Where requests go and who asks, now.
    pub fn target(&self) -> Arc<Target> {
        self.0.target.borrow().clone()
    }

    /// The prefix of ThingsBoard's HTTP API for this device: `/api/v1/me`, or with its token.
    pub fn device_api(&self) -> String {
        let target = self.0.target.borrow();
        format!("/api/v1/{}", target.token.as_deref().unwrap_or("me"))
    }

    /// Whether there is an HTTP server with the control plane's own API: a server, and an identity that it gave.
    pub fn has_control_plane(&self) -> bool {
        let target = self.0.target.borrow();
        target.base.is_some() && target.identity.is_some()
    }

    /// Gets a path on the server or a whole URL. A range may have `u64::MAX` as its end: all that follows.
    ///
    /// # Errors
    /// Without an answer of 2xx or 304.
    pub async fn get(
        &self,
        path_or_url: &str,
        range: Option<Range<u64>>,
        headers: &[(&str, &str)],
    ) -> Result<HttpResponse, LinkError> {
        let mut all = HeaderMap::new();
        if let Some(range) = range {
            let end = if range.end == u64::MAX {
                String::new()
            } else {
                range.end.saturating_sub(1).to_string()
            };
            insert(
                &mut all,
                "range",
                &format!("bytes={}-{end}", range.start),
                path_or_url,
            )?;
        }
        for (name, value) in headers {
            insert(&mut all, name, value, path_or_url)?;
        }
        self.send(Method::GET, path_or_url, all, None, None).await
    }

    /// Like [`Http::get`], for an answer that the server holds back for up to `patience`.
    ///
    /// # Errors
    /// Without an answer of 2xx.
    pub async fn wait_for(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<HttpResponse, LinkError> {
        let limit = Some(patience + READ / 2);
        self.send(Method::GET, path, HeaderMap::new(), None, limit)
            .await
    }

    /// Puts bytes at a path on the server.
    ///
    /// # Errors
    /// Without an answer of 2xx.
    pub async fn put(&self, path: &str, body: Vec<u8>) -> Result<HttpResponse, LinkError> {
        let (body, limit) = (Some(body.into()), Some(BODY));
        self.send(Method::PUT, path, HeaderMap::new(), body, limit)
            .await
    }

    /// Posts JSON to a path on the server.
    ///
    /// # Errors
    /// Without an answer of 2xx.
    pub async fn post_json(&self, path: &str, body: Vec<u8>) -> Result<HttpResponse, LinkError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        self.send(Method::POST, path, headers, Some(body.into()), Some(BODY))
            .await
    }

    /// Posts what may be long to a path on the server or a whole URL. How long it may take is the caller's business, up to a
    /// minute without an answer.
    ///
    /// # Errors
    /// Without an answer of 2xx.
    pub async fn post(&self, path_or_url: &str, body: Body) -> Result<HttpResponse, LinkError> {
        self.send(
            Method::POST,
            path_or_url,
            HeaderMap::new(),
            Some(body),
            None,
        )
        .await
    }

    async fn send(
        &self,
        method: Method,
        path_or_url: &str,
        headers: HeaderMap,
        body: Option<Body>,
        limit: Option<Duration>,
    ) -> Result<HttpResponse, LinkError> {
        let (target, client) = self.client()?;
        let (url, ours) = resolve(target.base.as_deref(), path_or_url)?;
        // A token is part of some paths, and no log's business.
        let shown = match &target.token {
            Some(token) => url.as_str().replace(token.as_str(), "…"),
            None => url.to_string(),
        };
        let mut request = client.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        // Downloads last as long as they last.
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        let response = request
            .send()
            .await
            .map_err(|error| transport(&shown, &error))?;
        let status = response.status();
        if ours {
            self.learn(&target, response.headers());
        }
        if !status.is_success() && status.as_u16() != 304 {
            return Err(failed(shown, response).await);
        }
        let text = |name: HeaderName| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        Ok(HttpResponse {
            status: status.as_u16(),
            etag: text(header::ETAG),
            content_range: text(header::CONTENT_RANGE),
            content_length: response.content_length(),
            url: shown,
            body: response,
        })
    }

    /// The server proved who it is: what it says of the time counts, unless it can't be.
    fn learn(&self, target: &Target, headers: &HeaderMap) {
        let date = headers
            .get(header::DATE)
            .and_then(|value| value.to_str().ok())
            .and_then(http_date);
        let limit = match (&target.ca, &target.identity) {
            (Some(ca), _) => identity::certificates(ca, "the CA's certificate")
                .ok()
                .and_then(|all| {
                    all.iter()
                        .filter_map(|ca| Some(identity::validity(ca)?.1))
                        .max()
                }),
            (None, identity) => identity.as_ref().map(|identity| identity.ca_not_after()),
        };
        if let Some((date, limit)) = date.zip(limit)
            && date < limit
        {
            self.0.clock.learned(date);
        }
    }

    fn client(&self) -> Result<(Arc<Target>, Client), LinkError> {
        let target = self.0.target.borrow().clone();
        let mut kept = self
            .0
            .client
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((made_for, client)) = &*kept
            && Arc::ptr_eq(made_for, &target)
        {
            return Ok((target, client.clone()));
        }
        let config = tls::client_config(
            self.0.peer,
            target.ca.as_deref(),
            target.identity.as_deref(),
            self.0.clock.clone(),
        )?;
        let (connect, read, redirects) = match self.0.peer {
            Peer::Server => (CONNECT, READ, redirect::Policy::limited(3)),
            Peer::Device => (CONNECT_NEAR, READ_NEAR, redirect::Policy::none()),
        };
        let mut builder = Client::builder();
        if self.0.peer == Peer::Device {
            builder = builder.no_proxy();
        }
        if let Some(interface) = &self.0.interface {
            builder = builder.interface(interface);
        }
        let client = builder
            .tls_backend_preconfigured(config)
            .connect_timeout(connect)
            .read_timeout(read)
            .pool_idle_timeout(Duration::from_secs(30))
            // As many as an update fetches blocks with.
            .pool_max_idle_per_host(4)
            .redirect(redirects)
            .user_agent(concat!("cairn-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| LinkError::Tls(chain(&error)))?;
        *kept = Some((target.clone(), client.clone()));
        Ok((target, client))
    }
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str, url: &str) -> Result<(), LinkError> {
    let wrong = || LinkError::Url(format!("{url} with header {name}"));
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    Ok(())
}

/// The whole URL, and whether it is on our own server.
fn resolve(base: Option<&str>, path_or_url: &str) -> Result<(Url, bool), LinkError> {
    let wrong = || LinkError::Url(path_or_url.chars().take(200).collect());
    let base = base
        .map(|base| Url::parse(base).map_err(|_| wrong()))
        .transpose()?;
    let url = if path_or_url.starts_with('/') {
        base.as_ref()
            .ok_or(LinkError::NoServer)?
            .join(path_or_url)
            .map_err(|_| wrong())?
    } else {
        Url::parse(path_or_url).map_err(|_| wrong())?
    };
    if !matches!(url.scheme(), "https" | "http") {
        return Err(wrong());
    }
    let ours = url.scheme() == "https" && base.is_some_and(|base| base.origin() == url.origin());
    Ok((url, ours))
}

async fn failed(url: String, mut response: reqwest::Response) -> LinkError {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| {
            let seconds: u64 = text.trim().parse().ok()?;
            Some(Duration::from_secs(seconds.min(3600)))
        });
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(part)) = response.chunk().await {
            if body.len() + part.len() > ERROR {
                break;
            }
            body.extend_from_slice(&part);
        }
    };
    // The status says enough.
    let _ = tokio::time::timeout(READ_NEAR, reading).await;
    let told = serde_json::from_slice::<cairn_wire::enrol::ErrorBody>(&body).ok();
    let (code, message) = told.map_or((None, None), |told| (Some(told.code), Some(told.message)));
    LinkError::Status {
        url,
        status,
        code,
        message,
        retry_after,
    }
}

fn transport(url: &str, error: &reqwest::Error) -> LinkError {
    LinkError::Transport {
        url: url.to_owned(),
        reason: chain(error),
    }
}

/// All that an error and its causes say, without the URL, which may hold a token.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    let mut texts: Vec<String> = Vec::new();
    while let Some(source) = innermost.source() {
        innermost = source;
        let text = innermost.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
    }
    if texts.is_empty() {
        "the request failed".to_owned()
    } else {
        texts.join(": ")
    }
}

/// Seconds since 1970 of a date as HTTP writes it.
fn http_date(text: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_http_writes_them() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn a_path_is_the_servers_and_a_url_is_where_it_says() {
        let base = Some("https://cp.example:8443");
        let (url, ours) = resolve(base, "/v1/me/desired").unwrap();
        assert_eq!(
            (url.as_str(), ours),
            ("https://cp.example:8443/v1/me/desired", true)
        );
        let (_, ours) = resolve(base, "https://cdn.example/releases/").unwrap();
        assert!(!ours);
        assert!(matches!(resolve(None, "/v1/me"), Err(LinkError::NoServer)));
        assert!(matches!(
            resolve(base, "file:///etc/shadow"),
            Err(LinkError::Url(_))
        ));
    }
}
