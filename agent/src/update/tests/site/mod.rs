//! Three nodes at one site with one slow uplink: real agents' processes, multicast DNS, TLS, and a server that counts.

mod net;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;
use std::thread;

use cairn_release::manifest::Image;
use cairn_release::name;

use super::resume::{BLOCKS, install, noise, request};
use super::*;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::identity::keeper::Standing;
use crate::link::http::Target;
use crate::link::{self, Http};
use crate::neighbours;
use crate::neighbours::tests::Ca;
use crate::outbox::{self, Outbox};
use crate::update::effects::Part;
use crate::update::fake::image;
use crate::update::fetch::Fetch;
use crate::update::real::{Paths, Real, Sharing};
use net::{Net, SERVER};

/// Names the folder of a node that is to fetch; after it comes the server's address.
const CHILD: &str = "CAIRN_TEST_SITE";
/// Of so many blocks one is new: about 8 MiB.
const ONE_OF: u64 = 8;
/// The uplink.
const RATE: &str = "10mbit";
/// One on which there is time to die.
const SLOW: &str = "4mbit";

/// What each node of the tests below does; nothing without it. It fetches, and then gives until it is killed.
#[test]
fn child_at_a_site() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    if std::env::var_os("RUST_LOG").is_some() {
        crate::logging::start();
    }
    let (folder, server) = what.split_once(' ').unwrap();
    let data = Path::new(folder);
    let paths = Paths {
        data: data.to_owned(),
        agent: data.join("agent"),
        run: data.join("run"),
    };
    let image: Image = serde_json::from_slice(&std::fs::read(data.join("image")).unwrap()).unwrap();
    let clock = Clock::open(&paths.agent, 0);
    let target = Target {
        base: Some(format!("http://{server}/")),
        ..Target::default()
    };
    let identity = Identity::load(&data.join("agent/identity")).unwrap();
    let standing = Standing {
        identity: identity.map(Into::into),
        problem: None,
    };
    let settings = neighbours::Settings {
        share: true,
        ..neighbours::Settings::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let work = async {
        let outbox = outbox::Settings::default();
        let outbox = Outbox::open(&data.join("agent/outbox"), &outbox, clock.clone()).unwrap();
        let shelf = Arc::new(paths.shelf(clock.clone()));
        let standing = watch::channel(standing).1;
        let (neighbours, service) =
            neighbours::pair(settings, standing, clock.clone(), shelf.clone());
        let real = Real::new(
            paths.clone(),
            Http::fixed(clock.clone(), target),
            Some(Sharing { neighbours, shelf }),
            watch::channel(link::State::Up).1,
            outbox,
            clock,
        );
        let (_trigger, shutdown) = shutdown::pair();
        let version = version("2.0");
        let fetch = Fetch::new(&real, &version, "/releases/stable/2.0/", None);
        let fetched = async {
            let (begun, half) = (Once::new(), Once::new());
            let progress = |bytes: u64| {
                let missing = image.verity.hash_offset.saturating_sub(bytes);
                if missing < image.size / ONE_OF * 9 / 10 {
                    begun.call_once(|| say("begun"));
                }
                if missing < image.size / ONE_OF / 2 {
                    half.call_once(|| say("half"));
                }
            };
            let wanted = !data.join("releases/2.0").exists();
            if wanted {
                assert_eq!(fetch.image(Part::Root, &image, &progress).await, Ok(()));
            }
            say("done");
            std::future::pending::<()>().await;
        };
        tokio::join!(service.run(shutdown), fetched);
    };
    runtime.block_on(work);
}

fn say(word: &str) {
    writeln!(std::io::stdout(), "{word}").unwrap();
}

/// Answers requests for ranges of the image, and knows no other file.
fn serve(stream: TcpStream, file: &[u8]) -> std::io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::new(stream);
    while let Some((path, range)) = request(&mut requests)? {
        match range.filter(|_| path.ends_with(name::ROOT)) {
            Some((from, to)) => {
                write!(
                    answers,
                    "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{to}/{}\r\ncontent-length: {}\r\n\r\n",
                    file.len(),
                    to + 1 - from
                )?;
                answers.write_all(&file[from..=to])?;
            }
            None => write!(
                answers,
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
            )?,
        }
    }
    Ok(())
}

/// A site, and the files that its nodes begin with.
struct Site {
    net: Net,
    folder: tempfile::TempDir,
    ca: Ca,
    old: (Image, Vec<u8>),
    new: (Image, Vec<u8>),
    address: String,
}

/// A node's process.
struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
    image: PathBuf,
}

