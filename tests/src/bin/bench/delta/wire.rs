//! A file server that understands ranges and counts what it sends, heads included.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};

/// A running server; its threads end with the program.
pub struct Wire {
    /// Where it listens.
    pub address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Wire {
    /// Serves the files of a folder.
    ///
    /// # Errors
    /// If there is no port.
    pub fn serve(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (counter, folder) = (Arc::clone(&bytes), folder.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, folder) = (Arc::clone(&counter), folder.clone());
                // A peer that hangs up is no concern of the next one.
                thread::spawn(move || drop(talk(&stream, &folder, &counter)));
            }
        });
        Ok(Self { address, bytes })
    }

    /// Bytes over the wire in both directions since this was asked last.
    pub fn taken(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }
}

fn talk(stream: &TcpStream, folder: &Path, counter: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream);
    while let Some((path, range, length)) = request(&mut lines)? {
        counter.fetch_add(length, Ordering::Relaxed);
        let path: PathBuf = folder.join(path.trim_start_matches('/'));
        let mut out = stream;
        let Ok(mut file) = File::open(&path) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let size = fs::metadata(&path)?.len();
        let (start, end) = range.map_or((0, size), |(start, end)| (start, (end + 1).min(size)));
        let status = match range {
            Some(_) => format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}",
                end - 1
            ),
            None => "200 OK".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n",
            end - start
        );
        file.seek(SeekFrom::Start(start))?;
        out.write_all(head.as_bytes())?;
        let sent = std::io::copy(&mut file.take(end - start), &mut out)?;
        counter.fetch_add(head.len() as u64 + sent, Ordering::Relaxed);
    }
    Ok(())
}

type Request = (String, Option<(u64, u64)>, u64);

/// Path, range, and how long the request was; `None` at the end.
fn request(lines: &mut impl BufRead) -> Result<Option<Request>> {
    let (mut path, mut range, mut length) = (String::new(), None, 0);
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line)?;
        length += read as u64;
        match line.trim_end() {
            "" if read == 0 => return Ok(None),
            "" => return Ok(Some((path, range, length))),
            line if path.is_empty() => {
                path = line.split(' ').nth(1).context("no path")?.to_owned();
            }
            line => {
                let (name, value) = line.split_once(':').unwrap_or_default();
                if name.eq_ignore_ascii_case("range") {
                    let value = value.trim().trim_start_matches("bytes=");
                    let (start, end) = value.split_once('-').context("no range")?;
                    range = Some((start.parse()?, end.parse().unwrap_or(u64::MAX - 1)));
                }
            }
        }
    }
}
