//! Which server, how to know it, and as whom: `cairnctl.toml`, and the environment above it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::client;
use crate::error::{Error, Result};

/// CAs that this system trusts, where distributions put them.
const SYSTEM_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"];

/// What is kept between commands.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `https://host:port`.
    pub server: String,
    /// The account.
    #[serde(default)]
    pub account: String,
    /// The bearer token.
    #[serde(default)]
    pub token: String,
    /// The CA that the server's certificate is checked against, in PEM; the system's if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// The file: `CAIRNCTL_CONFIG`, or `cairn/cairnctl.toml` in the user's folder for configuration.
///
/// # Errors
/// If there is no such folder.
pub fn path() -> Result<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = variable("CAIRNCTL_CONFIG") {
        return Ok(path);
    }
    variable("XDG_CONFIG_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".config")))
        .map(|folder| folder.join("cairn/cairnctl.toml"))
        .ok_or_else(|| {
            Error::new("cannot tell where the configuration lies")
                .hint("set HOME or CAIRNCTL_CONFIG")
        })
}

/// Reads the file; nothing if there is none.
///
/// # Errors
/// If it can't be read.
pub fn kept() -> Result<Option<Settings>> {
    let path = path()?;
    let cannot = || Error::new(format!("cannot read {}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .map(Some)
            .map_err(|error| cannot().because(error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot().because(error)),
    }
}

/// Reads the settings; `CAIRN_SERVER`, `CAIRN_CA` (a file) and `CAIRN_TOKEN` go above the file.
///
/// # Errors
/// If the file can't be read, or nothing says which server or as whom.
pub fn load() -> Result<Settings> {
    let mut settings = kept()?.unwrap_or_default();
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(server) = variable("CAIRN_SERVER") {
        // A token is for the server that gave it.
        if server.trim_end_matches('/') != settings.server {
            settings.token.clear();
            settings.ca = None;
        }
        settings.server = server;
    }
    if let Some(ca) = variable("CAIRN_CA") {
        settings.ca = Some(read_ca(Path::new(&ca))?);
    }
    if let Some(token) = variable("CAIRN_TOKEN") {
        settings.token = token;
    }
    if settings.server.is_empty() {
        return Err(Error::new("not logged in").hint("run `cairnctl login URL --ca FILE --user NAME`, or set CAIRN_SERVER, CAIRN_CA and CAIRN_TOKEN"));
    }
    if settings.token.is_empty() {
        return Err(Error::new(format!("no token for {}", settings.server))
            .hint("run `cairnctl login`, or set CAIRN_TOKEN"));
    }
    Ok(settings)
}

/// Keeps the settings, for nobody else to read.
///
/// # Errors
/// If the file can't be written.
pub fn save(settings: &Settings) -> Result<PathBuf> {
    let path = path()?;
    let text = toml::to_string(settings)
        .map_err(|error| Error::new("cannot write the settings").because(error))?;
    write_secret(&path, text.as_bytes())?;
    Ok(path)
}

/// Removes the file.
///
/// # Errors
/// If it can't be removed.
pub fn forget() -> Result<()> {
    let path = path()?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format!("cannot remove {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

/// Writes a file that only its owner can read; makes its folder.
///
/// # Errors
/// If it can't be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot = |error: std::io::Error| {
        Error::new(format!("cannot write {}", path.display())).because(error)
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(cannot)?;
    let mut file = tempfile::Builder::new()
        .prefix(".cairnctl-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .map_err(cannot)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(cannot)?;
    file.persist(path).map_err(|error| cannot(error.error))?;
    Ok(())
}

/// Reads a file of CAs.
///
/// # Errors
/// If it can't be read, or holds something else.
pub fn read_ca(path: &Path) -> Result<String> {
    let cannot = || Error::new(format!("cannot read the CA {}", path.display()));
    let pem = std::fs::read_to_string(path).map_err(|error| cannot().because(error))?;
    client::roots(&pem, true).map_err(|error| cannot().because_of([error]))?;
    Ok(pem)
}

/// The system's CAs.
pub fn system_cas() -> Option<String> {
    SYSTEM_CAS
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
}
