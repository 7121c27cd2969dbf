//! A disk without room.

use std::os::unix::fs::symlink;

use cairn_release::name;

use crate::release;
use crate::uploads::{begin, commit, put, put_all, site};

#[tokio::test]
async fn an_upload_to_a_full_disk_is_told_so_and_goes_on_once_there_is_room() {
    let (site, root) = site().await;
    let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 3);
    let begun = begin(&site, &root, &folder, "stable").await;
    let id = begun.body["id"].as_str().unwrap().to_owned();
    let place = site
        .data()
        .join("releases/.uploads")
        .join(&id)
        .join(name::SBOM);
    symlink("/dev/full", &place).unwrap();
    let bytes = std::fs::read(folder.join(name::SBOM)).unwrap();
    let full = put(&site, &root, &id, name::SBOM, 0, &bytes).await;
    assert_eq!(
        (full.status.as_u16(), full.code()),
        (507, "disk-full"),
        "{full:?}"
    );
    std::fs::remove_file(&place).unwrap();
    put_all(&site, &root, &id, &folder).await;
    assert_eq!(commit(&site, &root, &id).await.status, 200);
}
