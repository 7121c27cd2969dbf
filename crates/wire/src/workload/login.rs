//! What a registry wants to know before it gives an image.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::image::is_registry;
use super::text::NotThat;

/// The longest user or password, in bytes.
const MAX: usize = 4096;

/// A registry's host, with its port if one is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Registry(String);

impl Registry {
    /// As it stands in an image's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Registry {
    type Error = NotThat;

    fn try_from(text: String) -> Result<Self, NotThat> {
        if text.len() <= 255 && is_registry(&text) {
            return Ok(Self(text));
        }
        Err(NotThat::new(
            "a registry as registry.example.org:5000",
            &text,
        ))
    }
}

impl From<Registry> for String {
    fn from(registry: Registry) -> Self {
        registry.0
    }
}

/// Something that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// What it is.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A user of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Where.
    pub registry: Registry,
    /// Who.
    pub user: String,
    /// The password, or a token that stands for one.
    pub password: Secret,
}

impl Login {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// Names the field and what was expected; never what it is.
    pub fn check(&self) -> Result<(), String> {
        let fields = [("user", &self.user), ("password", &self.password.0)];
        for (name, text) in fields {
            if text.is_empty() || text.len() > MAX || text.chars().any(char::is_control) {
                return Err(format!("{name}: expected one line of 1 to {MAX} bytes"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_sent_and_never_shown() {
        let text = r#"{"registry":"r.example.org:5000","user":"u","password":"very-secret"}"#;
        let login: Login = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&login).unwrap(), text);
        assert!(!format!("{login:?}").contains("very"));
        assert_eq!(login.check(), Ok(()));
        let none: Login = serde_json::from_str(&text.replace("very-secret", "")).unwrap();
        assert!(none.check().unwrap_err().starts_with("password: "));
        assert!(serde_json::from_str::<Login>(&text.replace("r.example.org", "r/x")).is_err());
    }
}
