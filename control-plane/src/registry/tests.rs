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

#[tokio::test]
async fn a_removed_device_goes_at_once_and_its_samples_in_pieces_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cairn.db");
    let store = Store::open(&path).unwrap();
    let rows = i64::try_from(removal::STEP).unwrap() * 5 / 2;
    let count = |store: &Store| {
        let store = store.clone();
        async move {
            store
                .read::<_, StoreError, _>(|c| {
                    Ok(c.query_row(
                        "SELECT (SELECT count(*) FROM sample WHERE device = 'a') + (SELECT count(*) FROM record_run WHERE device = 'a'),
                                (SELECT count(*) FROM sample WHERE device = 'b')",
                        [],
                        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
                    )?)
                })
                .await
                .unwrap()
        }
    };
    store
        .write::<_, StoreError, _>(move |tx| {
            tx.execute("INSERT INTO device (id, name, created) VALUES ('a', 'a', 1), ('b', 'b', 1)", [])?;
            for sql in [
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                 INSERT INTO sample SELECT 'a', 'k', n, '1' FROM n UNION ALL SELECT 'b', 'k', n, '1' FROM n",
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                 INSERT INTO record_run SELECT 'a', 'ab', 2 * n, 2 * n FROM n",
            ] {
                tx.execute(sql, [rows])?;
            }
            Ok(())
        })
        .await
        .unwrap();
    store
        .write::<_, StoreError, _>(|tx| {
            assert!(remove(tx, "a")?);
            assert!(!remove(tx, "a")? && !exists(tx, "a")?);
            // Who takes its name would be taken for it.
            assert_ne!(enrolment::free_id(tx, Some("a"))?.as_str(), "a");
            Ok(())
        })
        .await
        .unwrap();
    let step = i64::try_from(removal::STEP).unwrap();
    assert_eq!(
        count(&store).await,
        (2 * rows - step, rows),
        "one piece at a time"
    );
    // Another process over the same file.
    let store = Store::open(&path).unwrap();
    forget_removed(&store).await.unwrap();
    assert_eq!(count(&store).await, (0, rows));
    let free = store
        .read(|c| enrolment::free_id(c, Some("a")))
        .await
        .unwrap();
    assert_eq!(free.as_str(), "a");
}
