//! One message to one channel. Redirects aren't followed, answers are bounded, and errors never hold an address or a secret.

use std::collections::BTreeMap;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::Sha256;

use super::channel::{
    self, Channel, Email, Format, Gateway, Secret, Security, Target, Webhook, Wecom,
};
use super::message::{self, Facts, Message};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is looked at, in bytes.
const ANSWER: usize = 64 * 1024;
/// Longest message of WeCom's robots, in bytes: 4096 for Markdown, 2048 for text.
const MARKDOWN: usize = 4096;
const TEXT: usize = 2048;

/// What asks over HTTP; one for all messages, so that connections and certificates are reused.
///
/// # Errors
/// If TLS can't be set up.
pub(super) fn http() -> Result<reqwest::Client, String> {
    client(None)
}

/// Tells a channel. `key` is the same for each attempt, so that the other side can know that it has it already.
///
/// # Errors
/// Why it wasn't taken, for people; without addresses and secrets.
pub(super) async fn send(
    http: &reqwest::Client,
    channel: &Channel,
    key: &str,
    facts: &Facts,
) -> Result<(), String> {
    let message = Message::write(channel.title.as_deref(), channel.text.as_deref(), facts)?;
    match &channel.to {
        Target::Webhook(webhook) => post(http, webhook, key, facts, &message).await,
        Target::Wecom(wecom) => robot(http, wecom, &message).await,
        Target::Wechat(gateway) | Target::Sms(gateway) => {
            ask(http, gateway, key, facts, &message).await
        }
        Target::Email(email) => mail(email, key, &message).await,
    }
}

fn client(ca: Option<&str>) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .user_agent(concat!("cairn-control/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = ca {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|_| "its ca can't be read".to_owned())?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(why)
}

/// The common one, unless the channel trusts somebody else.
fn own(http: &reqwest::Client, ca: Option<&str>) -> Result<reqwest::Client, String> {
    match ca {
        None => Ok(http.clone()),
        ca => client(ca),
    }
}

/// Why HTTP failed, with its causes and without the address.
fn why(error: reqwest::Error) -> String {
    use std::error::Error as _;
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Sends a request; gives the beginning of a good answer.
async fn answer(request: RequestBuilder) -> Result<Vec<u8>, String> {
    let mut response = request.send().await.map_err(why)?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(why)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ANSWER {
            bytes.truncate(ANSWER);
            break;
        }
    }
    Ok(bytes)
}

fn with_headers(
    mut request: RequestBuilder,
    headers: impl Iterator<Item = (String, String)>,
) -> RequestBuilder {
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
}

fn revealed(headers: &BTreeMap<String, Secret>) -> impl Iterator<Item = (String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.clone(), value.reveal().to_owned()))
}

