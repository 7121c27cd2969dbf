//! A download over a real connection onto a real disk, which is cut off again and again: by `kill -9` of the agent, and
//! by a server that drops its connections.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::MutexGuard;
use std::thread;

use cairn_release::manifest::{self, Image};
use cairn_release::{BLOCK, name};
use rand::Rng as _;

use super::*;
use crate::clock::Clock;
use crate::link::http::Target;
use crate::link::{self, Http};
use crate::outbox::{self, Outbox};
use crate::update::effects::Part;
use crate::update::fake::image;
use crate::update::fetch::Fetch;
use crate::update::real::{Paths, Real};

/// How often it is cut off.
const CUTS: usize = 100;
/// Blocks of the image: 64 MiB.
pub const BLOCKS: u64 = 16 << 10;
/// Of so many blocks one is new.
const ONE_OF: u64 = 6;
/// The server's pieces, and how many it sends in a second: a line of 1.2 MB/s.
const PIECE: usize = 4096;
const PIECES: u64 = 300;
/// Names the folder of the agent that is to fetch; after it comes the server's address.
const CHILD: &str = "CAIRN_TEST_FETCH";

/// Blocks of noise, each of which a number names.
pub fn noise(block: impl Fn(u64) -> u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..BLOCKS {
        let mut state = block(number);
        bytes.extend((0..BLOCK / 8).flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        }));
    }
    bytes
}

pub fn install(folder: &Path, name: &str, root: Image, bytes: &[u8]) {
    let mut manifest = manifest::example::manifest(&version(name), 1);
    manifest.root = root;
    let mut envelope = manifest.to_envelope();
    envelope.sign(&release_key());
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name::MANIFEST), envelope.to_json()).unwrap();
    std::fs::write(folder.join(name::KERNEL), b"kernel").unwrap();
    std::fs::write(folder.join(name::ROOT), bytes).unwrap();
}

/// The line to a server, and what cuts it.
struct Line {
    file: Vec<u8>,
    /// Bytes of bodies that went over it.
    sent: u64,
    /// At which of them it is cut next, the last first.
    cuts: Vec<u64>,
    /// Connections that began before the last cut of the server are dropped.
    generation: u64,
    agent: Option<Child>,
    killed: usize,
    dropped: usize,
}

type Shared = Arc<Mutex<Line>>;

fn lock(line: &Shared) -> MutexGuard<'_, Line> {
    line.lock().unwrap()
}

/// A path, and the range of it that was asked for, the last byte included.
pub type Request = (String, Option<(usize, usize)>);

/// The next request; none at the end.
pub fn request(requests: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let (mut path, mut range) = (String::new(), None);
    loop {
        let mut text = String::new();
        if requests.read_line(&mut text)? == 0 {
            return Ok(None);
        }
        if let Some(rest) = text.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap().to_owned();
        }
        if let Some(rest) = text.to_lowercase().strip_prefix("range: bytes=") {
            let (from, to) = rest.trim().split_once('-').unwrap();
            range = Some((from.parse().unwrap(), to.parse().unwrap()));
        }
        if text == "\r\n" {
            return Ok(Some((path, range)));
        }
    }
}

/// Answers requests for ranges until the other end, or this one, has enough.
fn serve(stream: TcpStream, line: &Shared) -> std::io::Result<()> {
    let generation = lock(line).generation;
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::new(stream);
    while let Some((path, range)) = request(&mut requests)? {
        let Some((from, to)) = range.filter(|_| path.ends_with(name::ROOT)) else {
            write!(
                answers,
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
            )?;
            continue;
        };
        let (bytes, total) = {
            let line = lock(line);
            (line.file[from..=to].to_vec(), line.file.len())
        };
        write!(
            answers,
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{to}/{total}\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        )?;
        for piece in bytes.chunks(PIECE) {
            {
                let mut line = lock(line);
                if line.generation != generation {
                    return Ok(());
                }
                // One piece after the other, as on a slow line.
                thread::sleep(Duration::from_micros(1_000_000 / PIECES));
                line.sent += piece.len() as u64;
                if line.cuts.last().is_some_and(|cut| line.sent >= *cut) {
                    line.cut();
                }
            }
            answers.write_all(piece)?;
        }
    }
    Ok(())
}

