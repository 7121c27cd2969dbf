//! The sections `[rpc]` and `[actions]`: what the server may ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::setting::Invalid;
use crate::setting::duration::duration_or;

/// `[rpc]`, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// Units that the server may restart.
    pub restart_units: Option<Vec<String>>,
    /// Whether the server may have the node forget all that was changed on it.
    pub factory_reset: Option<bool>,
}

/// `[actions.<name>]`, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ActionInput {
    /// The program by its whole path, and its arguments; `{name}` stands for an argument of the call.
    pub command: Option<Vec<String>>,
    /// How long it may run.
    pub timeout: Option<String>,
    /// What arguments a call may have.
    #[serde(default)]
    pub arguments: BTreeMap<String, Argument>,
}

/// What an argument may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    /// Any of a kind.
    Kind(Kind),
    /// One of these.
    OneOf(Vec<String>),
}

/// A kind of argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// 1 to 128 of `A-Za-z0-9._:@-`, not beginning with `-` or `.`.
    Name,
    /// A whole number, not negative.
    Number,
}

impl Argument {
    /// The value as text, if it is allowed.
    ///
    /// # Errors
    /// Says what is.
    pub fn accept(&self, value: &serde_json::Value) -> Result<String, String> {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return Err("a string or a number".to_owned()),
        };
        match self {
            Self::OneOf(allowed) if allowed.contains(&text) => Ok(text),
            Self::OneOf(allowed) => Err(format!("one of {}", allowed.join(", "))),
            Self::Kind(Kind::Number)
                if !text.is_empty()
                    && text.len() <= 18
                    && text.bytes().all(|b| b.is_ascii_digit()) =>
            {
                Ok(text)
            }
            Self::Kind(Kind::Number) => Err("a whole number".to_owned()),
            Self::Kind(Kind::Name) if is_name(&text) => Ok(text),
            Self::Kind(Kind::Name) => {
                Err("1 to 128 of A-Za-z0-9._:@-, not beginning with - or .".to_owned())
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['-', '.'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'-'))
}

/// Whether it is a unit's name with its kind.
pub fn is_unit(text: &str) -> bool {
    is_name(text) && text.contains('.') && !text.contains("..")
}

/// What the server may have run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The program by its whole path, and its arguments with `{name}` in them.
    pub command: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// What the `{name}`s may be.
    pub arguments: BTreeMap<String, Argument>,
}

impl Action {
    /// The command with the call's arguments put in.
    ///
    /// # Errors
    /// If an argument is missing, unknown or not allowed.
    pub fn filled_in(
        &self,
        given: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Vec<String>, String> {
        if let Some(unknown) = given
            .keys()
            .find(|name| !self.arguments.contains_key(*name))
        {
            return Err(format!("argument {unknown:?}: this action doesn't have it"));
        }
        let mut values = BTreeMap::new();
        for (name, argument) in &self.arguments {
            let value = given
                .get(name)
                .ok_or_else(|| format!("argument {name:?}: missing"))?;
            values.insert(
                name,
                argument
                    .accept(value)
                    .map_err(|expected| format!("argument {name:?}: expected {expected}"))?,
            );
        }
        let put_in = |part: &String| match part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
        {
            Some(name) => values
                .iter()
                .find(|(known, _)| known.as_str() == name)
                .map_or_else(|| part.clone(), |(_, value)| value.clone()),
            None => part.clone(),
        };
        Ok(self.command.iter().map(put_in).collect())
    }
}

/// Both sections, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Units that the server may restart.
    pub restart_units: Vec<String>,
    /// Whether a factory reset may be ordered.
    pub factory_reset: bool,
    /// What the server may have run.
    pub actions: BTreeMap<String, Action>,
}

