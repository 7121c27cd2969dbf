//! What imgtool reads of a bill of materials (CycloneDX JSON): the packages.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licences, as the package states them.
    pub licenses: Vec<String>,
}

#[derive(Deserialize)]
struct Bom {
    #[serde(rename = "bomFormat")]
    bom_format: String,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    licenses: Vec<License>,
}

#[derive(Deserialize)]
struct License {
    expression: Option<String>,
    license: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
    name: Option<String>,
}

impl License {
    fn text(self) -> Option<String> {
        self.expression
            .or_else(|| self.license.and_then(|named| named.id.or(named.name)))
    }
}

/// Reads the packages, sorted by name; `name` is the file's, for errors.
///
/// # Errors
/// If it isn't CycloneDX.
pub fn packages(bytes: &[u8], name: &Path) -> Result<Vec<Package>> {
    let expected = format!("{}: expected a CycloneDX bill of materials", name.display());
    let bom: Bom =
        serde_json::from_slice(bytes).map_err(|e| Error::input(expected.as_str()).because(e))?;
    if bom.bom_format != "CycloneDX" {
        return Err(Error::input(format!(
            "{expected}, got {:?}",
            bom.bom_format
        )));
    }
    let packages: BTreeSet<Package> = bom
        .components
        .into_iter()
        .map(|component| Package {
            name: component.name,
            version: component.version,
            licenses: component
                .licenses
                .into_iter()
                .filter_map(License::text)
                .collect(),
        })
        .collect();
    Ok(packages.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_way_to_state_a_licence() {
        let bom = br#"{"bomFormat":"CycloneDX","components":[
            {"name":"b","version":"2","licenses":[{"license":{"id":"MIT"}},{"license":{"name":"custom"}}]},
            {"name":"a","version":"1","licenses":[{"expression":"GPL-2.0-only OR MIT"}]}]}"#;
        let packages = packages(bom, Path::new("s")).unwrap();
        assert_eq!(packages[0].licenses, ["GPL-2.0-only OR MIT"]);
        assert_eq!(packages[1].licenses, ["MIT", "custom"]);
    }
}
