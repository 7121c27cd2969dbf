//! Items of a list that are each judged alone: one that can't be read says so under its name, and the others hold.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::workload::Name;

/// What an item has in place of everything else when it can't be used.
const UNUSABLE: &str = "unusable";
/// The longest reason, in characters.
const REASON: usize = 500;

/// Something that people declare by a name.
pub trait Item: Serialize + DeserializeOwned {
    /// Its name.
    fn name(&self) -> &Name;

    /// What is wrong with it as a whole; its parts are right by themselves.
    ///
    /// # Errors
    /// Names the field and what was expected.
    fn check(&self) -> Result<(), String>;
}

/// One item of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared<T> {
    /// It can be used.
    Usable(Box<T>),
    /// It can't, and what is there under its name stays as it is.
    Unusable {
        /// Its name, if that can be read.
        name: Option<Name>,
        /// What is wrong with it.
        reason: String,
    },
}

impl<T: Item> Declared<T> {
    /// Its name, if it can be read.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Usable(item) => Some(item.name()),
            Self::Unusable { name, .. } => name.as_ref(),
        }
    }

    /// Itself, if it can be used.
    pub fn usable(&self) -> Option<&T> {
        match self {
            Self::Usable(item) => Some(item),
            Self::Unusable { .. } => None,
        }
    }

    pub(crate) fn unusable(name: Option<Name>, reason: &str) -> Self {
        Self::Unusable {
            name,
            reason: reason.chars().take(REASON).collect(),
        }
    }

    fn read(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let name = text("name").and_then(|name| name.parse().ok());
        if let Some(reason) = text(UNUSABLE) {
            return Self::unusable(name, reason);
        }
        match T::deserialize(value) {
            Ok(item) => match item.check() {
                Ok(()) => Self::Usable(Box::new(item)),
                Err(reason) => Self::unusable(name, &reason),
            },
            Err(error) => Self::unusable(name, &error.to_string()),
        }
    }
}

impl<T: Item> Serialize for Declared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Usable(item) => item.serialize(serializer),
            Self::Unusable { name, reason } => {
                let mut map = serializer.serialize_map(None)?;
                if let Some(name) = name {
                    map.serialize_entry("name", name)?;
                }
                map.serialize_entry(UNUSABLE, reason)?;
                map.end()
            }
        }
    }
}

/// Reads a list, item by item.
pub(crate) fn each<'de, T: Item, D: Deserializer<'de>>(
    deserializer: D,
    take: impl FnMut(Declared<T>),
) -> Result<(), D::Error> {
    struct List<T, F>(F, PhantomData<T>);

    impl<'de, T: Item, F: FnMut(Declared<T>)> Visitor<'de> for List<T, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of objects, each with a name")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(value) = list.next_element::<Value>()? {
                (self.0)(Declared::read(&value));
            }
            Ok(())
        }
    }

    deserializer.deserialize_seq(List(take, PhantomData))
}