impl Site {
    fn new(rate: &str) -> Self {
        let net = Net::new(3, rate);
        let new = image(noise(|number| {
            number
                + if number.is_multiple_of(ONE_OF) {
                    BLOCKS
                } else {
                    0
                }
        }));
        let listener = net.at_server(|| TcpListener::bind((SERVER, 0)).unwrap());
        let address = listener.local_addr().unwrap().to_string();
        let file = Arc::new(new.1.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let file = file.clone();
                // A node that is killed breaks its connections.
                thread::spawn(move || drop(serve(stream, &file)));
            }
        });
        Self {
            net,
            folder: tempfile::tempdir().unwrap(),
            ca: Ca::new(),
            old: image(noise(|number| number)),
            new,
            address,
        }
    }

    /// A new node, which has 1.0 and wants 2.0, or has that, too, as these bytes.
    fn node(&self, number: usize, name: &str, has: Option<&[u8]>) -> Process {
        let data = self.folder.path().join(name);
        install(
            &data.join("releases/1.0"),
            "1.0",
            self.old.0.clone(),
            &self.old.1,
        );
        if let Some(bytes) = has {
            install(&data.join("releases/2.0"), "2.0", self.new.0.clone(), bytes);
        }
        let identity = data.join("agent/identity");
        std::fs::create_dir_all(&identity).unwrap();
        std::fs::write(data.join("image"), serde_json::to_vec(&self.new.0).unwrap()).unwrap();
        let own = self.ca.device(name);
        std::fs::write(identity.join("key.pem"), own.key()).unwrap();
        own.store(&identity).unwrap();

        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.net.node(number)])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "update::tests::site::child_at_a_site",
                "--nocapture",
            ])
            .env(CHILD, format!("{} {}", data.display(), self.address))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let image = data.join("releases/2.0.partial").join(name::ROOT);
        Process { child, said, image }
    }

    /// What one node alone costs on the uplink.
    fn alone(&self) -> u64 {
        let before = self.net.uplink_bytes();
        self.node(0, "alone", None).gets(&self.new.1);
        self.net.uplink_bytes() - before
    }
}

impl Process {
    fn says(&mut self, word: &str) {
        let mut heard = String::new();
        while heard.lines().last() != Some(word) {
            let more = self.said.read_line(&mut heard).unwrap();
            assert!(more > 0, "it ended, and said {heard}");
        }
    }

    fn gets(&mut self, bytes: &[u8]) {
        self.says("done");
        assert!(std::fs::read(&self.image).unwrap() == bytes);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn three_nodes_fetch_once() {
    let site = Site::new(RATE);
    let one = site.alone();
    assert!(one > site.new.0.size / ONE_OF, "{one}");
    let before = site.net.uplink_bytes();
    let mut nodes: Vec<_> = (0..3)
        .map(|n| site.node(n, &format!("node-{n}"), None))
        .collect();
    nodes.iter_mut().for_each(|node| node.gets(&site.new.1));
    let three = site.net.uplink_bytes() - before;
    println!("{three} bytes for three nodes, {one} for one");
    assert!(
        three * 100 <= one * 115,
        "{three} bytes for three, {one} for one"
    );
}

#[test]
fn when_the_one_that_fetches_dies_another_goes_on() {
    let site = Site::new(SLOW);
    let one = site.alone();
    let before = site.net.uplink_bytes();
    let mut first = site.node(0, "node-9", None);
    first.says("begun");
    let mut others: Vec<_> = (1..3)
        .map(|n| site.node(n, &format!("node-{n}"), None))
        .collect();
    others.iter_mut().for_each(|node| node.says("half"));
    drop(first);
    let then = site.net.uplink_bytes() - before;
    assert!(
        then * 100 <= one * 95,
        "{then} of {one} bytes: nothing is left to be fetched"
    );
    others.iter_mut().for_each(|node| node.gets(&site.new.1));
    let all = site.net.uplink_bytes() - before;
    println!("{all} bytes for three nodes of which one died at {then}, {one} for one");
    assert!(
        all * 100 <= one * 115,
        "{all} bytes for three, {one} for one"
    );
}

#[test]
fn a_lying_neighbour_costs_only_time() {
    let site = Site::new(RATE);
    let one = site.alone();
    let before = site.net.uplink_bytes();
    // Each new block is another than it should be.
    let mut lies = site.new.1.clone();
    lies.chunks_mut(cairn_release::BLOCK)
        .take(usize::try_from(BLOCKS).unwrap())
        .for_each(|block| block[0] ^= 1);
    let mut liar = site.node(0, "liar", Some(&lies));
    liar.says("done");
    let mut others: Vec<_> = (1..3)
        .map(|n| site.node(n, &format!("node-{n}"), None))
        .collect();
    others.iter_mut().for_each(|node| node.gets(&site.new.1));
    let all = site.net.uplink_bytes() - before;
    println!("{all} bytes for two nodes beside a liar, {one} for one");
    assert!(all * 100 <= one * 115, "{all} bytes for two, {one} for one");
}
