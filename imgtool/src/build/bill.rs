//! Writing the bill of materials: CycloneDX 1.6, from what pacman knows of the
//! packages that it installed. Source: <https://cyclonedx.org/docs/1.6/json/>.

use super::pacman::DATABASE;
use crate::error::{Error, Result};
use crate::files::cannot;
use cairn_release::{Timestamp, Version};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One installed package, as pacman's local database has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Package {
    fields: BTreeMap<String, Vec<String>>,
    files: Vec<String>,
}

/// The bill for the packages that are installed in `root`: bytes of `sbom.cdx.json`.
///
/// # Errors
/// If the database can't be read.
pub fn of(root: &Path, name: &str, version: &Version, created: Timestamp) -> Result<Vec<u8>> {
    let local = root.join(DATABASE).join("local");
    let mut components: Vec<Value> = Vec::new();
    let entries = fs::read_dir(&local).map_err(|e| cannot("read", &local, e))?;
    for entry in entries {
        let folder = entry.map_err(|e| cannot("read", &local, e))?.path();
        if !folder.is_dir() {
            continue;
        }
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|e| cannot("read", &path, e))
        };
        components.push(Package::parse(&read("desc")?, &read("files")?).component());
    }
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": { "components": [{ "type": "application", "name": "imgtool", "version": env!("CARGO_PKG_VERSION") }] },
            "component": { "type": "operating-system", "bom-ref": "os", "name": name, "version": version },
        },
        "components": components,
    });
    let mut bytes = serde_json::to_vec_pretty(&bill)
        .map_err(|e| Error::failed("cannot write the bill of materials").because(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

impl Package {
    fn parse(desc: &str, files: &str) -> Self {
        let mut fields = sections(desc);
        let files = sections(files).remove("FILES").unwrap_or_default();
        fields.retain(|_, values| !values.is_empty());
        Self { fields, files }
    }

    fn first(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.first().map(String::as_str)
    }

    /// A package is in the kernel container if any of its files is.
    fn images(&self) -> Vec<&'static str> {
        let kernel = |file: &&String| {
            let path = file.as_str();
            ["usr/lib/modules/", "usr/lib/firmware/"]
                .iter()
                .any(|f| path.starts_with(f))
                && !path.ends_with('/')
        };
        let in_kernel = self.files.iter().filter(kernel).count();
        let in_root = self
            .files
            .iter()
            .any(|file| !file.ends_with('/') && !kernel(&file));
        match (in_kernel > 0, in_root) {
            (true, true) => vec!["kernel", "root"],
            (true, false) => vec!["kernel"],
            _ => vec!["root"],
        }
    }

    fn component(&self) -> Value {
        let name = self.first("NAME").unwrap_or_default();
        let version = self.first("VERSION").unwrap_or_default();
        let arch = self.first("ARCH").unwrap_or("any");
        // https://github.com/package-url/purl-spec, type alpm
        let escaped = |text: &str| {
            text.replace('+', "%2B")
                .replace(':', "%3A")
                .replace('@', "%40")
        };
        let purl = format!(
            "pkg:alpm/arch/{}@{}?arch={arch}",
            escaped(name),
            escaped(version)
        );
        let mut component = json!({
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            "properties": self.images().iter().map(|image| json!({ "name": "cairn:image", "value": image })).collect::<Vec<_>>(),
        });
        if let Some(text) = self.first("DESC") {
            component["description"] = text.into();
        }
        if let Some(licences) = self.fields.get("LICENSE") {
            component["licenses"] = licences.iter().map(|name| licence(name)).collect();
        }
        if let Some(url) = self.first("URL").filter(|url| url.starts_with("http")) {
            component["externalReferences"] = json!([{ "type": "website", "url": url }]);
        }
        component
    }
}

/// One that SPDX lists goes by its id, any other by what the package calls it.
fn licence(name: &str) -> Value {
    match spdx::license_id(name) {
        Some(id) => json!({ "license": { "id": id.name } }),
        None => json!({ "license": { "name": name } }),
    }
}

/// `%NAME%` lines, each with lines of values up to an empty one.
fn sections(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        match line
            .strip_prefix('%')
            .and_then(|rest| rest.strip_suffix('%'))
        {
            Some(name) => current = Some(name.to_owned()),
            None if line.is_empty() => current = None,
            None => {
                if let Some(name) = &current {
                    sections
                        .entry(name.clone())
                        .or_default()
                        .push(line.to_owned());
                }
            }
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_becomes_a_component() {
        let desc = "%NAME%\ngtk+\n\n%VERSION%\n1:3.24-2\n\n%ARCH%\nx86_64\n\n%LICENSE%\nMIT\nLGPL with exceptions\n\n";
        let files = "%FILES%\nusr/\nusr/lib/\nusr/lib/modules/\nusr/lib/modules/6.1/\nusr/lib/modules/6.1/vmlinuz\n";
        let component = Package::parse(desc, files).component();
        assert_eq!(
            component["purl"],
            "pkg:alpm/arch/gtk%2B@1%3A3.24-2?arch=x86_64"
        );
        assert_eq!(component["licenses"][0]["license"]["id"], "MIT");
        assert_eq!(
            component["licenses"][1]["license"]["name"],
            "LGPL with exceptions"
        );
        assert_eq!(
            component["properties"],
            json!([{ "name": "cairn:image", "value": "kernel" }])
        );
    }
}
