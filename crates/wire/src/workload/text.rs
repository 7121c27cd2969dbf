//! Short texts with a rule each. What breaks its rule can't be made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text isn't what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct NotThat {
    /// What would have been right.
    pub expected: &'static str,
    /// What was given, its beginning.
    pub got: String,
}

impl NotThat {
    pub(crate) fn new(expected: &'static str, got: &str) -> Self {
        Self {
            expected,
            got: got.chars().take(80).collect(),
        }
    }
}

/// A text with a rule; who uses it has [`NotThat`], `fmt`, `FromStr` and serde's two traits in scope.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotThat;

            fn try_from(text: String) -> Result<Self, NotThat> {
                let rule: fn(&str) -> bool = $rule;
                if rule(&text) {
                    Ok(Self(text))
                } else {
                    Err(NotThat::new($expected, &text))
                }
            }
        }

        impl FromStr for $name {
            type Err = NotThat;

            fn from_str(text: &str) -> Result<Self, NotThat> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

pub(crate) use text;

text!(
    /// A workload's name, unique on its node. Part of the name of its Docker container, so it has no dot: what follows a dot there is ours.
    Name,
    "a name of 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
    |text| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        text.len() <= 63
            && edge(text.bytes().next())
            && edge(text.bytes().last())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
);

text!(
    /// Who or what something belongs to: a customer, a business.
    Label,
    "1 to 64 of A-Za-z0-9._-, beginning with a letter or digit",
    |text| word(text, 64, b"._-")
);

text!(
    /// Name of a volume or of a network.
    Part,
    "1 to 64 of A-Za-z0-9._-, beginning with a letter or digit",
    |text| word(text, 64, b"._-")
);

text!(
    /// A path from the root, without `.` and `..`, so that it lies where it seems to.
    AbsolutePath,
    "an absolute path of at most 255 bytes without . and .. in it",
    |text| {
        text.len() <= 255
            && text.len() > 1
            && text.starts_with('/')
            && !text.ends_with('/')
            && !text.bytes().any(|b| b < b' ' || b == 0x7f)
            && text
                .split('/')
                .skip(1)
                .all(|part| !matches!(part, "" | "." | ".."))
    }
);

text!(
    /// Name of an environment variable.
    Variable,
    "a variable's name of 1 to 128 of A-Za-z0-9_., not beginning with a digit",
    |text| {
        (1..=128).contains(&text.len())
            && !text.bytes().next().is_some_and(|b| b.is_ascii_digit())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
    }
);

text!(
    /// A Linux capability without `CAP_`.
    Capability,
    "a capability as NET_BIND_SERVICE",
    |text| {
        (1..=32).contains(&text.len())
            && !text.starts_with("CAP_")
            && text != "ALL"
            && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    }
);

text!(
    /// Who a process runs as, by number: names mean something else in each image.
    User,
    "a user as 1000 or 1000:1000",
    |text| {
        let number = |text: &str| text.len() <= 10 && text.parse::<u32>().is_ok();
        match text.split_once(':') {
            Some((user, group)) => number(user) && number(group),
            None => number(text),
        }
    }
);

text!(
    /// A word of a command, or a variable's value.
    Word,
    "a text of at most 8192 bytes without NUL",
    |text| text.len() <= 8192 && !text.contains('\0')
);

impl User {
    /// Numbers of user and group; the group is that of the same number if none is given.
    pub fn ids(&self) -> (u32, u32) {
        let (user, group) = self.0.split_once(':').unwrap_or((&self.0, &self.0));
        // The rule has seen to it that they are numbers.
        (user.parse().unwrap_or(0), group.parse().unwrap_or(0))
    }
}

impl AbsolutePath {
    /// Whether it is `folder` or lies in it.
    pub fn is_in(&self, folder: &AbsolutePath) -> bool {
        self.0
            .strip_prefix(&folder.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A word of letters, digits and `more`, beginning with a letter or digit.
pub(crate) fn word(text: &str, most: usize, more: &[u8]) -> bool {
    text.len() <= most
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?}");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_text_keeps_its_rule() {
        let long = "a".repeat(64);
        takes::<Name>(
            &["a", "cdn-1", "0"],
            &["", "-a", "a-", "A", "a.b", "a/b", "ä", &long],
        );
        takes::<AbsolutePath>(
            &["/a", "/a/b.c", "/dev/dri"],
            &[
                "", "/", "a", "/a/", "/a/../b", "/./a", "//a", "/a\n", "/a\0",
            ],
        );
        takes::<Capability>(&["NET_ADMIN"], &["", "ALL", "CAP_NET_ADMIN", "net_admin"]);
        takes::<User>(
            &["0", "1000", "1000:50"],
            &["", "root", "-1", "+1:+", "1:", "1:2:3", "4294967296"],
        );
        takes::<Variable>(&["A", "_a.b"], &["", "1A", "A=B", "A B"]);
        takes::<Word>(&["", "a b\n"], &["a\0", &"a".repeat(8193)]);
        let path: AbsolutePath = "/srv/a".parse().unwrap();
        assert!(path.is_in(&"/srv".parse().unwrap()) && path.is_in(&path));
        assert!(!path.is_in(&"/sr".parse().unwrap()) && !path.is_in(&"/srv/a/b".parse().unwrap()));
    }
}
