//! What somebody wants as a channel, and whether it makes sense.

use std::collections::BTreeMap;

use cairn_alarm::template::is_name;
use serde_json::Value;

use super::{Channel, Email, Gateway, SET, Secret, Security, Target};
use crate::alarms::message::{self, Facts, Message};
use crate::registry::is_label;
use crate::web::read;

/// Longest template, certificate or secret, in bytes.
const LONGEST: usize = 16 * 1024;
/// Most headers and most recipients.
const MANY: usize = 32;

impl Channel {
    /// Reads what somebody wants; `(set)` stands for the secret that is there already.
    ///
    /// # Errors
    /// If it makes no sense; the text names the field and never holds a secret.
    pub(in crate::alarms) fn parse(
        mut wanted: Value,
        before: Option<&Value>,
    ) -> Result<(Self, Value), String> {
        keep(&mut wanted, before)?;
        // What serde says of a wrong value may hold it.
        let channel: Self =
            read(wanted.clone()).map_err(|text| match text.split_once("invalid") {
                Some((field, rest)) => match rest.rsplit_once(", expected ") {
                    Some((_, kind)) => format!("{field}expected {kind}"),
                    None => format!("{field}it is of a wrong kind"),
                },
                None => text,
            })?;
        channel.check()?;
        Ok((channel, wanted))
    }

    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) {
            return Err("name: expected 1 to 64 of a-z0-9-".into());
        }
        if self.supplier.as_ref().is_some_and(|name| !is_label(name)) {
            return Err("supplier: expected 1 to 64 of A-Za-z0-9._-".into());
        }
        if !(1..=6000).contains(&self.per_minute) {
            return Err("per_minute: expected 1 to 6000".into());
        }
        for (field, text) in [("title", &self.title), ("text", &self.text)] {
            short(field, text.as_deref().unwrap_or(""))?;
        }
        let facts = Facts::sample(0);
        let message = Message::write(self.title.as_deref(), self.text.as_deref(), &facts)?;
        match &self.to {
            Target::Webhook(webhook) => {
                url(webhook.url.reveal())?;
                headers(&webhook.headers)?;
                authority(webhook.ca.as_deref())
            }
            Target::Wecom(wecom) => url(wecom.url.reveal()),
            Target::Email(email) => email.check(),
            Target::Wechat(gateway) | Target::Sms(gateway) => gateway.check(&facts, &message),
        }
    }
}

impl Email {
    fn check(&self) -> Result<(), String> {
        let address = |field: &str, text: &str| {
            text.parse::<lettre::message::Mailbox>()
                .map(drop)
                .map_err(|error| format!("{field}: expected an address of mail: {error}"))
        };
        if self.host.is_empty()
            || self.host.len() > 253
            || self.host.contains(['/', '@', ' '])
            || self.host.contains(':') && self.host.parse::<std::net::Ipv6Addr>().is_err()
        {
            return Err("host: expected a name or an address, without a port".into());
        }
        address("from", &self.from)?;
        if !(1..=MANY).contains(&self.recipients.len()) {
            return Err(format!("recipients: expected 1 to {MANY}"));
        }
        for recipient in &self.recipients {
            address("recipients", recipient)?;
        }
        if self.user.is_some() != self.password.is_some() {
            return Err("user: expected a user and a password, or neither".into());
        }
        if self.security == Security::Plain && self.password.is_some() {
            return Err("security: expected starttls or tls, as a password goes over it".into());
        }
        authority(self.ca.as_deref())
    }
}

impl Gateway {
    fn check(&self, facts: &Facts, message: &Message) -> Result<(), String> {
        if self.recipients.len() > MANY || self.recipients.iter().any(|one| one.len() > 256) {
            return Err(format!("recipients: expected at most {MANY}"));
        }
        headers(&self.headers)?;
        short("content", &self.content)?;
        if !literal_host(self.url.reveal()) {
            return Err("url: expected no template before the path".into());
        }
        let about = self.facts(facts, message);
        url(&message::fill(self.url.reveal(), &about).map_err(|_| "url: its template is wrong")?)?;
        for (name, value) in &self.headers {
            message::fill(value.reveal(), &about)
                .map_err(|_| format!("headers: the template of {name} is wrong"))?;
        }
        message::fill(&self.content, &about).map_err(|error| format!("content: {error}"))?;
        if self
            .good
            .as_ref()
            .is_some_and(|good| !good.pointer.is_empty() && !good.pointer.starts_with('/'))
        {
            return Err("good: expected a pointer as /code".into());
        }
        authority(self.ca.as_deref())
    }
}

