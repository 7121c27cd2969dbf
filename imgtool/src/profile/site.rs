//! The site file: the second layer over a profile, for one customer or place.
//! Everything in it is baked into the image, so that every node of a kind is in
//! the same state. Its JSON schema is `imgtool site schema`.

use super::settings::read_toml;
use crate::error::{Error, Result};
use crate::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The format that this code reads.
pub const FORMAT: u32 = 1;

/// Everything that one site sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Site {
    /// Version of this file's format: 1.
    pub format: u32,
    /// Host name. `{machine-id}` (first 8 digits), `{serial}` (of the machine) and
    /// `{mac}` (of the first network card) are filled in when the node boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Time zone, such as `Asia/Shanghai`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Packages beside the profile's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Where the node reports to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<ControlPlane>,
    /// One entry a network interface, the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<Network>,
    /// Files that are put into the root image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file: Vec<ExtraFile>,
    /// Disks that hold the customers' caches; the agent lays them out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_disk: Vec<CacheDisk>,
}

/// Where the node reports to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ControlPlane {
    /// `https://host[:port]`
    pub address: String,
    /// PEM file of the CA that signs its certificate, relative to the site file.
    pub ca: PathBuf,
}

/// One `.network` file of systemd-networkd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Interface name, with `*` and `?`: `en*`.
    pub interface: String,
    /// Whether to ask for an address; the default is yes if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<bool>,
    /// Addresses with prefix length: `192.0.2.10/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// Default gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// A file that is put into the root image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExtraFile {
    /// Where it is, relative to the site file and below its folder.
    pub source: PathBuf,
    /// Where it goes: an absolute path.
    pub path: PathBuf,
    /// Mode in octal.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// Numeric user id.
    #[serde(default)]
    pub uid: u32,
    /// Numeric group id.
    #[serde(default)]
    pub gid: u32,
}

/// Which disks become cache disks, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheDisk {
    /// Disks of at least so many GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_gib: Option<u64>,
    /// Only disks that turn, or only those that don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Only disks whose model fits this pattern, with `*` and `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The file system to make.
    pub filesystem: FileSystem,
    /// Where they are mounted; `{n}` counts from 0.
    pub mount: PathBuf,
}

/// File systems for cache disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

fn default_mode() -> String {
    "0644".into()
}

impl ExtraFile {
    /// The mode's bits.
    ///
    /// # Errors
    /// If it is no octal number up to 7777.
    pub fn mode_bits(&self) -> Result<u32, String> {
        u32::from_str_radix(&self.mode, 8)
            .ok()
            .filter(|bits| *bits <= 0o7777)
            .ok_or_else(|| {
                format!(
                    "mode: expected an octal mode such as \"0644\", got {:?}",
                    self.mode
                )
            })
    }
}

impl Site {
    /// Reads and checks a site file, and that the files that it names exist.
    ///
    /// # Errors
    /// If anything is unknown, impossible or missing; the error names file and field.
    pub fn load(path: &Path) -> Result<Self> {
        let site: Self = read_toml(path)?;
        site.check()
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        for (field, source) in site.sources() {
            let full = source_path(path, source)
                .map_err(|e| Error::input(format!("{}: {field}: {e}", path.display())))?;
            if !full.is_file() {
                return Err(Error::input(format!(
                    "{}: {field}: {} is not a file",
                    path.display(),
                    full.display()
                )));
            }
        }
        Ok(site)
    }

    /// Every file of the host that the site names, with the field that names it.
    pub fn sources(&self) -> Vec<(&'static str, &Path)> {
        let ca = self
            .control_plane
            .iter()
            .map(|c| ("control-plane.ca", c.ca.as_path()));
        ca.chain(
            self.file
                .iter()
                .map(|f| ("file.source", f.source.as_path())),
        )
        .collect()
    }

