//! Lists, changes, and what goes with a device.

use super::attributes::Scope;
use super::*;
use crate::store::Store;

#[tokio::test]
async fn devices_are_listed_changed_revoked_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cairn.db")).unwrap();
    store
        .write::<_, StoreError, _>(|tx| {
            for number in 0..5 {
                tx.execute(
                    "INSERT INTO device (id, name, created) VALUES (?1, ?1, 1)",
                    [format!("d-{number}")],
                )?;
            }
            let change = Change {
                group: Some("edge".into()),
                add_tags: vec!["b".into(), "a".into(), "a".into()],
                remove_tags: vec!["c".into()],
                ..Change::default()
            };
            let changed = set(tx, "d-3", &change)?.unwrap();
            assert_eq!(
                (changed.group.as_str(), changed.tags),
                ("edge", vec!["a".to_owned(), "b".to_owned()])
            );
            assert!(set(tx, "nobody", &change)?.is_none());
            seen(tx, "d-1", true)?;
            let ids = |filter: Filter| -> Result<Vec<String>, StoreError> {
                Ok(list(tx, &filter)?
                    .into_iter()
                    .map(|device| device.id)
                    .collect())
            };
            assert_eq!(
                ids(Filter {
                    group: Some("edge".into()),
                    ..Filter::default()
                })?,
                ["d-3"]
            );
            assert_eq!(
                ids(Filter {
                    tag: Some("a".into()),
                    ..Filter::default()
                })?,
                ["d-3"]
            );
            assert_eq!(
                ids(Filter {
                    online: Some(true),
                    ..Filter::default()
                })?,
                ["d-1"]
            );
            assert_eq!(
                ids(Filter {
                    after: Some("d-1".into()),
                    limit: 2,
                    ..Filter::default()
                })?,
                ["d-2", "d-3"]
            );
            assert_eq!(count(tx)?, 5);
            all_offline(tx)?;
            assert!(!get(tx, "d-1")?.unwrap().online);

            let token = credentials::Credential::AccessToken("secret".into());
            assert!(credentials::add(tx, "d-2", &token)? && !credentials::add(tx, "d-3", &token)?);
            assert_eq!(
                credentials::by_access_token(tx, "secret")?
                    .unwrap()
                    .as_str(),
                "d-2"
            );
            assert!(revoke(tx, "d-2")? && !revoke(tx, "nobody")?);
            assert!(credentials::by_access_token(tx, "secret")?.is_none());
            assert!(get(tx, "d-2")?.unwrap().revoked.is_some());

            let mut values = Object::new();
            values.insert("k".into(), 1.into());
            attributes::set(tx, "d-2", Scope::Shared, &values).unwrap();
            assert!(attributes::set(tx, "nobody", Scope::Shared, &values).is_err());
            // However it comes: at once, by and by, or in the keys.
            let large = |key: &str, size: usize| {
                Object::from_iter([(key.to_owned(), "x".repeat(size).into())])
            };
            for number in 0..4 {
                attributes::set(
                    tx,
                    "d-2",
                    Scope::Client,
                    &large(&format!("k{number}"), 64_000),
                )
                .unwrap();
            }
            let more = attributes::set(tx, "d-2", Scope::Client, &large("k4", 64_000));
            assert!(matches!(
                more,
                Err(attributes::AttributeError::TooLarge("client"))
            ));
            let keys = (0..1000)
                .map(|number| (format!("{number:\u{1}>255}"), 1.into()))
                .collect();
            let more = attributes::set(tx, "d-2", Scope::Server, &keys);
            assert!(matches!(
                more,
                Err(attributes::AttributeError::TooLarge("server"))
            ));
            assert!(remove(tx, "d-2")? && !remove(tx, "d-2")?);
            assert!(attributes::get(tx, "d-2", Scope::Shared, None)?.is_empty());
            Ok(())
        })
        .await
        .unwrap();
}

#[test]
fn an_id_is_made_of_a_wish() {
    let wish = |text: &str| DeviceId::from_wish(text).map(|id| id.to_string());
    assert_eq!(wish("Site 7 / Rack B").as_deref(), Some("site-7-rack-b"));
    assert_eq!(wish("  --  "), None);
    assert_eq!(wish("../../etc"), Some("etc".into()));
    assert_eq!(wish(&"x".repeat(500)).map(|id| id.len()), Some(54));
    assert!(
        "A".parse::<DeviceId>().is_err()
            && "".parse::<DeviceId>().is_err()
            && "a/b".parse::<DeviceId>().is_err()
    );
    let tailed = DeviceId::from_wish(&"x".repeat(500)).unwrap().with_tail();
    assert!(tailed.as_str().parse::<DeviceId>().is_ok());
    assert!(is_label("a.B_1-") && !is_label("..") && !is_label("a/b") && !is_label(""));
}