fn short(field: &str, text: &str) -> Result<(), String> {
    if text.len() > LONGEST {
        return Err(format!("{field}: expected at most {LONGEST} bytes"));
    }
    Ok(())
}

/// What a device says must not choose the host.
fn literal_host(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    !host.is_empty() && !host.contains(['{', '}', '\\'])
}

/// The address may hold a key, so the error doesn't hold the address.
fn url(text: &str) -> Result<(), String> {
    let good = text.len() <= 2048
        && reqwest::Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    good.then_some(())
        .ok_or_else(|| "url: expected https://host/path or http://host/path".into())
}

fn headers(headers: &BTreeMap<String, Secret>) -> Result<(), String> {
    if headers.len() > MANY {
        return Err(format!("headers: expected at most {MANY}"));
    }
    for (name, value) in headers {
        short("headers", value.reveal())?;
        let good = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && reqwest::header::HeaderValue::from_str(value.reveal()).is_ok();
        if !good {
            return Err("headers: expected names and values of HTTP headers".into());
        }
    }
    Ok(())
}

fn authority(pem: Option<&str>) -> Result<(), String> {
    let Some(text) = pem else {
        return Ok(());
    };
    short("ca", text)?;
    match reqwest::Certificate::from_pem_bundle(text.as_bytes()) {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        _ => Err("ca: expected certificates as PEM".into()),
    }
}

/// Puts what is there in the place of `(set)`.
fn keep(wanted: &mut Value, before: Option<&Value>) -> Result<(), String> {
    match wanted {
        Value::String(text) if text == SET => {
            let known = before.filter(|before| before.is_string());
            *wanted = known
                .cloned()
                .ok_or_else(|| format!("expected a secret, as there is none yet for {SET}"))?;
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                keep(value, before.and_then(|before| before.get(name)))?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::shown;
    use super::*;

    fn webhook() -> Value {
        json!({ "name": "ops", "to": { "webhook": { "url": "https://hooks.example.org/abc?key=hush", "secret": "hush",
                "headers": { "Authorization": "Bearer hush" } } } })
    }

    #[test]
    fn a_secret_is_kept_and_never_shown() {
        let (channel, kept) = Channel::parse(webhook(), None).unwrap();
        let (seen, said) = (shown(&channel).to_string(), format!("{channel:?}"));
        assert!(
            !seen.contains("hush") && !said.contains("hush"),
            "{seen} {said}"
        );
        assert!(kept.to_string().contains("hush"));
        // What was shown can be sent back with a change.
        let mut again = shown(&channel);
        again["per_minute"] = json!(5);
        let (changed, kept) = Channel::parse(again.clone(), Some(&kept)).unwrap();
        assert_eq!(changed.per_minute, 5);
        assert!(kept.to_string().contains("key=hush"));
        assert!(
            Channel::parse(again, None)
                .unwrap_err()
                .contains("expected a secret")
        );
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field_and_without_secrets() {
        let gateway = |content: &str| {
            json!({ "name": "sms", "to": { "sms": { "url": "https://sms.example.org/{{ secret }}", "secret": "hush",
                    "content": content, "good": { "pointer": "/code", "equals": 0 } } } })
        };
        assert!(Channel::parse(gateway("{\"text\": {{ text|tojson }}}"), None).is_ok());
        let mail = |security: &str| {
            json!({ "name": "mail", "to": { "email": { "host": "mail", "security": security, "user": "u", "password": "hush",
                    "from": "cairn@example.org", "recipients": ["Ops <ops@example.org>"] } } })
        };
        assert!(Channel::parse(mail("tls"), None).is_ok());
        for (bad, field) in [
            (gateway("{{ nobody_knows }}"), "content:"),
            (mail("plain"), "security:"),
            (
                json!({ "name": "x", "to": { "sms": { "url": "https://{{ device_name }}/hush" } } }),
                "url:",
            ),
            (
                json!({ "name": "x", "text": "{{ what }}", "to": { "wecom": { "url": "https://a/hush" } } }),
                "text:",
            ),
            (
                json!({ "name": "x", "to": { "wecom": { "url": "file:///hush" } } }),
                "url:",
            ),
            (
                json!({ "name": "X", "to": { "wecom": { "url": "https://a/hush" } } }),
                "name:",
            ),
            (
                json!({ "name": "x", "to": { "wecom": { "url": ["hush"] } } }),
                "to.wecom.url: expected",
            ),
            (
                json!({ "name": "x", "to": { "wecom": { "uri": "https://a/hush" } } }),
                "uri",
            ),
        ] {
            let error = Channel::parse(bad.clone(), None).unwrap_err();
            assert!(
                error.contains(field) && !error.contains("hush"),
                "{bad}: {error}"
            );
        }
    }
}
