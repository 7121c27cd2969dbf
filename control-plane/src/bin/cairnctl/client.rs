//! The server, over HTTPS.

use std::time::Duration;

use cairn_wire::enrol::ErrorBody;
use reqwest::{Method, RequestBuilder, StatusCode};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::settings;

/// How long an answer may take, if nothing else is said.
const USUAL: Duration = Duration::from_secs(60);
/// Largest JSON answer in bytes.
const LARGEST: usize = 64 << 20;

/// A connection to the server, as somebody.
pub struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl Client {
    /// As whoever the settings say.
    ///
    /// # Errors
    /// If they say nothing, or nonsense.
    pub fn open() -> Result<Self> {
        let settings = settings::load()?;
        Self::new(
            &settings.server,
            settings.ca.as_deref(),
            Some(settings.token),
        )
    }

    /// As the bearer of a token, or nobody.
    ///
    /// # Errors
    /// If the address or the CA can't be used.
    pub fn new(server: &str, ca: Option<&str>, token: Option<String>) -> Result<Self> {
        let server =
            address(server).map_err(|error| Error::new(format!("{error}, got {server:?}")))?;
        let pem = match ca {
            Some(pem) => pem.to_owned(),
            None => settings::system_cas().ok_or_else(|| {
                Error::new("this system has no CAs").hint("give the server's with --ca")
            })?,
        };
        // One of many in the system's file may be odd; a given one may not.
        let roots = roots(&pem, ca.is_some())?;
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("cairnctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::new("cannot start HTTP").because(error))?;
        Ok(Self {
            http,
            server,
            token,
        })
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A request; `path` begins with a slash.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}{path}", self.server))
            .timeout(USUAL);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; gives the answer's JSON, or null if there is none.
    ///
    /// # Errors
    /// If the server can't be reached, or says no.
    pub async fn send(&self, request: RequestBuilder) -> Result<Value> {
        let bytes = self.bytes(request).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(format!(
                "{} answered with something else than JSON",
                self.server
            ))
            .because(error)
        })
    }

    /// Sends a request; gives the answer's bytes.
    ///
    /// # Errors
    /// If the server can't be reached, or says no.
    pub async fn bytes(&self, request: RequestBuilder) -> Result<Vec<u8>> {
        let mut response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(error))?
        {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(Error::new(format!(
                    "{} answered with more than {LARGEST} bytes",
                    self.server
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(bytes);
        }
        Err(refused(status, &bytes))
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let text = format!("{error:?}");
        let what = Error::new(format!("no answer from {}", self.server))
            .code("unreachable")
            .because(error.without_url());
        if text.contains("UnknownIssuer") || text.contains("BadSignature") {
            return what.hint("the server's certificate is of another CA: give ca/ca.pem of the server's data folder, by --ca of `cairnctl login` or in CAIRN_CA");
        }
        if text.contains("NotValidForName") {
            return what.hint("the server's certificate doesn't have this name: start it with --name, or use another address");
        }
        if text.contains("ConnectionRefused") {
            return what.hint("nobody listens there: is cairn-control running, and is this the address and port of its --https?");
        }
        // So do its other listeners answer: one speaks no TLS, and the other one MQTT.
        let others = [
            "InvalidMessage",
            "UnexpectedEof",
            "IncompleteMessage",
            "ConnectionReset",
        ];
        if others.iter().any(|other| text.contains(other)) {
            return what
                .hint("if it stays so: is this the address and port of cairn-control's --https?");
        }
        what
    }

    /// `GET`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(self.request(Method::GET, path)).await
    }

    /// A request with a JSON body.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn with(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        self.send(self.request(method, path).json(body)).await
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.with(Method::POST, path, body).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// The items of all pages of a list, at most `most`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn list(
        &self,
        path: &str,
        query: &[(&str, String)],
        most: usize,
    ) -> Result<Vec<Value>> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", (most - items.len()).clamp(1, 1000).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page = self.get(&format!("{path}?{}", encode(&query))).await?;
            if let Some(Value::Array(more)) = page.get("items") {
                items.extend(more.iter().cloned());
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() || items.len() >= most {
                items.truncate(most);
                return Ok(items);
            }
        }
    }
}

fn refused(status: StatusCode, bytes: &[u8]) -> Error {
    let Ok(ErrorBody { code, message }) = serde_json::from_slice(bytes) else {
        return Error::new(format!("the server answered {status}")).code(status.as_str());
    };
    let hint = match code.as_str() {
        "token-unknown" | "token-missing" | "token-bad" => Some(
            if std::env::var_os("CAIRN_TOKEN").is_some_and(|token| !token.is_empty()) {
                "it is the one in CAIRN_TOKEN; `cairnctl api-token create` makes another"
            } else {
                "log in again: `cairnctl login URL --ca FILE --user NAME`"
            },
        ),
        "scope-missing" => Some("ask an admin for an account or an API token that may do this"),
        "untrusted" => Some(
            "sign the release with a key of the newest trust root, or set the newer one on the server with `cairn-control trust set`",
        ),
        "older-than-latest" => Some("with --keep-latest it is published beside the latest release"),
        "version-taken" => Some("give the release a new version"),
        "device-offline" => Some("`cairnctl device show ID` says when it was last seen"),
        _ => None,
    };
    let error = Error::new(crate::output::clean(&message)).code(code);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The CAs in PEM; with `all` each of them has to be one that can be used.
///
/// # Errors
/// If there is none.
pub fn roots(pem: &str, all: bool) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| Error::new("cannot read the CA").because(error))?;
        let added = roots.add(certificate);
        if all {
            added.map_err(|error| Error::new("the CA can't be used").because(error))?;
        }
    }
    if roots.is_empty() {
        return Err(Error::new(
            "expected certificates in PEM as the CA, got none",
        ));
    }
    Ok(roots)
}

/// A server's address, as nodes and this program take it; without a slash at its end.
///
/// # Errors
/// What was expected.
pub fn address(text: &str) -> std::result::Result<String, String> {
    let plain = reqwest::Url::parse(text).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
    });
    // Nodes compare letters.
    match plain && text.starts_with("https://") {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("expected https://HOST:PORT without a path".to_owned()),
    }
}

/// One part of a path, with what would end it written as percent signs.
pub fn part(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || b"-_~".contains(&byte)
            || (byte == b'.' && text != "." && text != "..")
        {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A query.
pub fn encode(pairs: &[(&str, String)]) -> String {
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", part(value)))
        .collect::<Vec<_>>()
        .join("&")
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_address_is_https_and_a_host() {
        use super::address;
        for good in ["https://h", "https://h:1/", "https://[::1]:18443"] {
            assert_eq!(address(good).unwrap(), good.trim_end_matches('/'));
        }
        for bad in [
            "",
            "h:1",
            "http://h",
            "ftp://h",
            "https://",
            "https://h:1/v1",
            "https://h?x",
            "https://a@h",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_part_of_the_path() {
        assert_eq!(super::part("edge-7.a"), "edge-7.a");
        assert_eq!(super::part("../x?y#z%"), "..%2Fx%3Fy%23z%25");
        assert_eq!(super::part(".."), "%2E%2E");
    }
}