    /// The file's JSON schema.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Site).to_value()
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format: expected {FORMAT}, got {}", self.format));
        }
        self.hostname.as_deref().map_or(Ok(()), hostname)?;
        self.timezone.as_deref().map_or(Ok(()), timezone)?;
        for package in &self.packages {
            super::is_package_name(package).map_err(|e| format!("packages: {e}"))?;
        }
        if let Some(control) = &self.control_plane {
            control_plane(&control.address)?;
        }
        self.network.iter().try_for_each(Network::check)?;
        for file in &self.file {
            file.mode_bits().map_err(|e| format!("file.{e}"))?;
            inside("file.path", &file.path)?;
        }
        self.cache_disk.iter().try_for_each(|disk| {
            inside("cache-disk.mount", &disk.mount)?;
            disk.model
                .as_deref()
                .map_or(Ok(()), |model| pattern("cache-disk.model", model))
        })
    }
}

impl Network {
    fn check(&self) -> Result<(), String> {
        pattern("network.interface", &self.interface)?;
        for address in &self.address {
            let good = address.split_once('/').is_some_and(|(ip, prefix)| {
                let bits = ip
                    .parse::<IpAddr>()
                    .map_or(0, |ip| if ip.is_ipv4() { 32 } else { 128 });
                prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits)
            });
            if !good {
                return Err(format!(
                    "network.address: expected an address such as 192.0.2.10/24, got {address:?}"
                ));
            }
        }
        match self.mtu {
            Some(mtu) if mtu < 576 => Err(format!("network.mtu: expected at least 576, got {mtu}")),
            _ => Ok(()),
        }
    }

    /// The unit's text.
    pub fn unit(&self) -> String {
        let mut text = format!("[Match]\nName={}\n\n[Network]\n", self.interface);
        let dhcp = self.dhcp.unwrap_or(self.address.is_empty());
        text += if dhcp { "DHCP=yes\n" } else { "DHCP=no\n" };
        self.address
            .iter()
            .for_each(|address| text += &format!("Address={address}\n"));
        self.gateway
            .iter()
            .for_each(|gateway| text += &format!("Gateway={gateway}\n"));
        self.dns
            .iter()
            .for_each(|dns| text += &format!("DNS={dns}\n"));
        if let Some(mtu) = self.mtu {
            text += &format!("\n[Link]\nMTUBytes={mtu}\n");
        }
        text
    }
}

/// Where a file that the site names lies on the host.
///
/// # Errors
/// If it would lie outside the site file's folder.
pub fn source_path(site: &Path, source: &Path) -> Result<PathBuf, String> {
    let folder = files::folder_of(site);
    let full = folder.join(source);
    let outside = || format!("{} leaves the site's folder", source.display());
    let climbs = source
        .components()
        .any(|c| matches!(c, std::path::Component::ParentDir));
    if source.is_absolute() || climbs {
        return Err(outside());
    }
    match (folder.canonicalize(), full.canonicalize()) {
        (Ok(folder), Ok(real)) if !real.starts_with(&folder) => Err(outside()),
        _ => Ok(full),
    }
}

