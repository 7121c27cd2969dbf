//! Many devices in one process, for the benchmarks: each has a key and a certificate of its own and speaks MQTT over TLS
//! by hand, on the codec alone, so that what is measured is the server.

mod device;
mod enrol;

pub use device::{Device, Session};
pub use enrol::{Enroller, client, key_and_request};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes as many open files as the machine grants: a connection is one.
///
/// # Errors
/// If the limit can't be set.
pub fn raise_open_files() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
