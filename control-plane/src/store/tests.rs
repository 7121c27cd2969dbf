//! What [`Store`] promises: one error undoes one change, an answer means it is on the disk, a newer database is left alone.

use super::{Store, StoreError};

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cairn.db")).unwrap();
    (dir, store)
}

async fn add(store: &Store, id: &'static str, fail: bool) -> Result<(), StoreError> {
    store
        .write(move |tx| {
            tx.execute(
                "INSERT INTO device (id, name, created) VALUES (?1, ?1, 0)",
                [id],
            )?;
            if fail {
                Err(StoreError::Closed)
            } else {
                Ok(())
            }
        })
        .await
}

async fn devices(store: &Store) -> Vec<String> {
    store
        .read(|connection| {
            let mut statement = connection.prepare("SELECT id FROM device ORDER BY id")?;
            let ids = statement
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            Ok::<_, StoreError>(ids)
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn an_error_undoes_its_own_change_only() {
    let (_dir, store) = open();
    let (a, b, c) = tokio::join!(
        add(&store, "a", false),
        add(&store, "b", true),
        add(&store, "c", false)
    );
    assert!(a.is_ok() && c.is_ok());
    assert!(matches!(b, Err(StoreError::Closed)));
    assert_eq!(devices(&store).await, ["a", "c"]);
    // The same one again breaks a constraint, and says so.
    let again = add(&store, "a", false).await.unwrap_err().to_string();
    assert!(again.contains("UNIQUE"), "{again}");
}

#[tokio::test]
async fn what_was_answered_is_there_for_whoever_opens_the_file() {
    let (dir, store) = open();
    add(&store, "a", false).await.unwrap();
    // No orderly end of the first.
    let other = Store::open(&dir.path().join("cairn.db")).unwrap();
    assert_eq!(devices(&other).await, ["a"]);
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let (_dir, store) = open();
    let result = store
        .read(|connection| Ok::<_, StoreError>(connection.execute("DELETE FROM device", [])?))
        .await;
    assert!(result.unwrap_err().to_string().contains("readonly"));
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_unchanged() {
    let (dir, store) = open();
    drop(store);
    let path = dir.path().join("cairn.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let Err(error) = Store::open(&path) else {
        panic!("it was opened")
    };
    assert!(
        error
            .to_string()
            .contains("has schema 99, this program knows up to"),
        "{error}"
    );
}
