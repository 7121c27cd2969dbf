//! How fast a line is, and what finding out costs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;

/// What both ends send at most, in bits per second of whole frames.
const RATE: f64 = 8e6;
/// Bytes of the file that is fetched.
const FILE: u64 = 64 << 20;

/// What the server at the other end does with a request for a range.
#[derive(Clone, Copy)]
enum Server {
    Honest,
    /// It sends the whole file.
    KnowsNoRanges,
}

impl World {
    /// A server at the other end; gives its URL.
    fn serves(&self, server: Server) -> String {
        let listener = within(&self.far.0, || TcpListener::bind((FAR, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who has seen enough breaks off.
                thread::spawn(move || drop(serve(stream, server)));
            }
        });
        format!("http://{address}/file")
    }

    fn shaped(&self) {
        for space in [&self.node.0, &self.far.0] {
            run(&format!(
                "tc -n {space} qdisc add dev eth0 root tbf rate 8mbit burst 16kb limit 64kb"
            ));
        }
    }

    /// Bytes of whole frames that went over the line.
    fn on_the_line(&self) -> u64 {
        let read = |name: &str| {
            let path = format!("/sys/class/net/eth0/statistics/{name}");
            // The files of a namespace are those of the mount, so it has to be asked.
            let said = run(&format!("ip netns exec {} cat {path}", self.node.0));
            said.trim().parse::<u64>().unwrap()
        };
        read("rx_bytes") + read("tx_bytes")
    }

    fn tested(&self, url: &str, written: &str) -> Vec<Tested> {
        self.at_node(async {
            let mut line = self.line(&format!(
                "interface = 'eth0'\ntargets = []\n[wan.speed]\nup = '{url}'\ndown = '{url}'\n{written}"
            ));
            line.tester.as_mut().unwrap().test().await
        })
    }
}

fn serve(stream: TcpStream, server: Server) -> std::io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::new(stream);
    loop {
        let (mut body, mut range) = (0, None);
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(length) = line.strip_prefix("content-length: ") {
                body = length.parse().unwrap();
            }
            if let Some(wanted) = line.strip_prefix("range: bytes=0-") {
                range = Some(wanted.parse::<u64>().unwrap() + 1);
            }
            if line.is_empty() {
                break;
            }
        }
        std::io::copy(&mut requests.by_ref().take(body), &mut std::io::sink())?;
        let bytes = match (range, server) {
            (None, _) => 0,
            (Some(bytes), Server::Honest) => bytes,
            (Some(_), Server::KnowsNoRanges) => FILE,
        };
        write!(
            answers,
            "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n"
        )?;
        std::io::copy(&mut std::io::repeat(7).take(bytes), &mut answers)?;
    }
}

#[test]
fn a_line_of_8_mbit_is_measured_as_that_both_ways() {
    let world = World::new("shaped");
    world.shaped();
    let url = world.serves(Server::Honest);
    let tested = world.tested(&url, "budget = '1GiB'");
    let ways: Vec<_> = tested.iter().map(|tested| tested.direction).collect();
    assert_eq!(ways, [Direction::Up, Direction::Down]);
    for Tested {
        direction,
        bits_per_second,
    } in tested
    {
        let found = bits_per_second.unwrap() as f64 / RATE;
        println!("{direction:?}: {found}");
        assert!((0.85..1.0).contains(&found), "{direction:?}: {found}");
    }
    let ledger = Ledger::open(world.folder.path());
    assert_eq!(ledger.tested_ms("wan"), Some(NOW * 1000));
}

#[test]
fn no_test_passes_the_budget_and_restarts_forget_nothing() {
    let world = World::quiet("budget");
    // Of what comes in every fiftieth packet is lost, so that TCP sends more than was asked for.
    for space in [&world.node, &world.far] {
        world.drops(space, "input", "numgen inc mod 50 49");
    }
    let url = world.serves(Server::Honest);
    let before = world.on_the_line();
    let used_up = Err("the budget is used up".to_owned());
    let mut refused = 0;
    for _ in 0..8 {
        // Each of them is a new agent.
        let tested = world.tested(&url, "budget = '8MiB'\nbytes = '1MiB'");
        refused += tested
            .iter()
            .filter(|tested| tested.bits_per_second == used_up)
            .count();
        let used = world.on_the_line() - before;
        assert!(used <= 8 << 20, "{used}");
    }
    let used = world.on_the_line() - before;
    assert!(
        refused > 0 && used > 7 << 20,
        "{refused} refused, {used} used"
    );
}

#[test]
fn who_cannot_be_reached_costs_little() {
    let world = World::quiet("nobody");
    let before = world.on_the_line();
    let url = format!("http://{FAR}:9/x");
    let refused = world.tested(&url, "budget = '1GiB'");
    assert!(refused.iter().all(|tested| tested.bits_per_second.is_err()));
    world.drops(&world.far, "input", "meta l4proto tcp");
    let silent = world.tested(&url, "budget = '1GiB'\ntime = '1s'");
    let over = Err("the time is over".to_owned());
    assert!(
        silent.iter().all(|tested| tested.bits_per_second == over),
        "{silent:?}"
    );
    assert!(world.on_the_line() - before < 4096);
}

#[test]
fn who_sends_more_than_was_asked_for_is_not_heard_out() {
    let world = World::quiet("more");
    let before = world.on_the_line();
    let url = world.serves(Server::KnowsNoRanges);
    let tested = world.tested(&url, "budget = '1GiB'\ndirections = ['down']");
    let reason = tested[0].bits_per_second.clone().unwrap_err();
    assert!(reason.contains("more than was asked for"), "{reason}");
    let used = world.on_the_line() - before;
    println!("{used} of {FILE}");
    // More than its first piece, and it has paid for all that it might have had.
    assert!(used < 8 << 20, "{used} of {FILE}");
    let again = world.tested(&url, "budget = '16MiB'\ndirections = ['down']");
    let used_up = Err("the budget is used up".to_owned());
    assert_eq!(again[0].bits_per_second, used_up);
}