/// The signature of a webhook's message: HMAC-SHA-256 over the time, a dot and the body.
pub(super) fn signature(secret: &str, time: &str, body: &[u8]) -> String {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

async fn post(
    http: &reqwest::Client,
    webhook: &Webhook,
    key: &str,
    facts: &Facts,
    message: &Message,
) -> Result<(), String> {
    let mut body = serde_json::to_value(facts).map_err(|error| error.to_string())?;
    body["id"] = key.into();
    body["title"] = message.title.as_str().into();
    body["text"] = message.text.as_str().into();
    let body = body.to_string();
    let time = (super::now_ms() / 1000).to_string();
    let mut request = own(http, webhook.ca.as_deref())?
        .post(webhook.url.reveal())
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", key)
        .header("X-Cairn-Time", &time);
    if let Some(secret) = &webhook.secret {
        let signature = signature(secret.reveal(), &time, body.as_bytes());
        request = request.header("X-Cairn-Signature", signature);
    }
    answer(with_headers(request, revealed(&webhook.headers)).body(body))
        .await
        .map(drop)
}

/// As much of a text as fits, cut between characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

async fn robot(http: &reqwest::Client, wecom: &Wecom, message: &Message) -> Result<(), String> {
    // `<@all>` in a device's name would call everybody.
    let text = format!("**{}**\n{}", message.title, message.text).replace('<', "‹");
    let body = match wecom.format {
        Format::Markdown => {
            json!({ "msgtype": "markdown", "markdown": { "content": cut(&text, MARKDOWN) } })
        }
        Format::Text => {
            let text = format!("{}\n{}", message.title, message.text);
            json!({ "msgtype": "text", "text": { "content": cut(&text, TEXT) } })
        }
    };
    let bytes = answer(http.post(wecom.url.reveal()).json(&body)).await?;
    let answer: Value = serde_json::from_slice(&bytes)
        .map_err(|_| "it answered with something else than JSON".to_owned())?;
    match answer["errcode"].as_i64() {
        Some(0) => Ok(()),
        Some(code) => {
            let word: String = answer["errmsg"]
                .as_str()
                .unwrap_or("")
                .chars()
                .take(120)
                .collect();
            Err(format!("WeCom answered errcode {code}: {word}"))
        }
        None => Err("its answer has no errcode".into()),
    }
}

async fn ask(
    http: &reqwest::Client,
    gateway: &Gateway,
    key: &str,
    facts: &Facts,
    message: &Message,
) -> Result<(), String> {
    let about = gateway.facts(facts, message);
    // What a template says about its own failure may hold the secret.
    let fill = |template: &str, what: &str| {
        message::fill(template, &about).map_err(|_| format!("the template of its {what} is wrong"))
    };
    let method = match gateway.method {
        channel::Method::Post => Method::POST,
        channel::Method::Put => Method::PUT,
        channel::Method::Get => Method::GET,
    };
    let url = fill(gateway.url.reveal(), "url")?;
    let mut request = own(http, gateway.ca.as_deref())?
        .request(method, url)
        .header("Idempotency-Key", key);
    let mut headers = Vec::new();
    for (name, value) in &gateway.headers {
        headers.push((name.clone(), fill(value.reveal(), "headers")?));
    }
    request = with_headers(request, headers.into_iter());
    if gateway.method != channel::Method::Get {
        request = request.body(fill(&gateway.content, "content")?);
    }
    let bytes = answer(request).await?;
    let Some(good) = &gateway.good else {
        return Ok(());
    };
    let answer: Value = serde_json::from_slice(&bytes)
        .map_err(|_| "it answered with something else than JSON".to_owned())?;
    match answer.pointer(&good.pointer) {
        Some(value) if *value == good.equals => Ok(()),
        other => {
            let got: String = other
                .unwrap_or(&Value::Null)
                .to_string()
                .chars()
                .take(120)
                .collect();
            Err(format!(
                "its answer has {got} at {}, expected {}",
                good.pointer, good.equals
            ))
        }
    }
}

async fn mail(email: &Email, key: &str, message: &Message) -> Result<(), String> {
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|error| error.to_string());
    let from = mailbox(&email.from)?;
    let mut builder = lettre::Message::builder()
        // The same for each attempt: a reader that gets it twice shows it once.
        .message_id(Some(format!("<{key}@{}>", from.email.domain())))
        .from(from)
        .subject(message.title.as_str());
    for recipient in &email.recipients {
        builder = builder.to(mailbox(recipient)?);
    }
    let mail = builder
        .header(lettre::message::header::ContentType::TEXT_PLAIN)
        .body(message.text.clone())
        .map_err(|error| error.to_string())?;
    let parameters = || {
        let mut parameters = TlsParameters::builder(email.host.clone());
        if let Some(pem) = &email.ca {
            let ca = Certificate::from_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
            parameters = parameters.add_root_certificate(ca);
        }
        parameters.build().map_err(|error| error.to_string())
    };
    let (tls, usual) = match email.security {
        Security::Starttls => (Tls::Required(parameters()?), 587),
        Security::Tls => (Tls::Wrapper(parameters()?), 465),
        Security::Plain => (Tls::None, 25),
    };
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&email.host)
        .port(email.port.unwrap_or(usual))
        .tls(tls)
        .timeout(Some(PATIENCE));
    if let (Some(user), Some(password)) = (&email.user, &email.password) {
        let credentials = Credentials::new(user.clone(), password.reveal().to_owned());
        transport = transport.credentials(credentials);
    }
    let sent = tokio::time::timeout(PATIENCE * 3, transport.build().send(mail)).await;
    match sent {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(cut(&error.to_string(), 300).to_owned()),
        Err(_) => Err("it took too long".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_compute() {
        // printf '1.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            signature("key", "1", b"{}"),
            "sha256=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
        );
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 9), "abc");
    }
}
