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

/// Changes of one transaction: they wait until all of them are in the queue.
async fn together<A, B, C>(
    store: &Store,
    changes: (
        impl Future<Output = A>,
        impl Future<Output = B>,
        impl Future<Output = C>,
    ),
) -> (A, B, C) {
    let (go, gone) = std::sync::mpsc::channel();
    let hold = store.write::<_, StoreError, _>(move |_| {
        let _ = gone.recv();
        Ok(())
    });
    // The writer holds the first of these while the others come; its own transaction ends with theirs.
    let (_, a, b, c, ()) = tokio::join!(hold, changes.0, changes.1, changes.2, async move {
        let _ = go.send(());
    });
    (a, b, c)
}

#[tokio::test]
async fn a_full_disk_undoes_what_it_takes_along_and_says_so() {
    let (_dir, store) = open();
    let full = store.write::<_, StoreError, _>(|tx| {
        let pages: i64 = tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        tx.pragma_update(None, "max_page_count", pages)?;
        let filled = tx.execute(
            "INSERT INTO device (id, name, created) VALUES ('b', hex(zeroblob(1000000)), 0)",
            [],
        );
        tx.pragma_update(None, "max_page_count", 1_000_000)?;
        Ok(filled.map(|_| ())?)
    });
    let changes = (add(&store, "a", false), full, add(&store, "c", false));
    let (a, b, c) = together(&store, changes).await;
    let b = b.unwrap_err();
    assert!(b.is_full(), "{b}");
    let answer = crate::web::ApiError::from(b);
    assert_eq!((answer.status.as_u16(), answer.code), (507, "disk-full"));
    let mut told = Vec::new();
    for (id, result) in [("a", a), ("c", c)] {
        if result.is_ok() {
            told.push(id);
        }
    }
    assert_eq!(
        devices(&store).await,
        told,
        "what was answered, and nothing else, is there"
    );
    add(&store, "d", false).await.unwrap();
}

#[tokio::test]
async fn a_change_that_panics_does_not_end_the_writer() {
    let (_dir, store) = open();
    let panics = store.write::<(), StoreError, _>(|tx| {
        tx.execute(
            "INSERT INTO device (id, name, created) VALUES ('b', 'b', 0)",
            [],
        )?;
        panic!("on purpose")
    });
    let (a, b, c) = together(
        &store,
        (add(&store, "a", false), panics, add(&store, "c", false)),
    )
    .await;
    assert!(matches!(b, Err(StoreError::Closed)));
    assert!(a.is_err(), "it was undone with the one that panicked");
    assert!(c.is_ok());
    assert_eq!(devices(&store).await, ["c"]);
}

#[tokio::test]
async fn nobody_else_may_read_the_database() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, store) = open();
    add(&store, "a", false).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o77, 0, "{:?} is {mode:o}", entry.file_name());
    }
}