fn hostname(name: &str) -> Result<(), String> {
    let mut filled = name.to_owned();
    for (placeholder, example) in [
        ("{machine-id}", "0a1b2c3d"),
        ("{serial}", "SN123456"),
        ("{mac}", "525400123456"),
    ] {
        filled = filled.replace(placeholder, example);
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-');
    if filled.bytes().all(good) && filled.len() <= 64 && filled.split('.').all(label) {
        return Ok(());
    }
    Err(format!(
        "hostname: expected letters, digits, - and {{machine-id}}, {{serial}} or {{mac}}, at most 64 in all, got {name:?}"
    ))
}

fn timezone(zone: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_+-/".contains(&b);
    if !zone.is_empty() && zone.bytes().all(good) && !zone.starts_with('/') && zone.len() < 64 {
        return Ok(());
    }
    Err(format!(
        "timezone: expected a name such as Asia/Shanghai, got {zone:?}"
    ))
}

fn control_plane(address: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
    match address.strip_prefix("https://") {
        Some(host) if !host.is_empty() && host.bytes().all(good) => Ok(()),
        _ => Err(format!(
            "control-plane.address: expected https://host[:port], got {address:?}"
        )),
    }
}

fn pattern(field: &str, pattern: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"*?._- ".contains(&b);
    if !pattern.is_empty() && pattern.bytes().all(good) {
        return Ok(());
    }
    Err(format!(
        "{field}: expected a name, with * and ?, got {pattern:?}"
    ))
}

fn inside(field: &str, path: &Path) -> Result<(), String> {
    let climbs = path
        .components()
        .any(|c| matches!(c, std::path::Component::ParentDir));
    if path.is_absolute() && !climbs {
        return Ok(());
    }
    Err(format!(
        "{field}: expected an absolute path without .., got {:?}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<(), String> {
        let site: Site =
            toml::from_str(&format!("format = 1\n{body}")).map_err(|e| e.message().to_owned())?;
        site.check()
    }

    #[test]
    fn takes_a_whole_site() {
        let text = r#"
            hostname = "edge-{machine-id}"
            timezone = "Asia/Shanghai"
            packages = ["tcpdump"]
            [control-plane]
            address = "https://control.example:8443"
            ca = "ca.pem"
            [[network]]
            interface = "en*"
            [[network]]
            interface = "eth1"
            address = ["192.0.2.10/24", "2001:db8::1/64"]
            gateway = ["192.0.2.1"]
            dns = ["192.0.2.53"]
            mtu = 9000
            [[file]]
            source = "motd"
            path = "/etc/motd"
            [[cache-disk]]
            min-gib = 400
            filesystem = "xfs"
            mount = "/data/cache/{n}"
        "#;
        assert_eq!(check(text), Ok(()));
    }

    #[test]
    fn says_which_field_is_wrong() {
        let cases = [
            ("hostname = \"-a\"", "hostname: expected"),
            ("hostname = \"a{x}\"", "hostname: expected"),
            ("timezone = \"../../etc\"", "timezone: expected"),
            ("packages = [\"-S\"]", "packages: expected a package name"),
            ("colour = 1", "unknown field `colour`"),
            (
                "[control-plane]\naddress = \"http://x\"\nca = \"a\"",
                "control-plane.address: expected https",
            ),
            (
                "[[network]]\ninterface = \"a\\nb\"",
                "network.interface: expected",
            ),
            (
                "[[network]]\ninterface = \"a\"\naddress = [\"192.0.2.1/33\"]",
                "network.address: expected",
            ),
            (
                "[[network]]\ninterface = \"a\"\naddress = [\"x/1\"]",
                "network.address: expected",
            ),
            (
                "[[network]]\ninterface = \"a\"\nmtu = 1",
                "network.mtu: expected",
            ),
            (
                "[[file]]\nsource = \"a\"\npath = \"etc/a\"",
                "file.path: expected an absolute path",
            ),
            (
                "[[file]]\nsource = \"a\"\npath = \"/a\"\nmode = \"99\"",
                "file.mode: expected an octal",
            ),
            (
                "[[cache-disk]]\nfilesystem = \"ntfs\"\nmount = \"/a\"",
                "unknown variant `ntfs`",
            ),
        ];
        for (text, message) in cases {
            let error = check(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_network_becomes_a_unit() {
        let network = Network {
            interface: "eth1".into(),
            dhcp: None,
            address: vec!["192.0.2.10/24".into()],
            gateway: vec!["192.0.2.1".parse().unwrap()],
            dns: vec![],
            mtu: Some(9000),
        };
        assert_eq!(
            network.unit(),
            "[Match]\nName=eth1\n\n[Network]\nDHCP=no\nAddress=192.0.2.10/24\nGateway=192.0.2.1\n\n[Link]\nMTUBytes=9000\n"
        );
    }

    #[test]
    fn a_source_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site.toml");
        assert!(source_path(&site, Path::new("/etc/shadow")).is_err());
        assert!(source_path(&site, Path::new("../../../../etc/shadow")).is_err());
        std::os::unix::fs::symlink("/etc/shadow", folder.path().join("link")).unwrap();
        assert!(source_path(&site, Path::new("link")).is_err());
        assert!(source_path(&site, Path::new("not-there-yet")).is_ok());
    }
}
