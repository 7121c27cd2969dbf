//! The first step: files that each say a part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Table;

use super::{ConfigError, Input};
use crate::files;
use crate::setting::Invalid;

/// The longest fragment, in bytes.
const LIMIT: u64 = 64 * 1024;
/// How many fragments a folder may have.
const COUNT: usize = 256;

/// All fragments laid over each other, and which of them said what.
#[derive(Debug, Default)]
pub struct Merged {
    table: Table,
    origins: BTreeMap<String, PathBuf>,
}

/// Reads the `*.toml` of each folder in the order of their names; a later one wins, key by key, and so does a later folder.
/// A list is replaced as a whole. A folder that isn't there is empty.
///
/// # Errors
/// If a file can't be read, or has a key that nobody knows.
pub fn read(folders: &[PathBuf]) -> Result<Merged, ConfigError> {
    let mut merged = Merged::default();
    for folder in folders {
        for path in list(folder)? {
            merged.add(path)?;
        }
    }
    Ok(merged)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let wrong = |source| ConfigError::Read {
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
        if paths.len() > COUNT {
            return Err(wrong(std::io::Error::other(format!(
                "more than {COUNT} fragments"
            ))));
        }
    }
    paths.sort();
    Ok(paths)
}

impl Merged {
    fn add(&mut self, path: PathBuf) -> Result<(), ConfigError> {
        let bytes = files::read(&path, LIMIT)
            .and_then(|bytes| bytes.ok_or_else(|| std::io::ErrorKind::NotFound.into()));
        let bytes = bytes.map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::Fragment {
            path: path.clone(),
            line: None,
            reason: "expected text in UTF-8".to_owned(),
        })?;
        let wrong = |error: toml::de::Error| ConfigError::Fragment {
            path: path.clone(),
            line: error
                .span()
                .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            reason: error.message().to_owned(),
        };
        // Each alone must make sense, so that an error has a file and a line.
        toml::from_str::<Input>(&text).map_err(wrong)?;
        let table: Table = toml::from_str(&text).map_err(wrong)?;
        lay_over(&mut self.table, table, "", &path, &mut self.origins);
        Ok(())
    }

    /// The second step.
    ///
    /// # Errors
    /// If fragments that make sense alone don't together.
    pub fn input(&self) -> Result<Input, ConfigError> {
        // As text, which the program can read already.
        toml::from_str(&self.table.to_string()).map_err(|error| ConfigError::Value {
            path: None,
            invalid: Invalid::new("the fragments together", error.message()),
        })
    }

    /// All that they say.
    pub fn into_table(self) -> Table {
        self.table
    }

    /// Which fragment said the value of a key, or of the next above it.
    pub fn origin(&self, key: &str) -> Option<PathBuf> {
        let mut key = key;
        loop {
            if let Some(path) = self.origins.get(key) {
                return Some(path.clone());
            }
            key = key.rsplit_once('.')?.0;
        }
    }
}

fn lay_over(
    below: &mut Table,
    above: Table,
    prefix: &str,
    path: &Path,
    origins: &mut BTreeMap<String, PathBuf>,
) {
    for (key, value) in above {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        origins.insert(name.clone(), path.to_owned());
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => {
                lay_over(below, above, &name, path, origins)
            }
            (_, toml::Value::Table(above)) => {
                let mut fresh = Table::new();
                lay_over(&mut fresh, above, &name, path, origins);
                below.insert(key, fresh.into());
            }
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::load;

    fn folder(fragments: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in fragments {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn error(fragments: &[(&str, &str)]) -> String {
        let folder = folder(fragments);
        let text = load(&[folder.path().to_owned()]).unwrap_err().to_string();
        text.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn the_later_wins_key_by_key() {
        let image = folder(&[
            (
                "10-a.toml",
                "[link]\nkeep-alive = '30s'\nreconnect-max = '1m'\n[actions.one]\ncommand = ['/bin/true']\n",
            ),
            ("20-b.toml", "[link]\nkeep-alive = '40s'\n"),
            ("notes.txt", "not = [valid"),
        ]);
        let site = folder(&[(
            "00-site.toml",
            "[link]\nkeep-alive = '50s'\n[actions.two]\ncommand = ['/bin/false']\n",
        )]);
        let missing = site.path().join("missing");
        let (_, settings) =
            load(&[image.path().to_owned(), site.path().to_owned(), missing]).unwrap();
        assert_eq!(settings.link.keep_alive.as_secs(), 50);
        assert_eq!(settings.link.reconnect_max.as_secs(), 60);
        assert_eq!(
            settings.rpc.actions.keys().collect::<Vec<_>>(),
            ["one", "two"]
        );
    }

    #[test]
    fn errors_name_file_and_line_or_key() {
        assert_eq!(
            error(&[("a.toml", "[link]\n\nkeep-alife = '1m'\n")]),
            "a.toml:3: unknown field `keep-alife`, expected one of `transport`, `keep-alive`, `reconnect-min`, `reconnect-max`, `poll`"
        );
        assert!(
            error(&[("a.toml", "[links]\n")])
                .starts_with("a.toml:1: unknown field `links`, expected one of `server`, ")
        );
        assert!(error(&[("a.toml", "[link\n")]).starts_with("a.toml:1: "));
        assert_eq!(
            error(&[("a.toml", "[link]\nkeep-alive = 60\n")]),
            "a.toml:2: invalid type: integer `60`, expected a string"
        );
        let two = [
            ("a.toml", "[link]\nkeep-alive = '1m'\n"),
            ("b.toml", "[link]\nkeep-alive = 'soon'\n"),
        ];
        assert_eq!(
            error(&two),
            "b.toml: link.keep-alive: expected a duration as 90s, 5m or 7d, got \"soon\""
        );
    }

    #[test]
    fn what_is_no_text_or_too_long_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.toml"), [0xff, 0xfe]).unwrap();
        assert!(
            load(&[folder.path().to_owned()])
                .unwrap_err()
                .to_string()
                .ends_with("a.toml: expected text in UTF-8")
        );
        fs::write(folder.path().join("a.toml"), vec![b'#'; 70_000]).unwrap();
        assert!(
            load(&[folder.path().to_owned()])
                .unwrap_err()
                .to_string()
                .ends_with("more than 65536 bytes")
        );
    }

    #[test]
    fn nothing_at_all_is_a_configuration() {
        load(&[]).unwrap();
    }
}
