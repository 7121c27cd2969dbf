//! mosquitto's clients.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{PATIENCE, Server, until};

pub fn mosquitto(program: &str, server: &Server) -> Command {
    // Its lines as they come, though they go into a pipe.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", program]);
    let id: [u8; 6] = rand::random();
    command.args([
        "-V",
        "mqttv311",
        "-h",
        "127.0.0.1",
        "-p",
        server.mqtt_port(),
        "-i",
        &hex::encode(id),
        "--cafile",
    ]);
    command.arg(server.ca());
    command
}

/// `mosquitto_sub -v`, its lines as they come.
pub struct Subscriber {
    child: Child,
    pub lines: std::sync::mpsc::Receiver<String>,
}

impl Subscriber {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .args(["-q", "1", "-v", "-d"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// The next message of a topic that starts like this: topic, blank, payload.
    pub fn message(&self, topic: &str) -> String {
        self.find(topic, |line| line.starts_with(topic))
    }

    /// The next line that contains this.
    pub fn line(&self, part: &str) -> String {
        self.find(part, |line| line.contains(part))
    }

    fn find(&self, part: &str, is: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if is(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {part:?}, only {seen:#?}")
    }

    /// The exit status, once it ends by itself.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let child = &mut self.child;
        until("mosquitto_sub to end", || child.try_wait().unwrap())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