impl Settings {
    /// Checks both sections.
    ///
    /// # Errors
    /// Names the first setting that can't be used.
    pub fn check(input: &Input, actions: &BTreeMap<String, ActionInput>) -> Result<Self, Invalid> {
        let restart_units = input.restart_units.clone().unwrap_or_default();
        if let Some(wrong) = restart_units.iter().find(|unit| !is_unit(unit)) {
            return Err(Invalid::new(
                "rpc.restart-units",
                format!("expected names as docker.service, got {wrong:?}"),
            ));
        }
        let actions = actions
            .iter()
            .map(|(name, input)| {
                let key = |part: &str| format!("actions.{name}{part}");
                if !is_name(name) {
                    return Err(Invalid::new(key(""), "expected a name of A-Za-z0-9._:@-"));
                }
                let command = input.command.clone().unwrap_or_default();
                if !command
                    .first()
                    .is_some_and(|program| program.starts_with('/'))
                {
                    return Err(Invalid::new(
                        key(".command"),
                        "expected a list that begins with a program by its whole path",
                    ));
                }
                let unknown = command
                    .iter()
                    .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                    .find(|part| !input.arguments.contains_key(*part));
                if let Some(unknown) = unknown {
                    return Err(Invalid::new(
                        key(".command"),
                        format!("{{{unknown}}} isn't among the action's arguments"),
                    ));
                }
                let timeout = duration_or(
                    &key(".timeout"),
                    input.timeout.as_deref(),
                    Duration::from_secs(30),
                )?;
                if timeout.is_zero() || timeout > Duration::from_secs(3600) {
                    return Err(Invalid::new(key(".timeout"), "expected up to 1h"));
                }
                let arguments = input.arguments.clone();
                Ok((
                    name.clone(),
                    Action {
                        command,
                        timeout,
                        arguments,
                    },
                ))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            restart_units,
            factory_reset: input.factory_reset.unwrap_or(true),
            actions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, Invalid> {
        Settings::check(&Input::default(), &toml::from_str(text).unwrap())
    }

    #[test]
    fn an_action_takes_what_it_allows_and_nothing_else() {
        let text = "[ping]\ncommand = ['/usr/bin/ping', '-c', '{count}', '{host}']\narguments = { host = 'name', count = ['1', '3'] }\n";
        let settings = settings(text).unwrap();
        let fill =
            |json: serde_json::Value| settings.actions["ping"].filled_in(json.as_object().unwrap());
        assert_eq!(
            fill(serde_json::json!({"host": "10.0.0.1", "count": 3})).unwrap(),
            ["/usr/bin/ping", "-c", "3", "10.0.0.1"]
        );
        assert_eq!(
            fill(serde_json::json!({"host": "-f", "count": 3})).unwrap_err(),
            "argument \"host\": expected 1 to 128 of A-Za-z0-9._:@-, not beginning with - or ."
        );
        assert_eq!(
            fill(serde_json::json!({"host": "a; rm -rf /", "count": 3})).unwrap_err(),
            "argument \"host\": expected 1 to 128 of A-Za-z0-9._:@-, not beginning with - or ."
        );
        assert_eq!(
            fill(serde_json::json!({"host": "a", "count": 2})).unwrap_err(),
            "argument \"count\": expected one of 1, 3"
        );
        assert_eq!(
            fill(serde_json::json!({"host": "a"})).unwrap_err(),
            "argument \"count\": missing"
        );
        assert_eq!(
            fill(serde_json::json!({"host": "a", "count": 1, "x": 1})).unwrap_err(),
            "argument \"x\": this action doesn't have it"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            settings("[a]\ncommand = ['ls']").unwrap_err().to_string(),
            "actions.a.command: expected a list that begins with a program by its whole path"
        );
        assert_eq!(
            settings("[a]\ncommand = ['/bin/ls', '{x}']")
                .unwrap_err()
                .to_string(),
            "actions.a.command: {x} isn't among the action's arguments"
        );
        assert_eq!(
            settings("[a]\ncommand = ['/bin/ls']\ntimeout = '2h'")
                .unwrap_err()
                .to_string(),
            "actions.a.timeout: expected up to 1h"
        );
        let units = Input {
            restart_units: Some(vec!["../x.service".into()]),
            ..Input::default()
        };
        assert!(Settings::check(&units, &BTreeMap::new()).is_err());
    }
}
