//! Where a device measures how fast its line is: `GET PATH?bytes=N` gives N bytes, `POST PATH` takes as many as come. Nothing is kept.

/// The path.
pub const PATH: &str = "/v1/me/speed";
/// The most bytes of one request.
pub const LARGEST: u64 = 256 << 20;
