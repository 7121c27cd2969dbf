//! Images, by digest. A tag moves; a digest is what it is.

use std::fmt;
use std::str::FromStr;

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

use super::text::NotThat;

const EXPECTED: &str =
    "an image as registry.example.org/app:1.0@sha256:…, with its registry and digest";

/// An image at a registry: `registry[:port]/repository[:tag]@sha256:digest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Image {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Digest,
}

impl Image {
    /// Host of the registry, with its port if one is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Digest of the image's manifest, or of its list of manifests.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Without the tag, which is for people and changes nothing.
    pub fn untagged(mut self) -> Self {
        self.tag = None;
        self
    }

    /// What to pull: the digest alone says which image.
    pub fn reference(&self) -> String {
        format!(
            "{}/{}@sha256:{}",
            self.registry, self.repository, self.digest
        )
    }

    /// What Docker calls it once it is there: Docker's own registry goes without saying.
    pub fn local(&self) -> String {
        let reference = self.reference();
        match reference.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => reference,
        }
    }
}

impl FromStr for Image {
    type Err = NotThat;

    fn from_str(text: &str) -> Result<Self, NotThat> {
        let wrong = || NotThat::new(EXPECTED, text);
        if text.len() > 512 {
            return Err(wrong());
        }
        let (name, digest) = text.split_once("@sha256:").ok_or_else(wrong)?;
        let digest = digest.parse().map_err(|_| wrong())?;
        let (registry, path) = name.split_once('/').ok_or_else(wrong)?;
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if is_registry(registry) && is_repository(repository) && tag.is_none_or(is_tag) {
            Ok(Self {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                tag: tag.map(str::to_owned),
                digest,
            })
        } else {
            Err(wrong())
        }
    }
}

/// As Docker tells a registry from a user of its own: by a dot, a port, or `localhost`.
pub(super) fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let named = host == "localhost" || host.contains('.') || port.is_some();
    named
        && !host.is_empty()
        && !host.starts_with(['.', '-'])
        && !host.ends_with(['.', '-'])
        && host
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0)
        })
}

fn is_repository(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.split('/').all(|part| {
        part.bytes().next().is_some_and(edge)
            && part.bytes().last().is_some_and(edge)
            && part
                .bytes()
                .all(|b| edge(b) || matches!(b, b'.' | b'_' | b'-'))
    })
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl TryFrom<String> for Image {
    type Error = NotThat;

    fn try_from(text: String) -> Result<Self, NotThat> {
        text.parse()
    }
}

impl From<Image> for String {
    fn from(image: Image) -> Self {
        image.to_string()
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        write!(f, "@sha256:{}", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_registry_and_a_digest() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for good in [
            "127.0.0.1:5000/a",
            "registry.example.org/a/b_c:1.0",
            "localhost/a",
        ] {
            let text = format!("{good}@{digest}");
            let image: Image = text.parse().unwrap();
            assert_eq!(image.to_string(), text);
            let plain = format!("{}@{digest}", good.trim_end_matches(":1.0"));
            assert_eq!((image.reference(), image.local()), (plain.clone(), plain));
        }
        for bad in [
            "a",
            "library/a",
            "x.y/A",
            "x.y/",
            "x.y/a:",
            "x.y/../a",
            "x.y:0/a",
            "-x.y/a",
            "x.y/a b",
        ] {
            assert!(format!("{bad}@{digest}").parse::<Image>().is_err(), "{bad}");
        }
        assert!("x.y/a:1.0".parse::<Image>().is_err());
        assert!("x.y/a@sha256:ab".parse::<Image>().is_err());
    }

    #[test]
    fn dockers_own_registry_goes_without_saying() {
        let image = |name: &str| format!("{name}@sha256:{}", "0".repeat(64));
        let local = |name: &str| image(name).parse::<Image>().unwrap().local();
        assert_eq!(local("docker.io/library/nginx:1"), image("nginx"));
        assert_eq!(local("docker.io/me/app"), image("me/app"));
        assert_eq!(local("x.y/library/app"), image("x.y/library/app"));
    }
}
