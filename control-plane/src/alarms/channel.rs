//! Where people are told. Only the operator makes channels: whoever may name an address has the server send to it.

mod check;

use std::collections::BTreeMap;
use std::fmt;

use cairn_alarm::Severity;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::message::{Facts, Message};

/// What stands for a secret where it is shown.
const SET: &str = "(set)";

/// Text that is never shown again: not by the API, not in the log.
#[derive(Clone, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SET)
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SET)
    }
}

/// A channel. Its secrets are written as `(set)`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its name, 1 to 64 of a-z0-9-.
    pub name: String,
    /// It hears of this supplier's devices, and of nothing else; none: it is the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplier: Option<String>,
    /// Whether it is in use.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// It hears of what is this bad or worse.
    #[serde(default = "info")]
    pub severity: Severity,
    /// Messages a minute at most; more wait.
    #[serde(default = "usual_rate")]
    pub per_minute: u32,
    /// The title's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The text's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How it is reached.
    pub to: Target,
}

fn yes() -> bool {
    true
}

fn info() -> Severity {
    Severity::Info
}

fn usual_rate() -> u32 {
    20
}

/// How a channel is reached. In JSON: `{"webhook": {…}}` and so on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// JSON by POST.
    Webhook(Webhook),
    /// Mail by SMTP.
    Email(Email),
    /// A robot in a group of WeCom.
    Wecom(Wecom),
    /// WeChat, through a gateway over HTTP.
    Wechat(Gateway),
    /// Text messages, through a gateway over HTTP.
    Sms(Gateway),
}

/// JSON by POST.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to; it may hold a key.
    pub url: Secret,
    /// Signs each message: `X-Cairn-Signature: sha256=…`, HMAC over time, a dot and the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Certificates that are trusted beside the system's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// Mail by SMTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// The server.
    pub host: String,
    /// Its port; 587, 465 or 25 by `security` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the connection is made secret.
    #[serde(default)]
    pub security: Security,
    /// Who logs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub recipients: Vec<String>,
    /// Certificates that are trusted beside the system's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// How a connection for mail is made secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// TLS from the second word on.
    #[default]
    Starttls,
    /// TLS from the first.
    Tls,
    /// Not at all; then no password goes over it.
    Plain,
}

/// A robot in a group of WeCom.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wecom {
    /// Its address, with its key.
    pub url: Secret,
    /// What kind of message.
    #[serde(default)]
    pub format: Format,
}

/// What kind of message a robot sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// With a bold title.
    #[default]
    Markdown,
    /// Plain.
    Text,
}

/// Any service that takes a message over HTTP. Address, headers and content are templates, which also know `title`, `text`,
/// `recipients` and `secret`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// `POST`, `PUT` or `GET`.
    #[serde(default)]
    pub method: Method,
    /// Where to.
    pub url: Secret,
    /// What templates know as `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// What templates know as `recipients`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// What is sent, as `{"to": {{ recipients|tojson }}, "text": {{ text|tojson }}}`.
    #[serde(default)]
    pub content: String,
    /// What a good answer looks like beside its status of 200 to 299.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Good>,
    /// Certificates that are trusted beside the system's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// By which method a gateway is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// POST.
    #[default]
    Post,
    /// PUT.
    Put,
    /// GET, without a body.
    Get,
}

/// What a good answer looks like.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Good {
    /// A place in the answer's JSON, as `/code` (RFC 6901).
    pub pointer: String,
    /// What stands there.
    pub equals: Value,
}

/// What a gateway's templates know.
#[derive(Serialize)]
pub(super) struct GatewayFacts<'f> {
    #[serde(flatten)]
    pub(super) facts: &'f Facts,
    #[serde(flatten)]
    pub(super) message: &'f Message,
    pub(super) recipients: &'f [String],
    pub(super) secret: Option<&'f str>,
}

impl Gateway {
    /// What its templates know.
    pub(super) fn facts<'f>(&'f self, facts: &'f Facts, message: &'f Message) -> GatewayFacts<'f> {
        GatewayFacts {
            facts,
            message,
            recipients: &self.recipients,
            secret: self.secret.as_ref().map(Secret::reveal),
        }
    }
}

/// A channel as it is shown.
pub(super) fn shown(channel: &Channel) -> Value {
    serde_json::to_value(channel).unwrap_or_else(|_| json!({}))
}
