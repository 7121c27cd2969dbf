//! The file by which a node enrols at its first boot. The agent owns its format;
//! here it is only made sure that it is one, before a disk goes out with it.

use crate::error::{Error, Result};
use crate::files;
use std::path::Path;

/// Where it lies on the data partition; the agent removes it once it is used.
pub const ON_NODE: &str = "agent/enrol.toml";
/// A certificate or three and two lines.
const LIMIT: u64 = 64 << 10;

/// An enrolment file. It holds a token, so its text is in no error and no report.
pub struct EnrolFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl EnrolFile {
    /// Reads and checks one.
    ///
    /// # Errors
    /// If it isn't there, or lacks something.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path, LIMIT)?;
        let wrong = |what: &str| {
            Error::input(format!("{}: {what}", path.display()))
                .hint("`cairnctl token create --out FILE` makes one")
        };
        let table = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse::<toml::Table>().ok())
            .ok_or_else(|| wrong("not an enrolment file"))?;
        for field in ["server", "ca", "token"] {
            match table.get(field) {
                Some(toml::Value::String(text)) if !text.is_empty() => {}
                _ => return Err(wrong(&format!("{field}: expected a text"))),
            }
        }
        Ok(Self { bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enrolment_file_is_one_and_its_token_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enrol.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            EnrolFile::read(&path).map(|file| file.bytes)
        };
        let good = "server = \"https://c.example\"\nca = \"PEM\"\ntoken = \"s3cret\"\n";
        assert_eq!(read(good).unwrap(), good.as_bytes());
        for (bad, message) in [
            (good.replace("server", "sever"), "server: expected a text"),
            (good.replace("\"PEM\"", "7"), "ca: expected a text"),
            (good.replace("s3cret", ""), "token: expected a text"),
            (good.replace('=', ":"), "not an enrolment file"),
        ] {
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
