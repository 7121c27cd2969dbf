//! How fast a line is: bytes to and from the control plane, or a server that is named, within a budget.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cairn_line::{Course, Limits, speed};
use cairn_update::window;
use cairn_wire::speed::PATH;
use http_body::{Body, Frame, SizeHint};
use rand::{Rng as _, RngCore as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::ledger::Ledger;
use super::settings::{Direction, Speed};
use crate::clock::Clock;
use crate::link::{Http, LinkError};

/// The nodes of a fleet begin so far apart: one server is at the other end of many lines.
const APART: Duration = Duration::from_secs(3600);
/// Bytes that are handed on at once.
const PIECE: usize = 16 << 10;

/// Tests one line.
pub struct Tester {
    line: String,
    speed: Speed,
    http: Http,
    clock: Clock,
    ledger: Arc<Mutex<Ledger>>,
    /// When the test that is due begins.
    begins: Option<Instant>,
}

/// What a test in one direction came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// Which.
    pub direction: Direction,
    /// Bits per second, or why there is no figure.
    pub bits_per_second: Result<u64, String>,
}

impl Tester {
    /// Of the line of this name.
    pub fn new(
        line: &str,
        speed: Speed,
        http: Http,
        clock: Clock,
        ledger: Arc<Mutex<Ledger>>,
    ) -> Self {
        Self {
            line: line.to_owned(),
            speed,
            http,
            clock,
            ledger,
            begins: None,
        }
    }

    /// Whether it is time for a test: the last one is long enough ago, the window is open, there is somebody to ask, and the
    /// node's turn among others has come. Without a clock it never is, since no budget can be kept.
    pub fn is_due(&mut self) -> bool {
        let due = match (self.clock.now().wall_ms, self.ledger.try_lock()) {
            (Some(now), Ok(ledger)) => self.is_wanted(ledger.tested_ms(&self.line), now),
            // Another line is tested.
            (Some(_), Err(_)) => return false,
            (None, _) => false,
        };
        if !due {
            self.begins = None;
            return false;
        }
        let spread = || {
            Instant::now()
                + APART
                    .min(self.speed.every)
                    .mul_f64(rand::thread_rng().gen_range(0.0..1.0))
        };
        Instant::now() >= *self.begins.get_or_insert_with(spread)
    }

    fn is_wanted(&self, tested: Option<i64>, now: i64) -> bool {
        let every = i64::try_from(self.speed.every.as_millis()).unwrap_or(i64::MAX);
        // A clock that went back is no reason to wait.
        let again = tested.is_none_or(|tested| now.saturating_sub(tested) >= every || now < tested);
        let own = |direction: &Direction| match direction {
            Direction::Up => self.speed.up.is_some(),
            Direction::Down => self.speed.down.is_some(),
        };
        again
            && window::open(&self.speed.windows, Some(now / 1000))
            && (self.http.has_control_plane() || self.speed.directions.iter().all(own))
    }

    /// One test in each direction. Nothing else is tested meanwhile.
    pub async fn test(&mut self) -> Vec<Tested> {
        self.begins = None;
        let ledger = self.ledger.clone();
        let mut ledger = ledger.lock().await;
        let mut all = Vec::new();
        for direction in self.speed.directions.clone() {
            let bits_per_second = self.within_budget(direction, &mut ledger).await;
            all.push(Tested {
                direction,
                bits_per_second,
            });
        }
        all
    }

    async fn within_budget(
        &self,
        direction: Direction,
        ledger: &mut Ledger,
    ) -> Result<u64, String> {
        let (line, budget) = (&self.line, self.speed.budget);
        let now = self.clock.now().wall_ms.ok_or("the time is not known")?;
        let left = ledger.left(line, budget, now);
        let bytes = speed::affordable(left)
            .unwrap_or(0)
            .min(self.speed.limits.bytes);
        let taken = match bytes {
            0 => 0,
            bytes => speed::on_the_line(bytes),
        };
        // Also when there is nothing to take: it counts as tested.
        let kept = ledger.take(line, budget, now, taken).await;
        kept.map_err(|error| format!("the budget cannot be kept: {error}"))?;
        if bytes == 0 {
            return Err("the budget is used up".to_owned());
        }
        let limits = Limits {
            bytes,
            ..self.speed.limits
        };
        let mut course = Course::new(limits);
        let ended = self.run(direction, &mut course).await;
        let used = course.bytes() + ended.as_ref().err().map_or(0, |(piece, _)| *piece);
        ledger
            .give_back(line, taken.saturating_sub(speed::on_the_line(used)))
            .await;
        // What was measured before it broke off is measured.
        let found = course.bits_per_second();
        found.ok_or_else(|| match ended {
            Err((_, reason)) => reason,
            Ok(()) => "too few bytes or too little time for a figure".to_owned(),
        })
    }

    /// Goes on until the course ends; or gives what the piece that failed may have taken, in bytes, and why it did.
    async fn run(&self, direction: Direction, course: &mut Course) -> Result<(), (u64, String)> {
        let mut filler = vec![0; PIECE];
        rand::thread_rng().fill_bytes(&mut filler);
        let filler = Bytes::from(filler);
        while let Some(bytes) = course.next() {
            let begun = Instant::now();
            let piece = async {
                match direction {
                    Direction::Up => self.up(bytes, &filler).await.map(|()| bytes),
                    Direction::Down => self.down(bytes).await,
                }
            };
            let done = timeout(course.time_left(), piece).await;
            let came = match done {
                Ok(Ok(came)) => came,
                // Nobody knows how much was on its way.
                Ok(Err(error @ LinkError::Answer { .. })) => {
                    return Err((course.left(), error.to_string()));
                }
                Ok(Err(error)) => return Err((bytes, error.to_string())),
                Err(_) => return Err((bytes, "the time is over".to_owned())),
            };
            course.done(came, begun.elapsed());
        }
        Ok(())
    }

    async fn up(&self, bytes: u64, filler: &Bytes) -> Result<(), LinkError> {
        let body = reqwest::Body::wrap(Filler {
            piece: filler.clone(),
            left: bytes,
        });
        let url = self.speed.up.as_deref().unwrap_or(PATH);
        let answer = self.http.post(url, body).await?;
        // The connection is free for the next when the answer is read.
        answer.bytes(PIECE).await.map(drop)
    }

    /// How many bytes came.
    async fn down(&self, bytes: u64) -> Result<u64, LinkError> {
        let mut answer = match &self.speed.down {
            Some(url) => self.http.get(url, Some(0..bytes), &[]).await?,
            None => {
                self.http
                    .get(&format!("{PATH}?bytes={bytes}"), None, &[])
                    .await?
            }
        };
        if answer.content_length.is_none_or(|length| length > bytes) {
            return Err(LinkError::Answer {
                url: self.speed.down.as_deref().unwrap_or(PATH).to_owned(),
                reason: "it sends more than was asked for".to_owned(),
            });
        }
        let mut came = 0;
        while let Some(part) = answer.chunk().await? {
            came += part.len() as u64;
        }
        Ok(came)
    }
}

/// Bytes that mean nothing and can't be compressed.
struct Filler {
    piece: Bytes,
    left: u64,
}

impl Body for Filler {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(self.piece.len());
        let piece = self.piece.slice(..size);
        self.left = self.left.saturating_sub(size as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