impl Line {
    /// The agent is killed, or all connections are dropped.
    fn cut(&mut self) {
        self.cuts.pop();
        // The kernel of an agent that was killed closes its connections at once.
        self.generation += 1;
        // The agent waits a second after each of these, so they are fewer.
        if rand::thread_rng().gen_ratio(1, 4) {
            self.dropped += 1;
        } else if let Some(agent) = &mut self.agent {
            agent.kill().unwrap();
            self.killed += 1;
        }
    }
}

/// What the agent of the test below does; nothing without it.
#[test]
fn child_that_fetches() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let (folder, server) = what.split_once(' ').unwrap();
    let data = Path::new(folder);
    let paths = Paths {
        data: data.to_owned(),
        agent: data.join("agent"),
        run: data.join("run"),
    };
    let image: Image = serde_json::from_slice(&std::fs::read(data.join("image")).unwrap()).unwrap();
    let clock = Clock::manual("boot", 1_800_000_000, 0);
    let target = Target {
        base: Some(format!("http://{server}/")),
        ..Target::default()
    };
    let outbox = Outbox::open(
        &data.join("agent/outbox"),
        &outbox::Settings::default(),
        clock.clone(),
    );
    let real = Real::new(
        paths,
        Http::fixed(clock.clone(), target),
        None,
        watch::channel(link::State::Up).1,
        outbox.unwrap(),
        clock,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let version = version("2.0");
    let fetch = Fetch::new(&real, &version, "/releases/stable/2.0/", None);
    let fetched = runtime.block_on(fetch.image(Part::Root, &image, &|_| {}));
    assert_eq!(fetched, Ok(()));
}

#[test]
fn cut_off_a_hundred_times_less_than_a_hundredth_comes_twice() {
    let data = tempfile::tempdir().unwrap();
    let (old, old_bytes) = image(noise(|number| number));
    let is_new = |number: u64| number.is_multiple_of(ONE_OF);
    let (new, new_bytes) = image(noise(|number| {
        number + if is_new(number) { BLOCKS } else { 0 }
    }));
    let needed = BLOCKS.div_ceil(ONE_OF) * BLOCK as u64 + new.verity.tree_size();
    install(&data.path().join("releases/1.0"), "1.0", old, &old_bytes);
    std::fs::create_dir(data.path().join("agent")).unwrap();
    std::fs::write(data.path().join("image"), serde_json::to_vec(&new).unwrap()).unwrap();

    let mut random = rand::thread_rng();
    let mut cuts: Vec<u64> = (0..CUTS).map(|_| random.gen_range(1..needed)).collect();
    cuts.sort_unstable_by(|a, b| b.cmp(a));
    let line = Arc::new(Mutex::new(Line {
        file: new_bytes.clone(),
        sent: 0,
        cuts,
        generation: 0,
        agent: None,
        killed: 0,
        dropped: 0,
    }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = line.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            // A connection that breaks is what this is about.
            thread::spawn(move || drop(serve(stream, &shared)));
        }
    });

    let program = std::env::current_exe().unwrap();
    let mut lives = 0;
    loop {
        lives += 1;
        assert!(lives <= CUTS + 1, "it dies by itself");
        let agent = Command::new(&program)
            .args(["--exact", "update::tests::resume::child_that_fetches"])
            .env(CHILD, format!("{} {address}", data.path().display()))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let id = agent.id();
        lock(&line).agent = Some(agent);
        let ended = ended(id, &line);
        if ended.success() {
            break;
        }
        assert_eq!(ended.signal(), Some(9), "{ended}");
    }
    let line = lock(&line);
    let image = data.path().join("releases/2.0.partial").join(name::ROOT);
    assert!(std::fs::read(image).unwrap() == new_bytes);
    assert_eq!(line.killed + line.dropped, CUTS);
    assert!(line.killed > 20 && line.dropped > 5);
    let twice = line.sent - needed;
    assert!(twice < new.size / 100, "{twice} of {} came twice", new.size);
}

/// Waits for the agent while the line may kill it.
fn ended(id: u32, line: &Shared) -> std::process::ExitStatus {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_raw(id.cast_signed()).unwrap();
    // Left for `wait`, so that the number stays the agent's.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).unwrap();
    lock(line).agent.take().unwrap().wait().unwrap()
}
