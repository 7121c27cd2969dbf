//! What all ways to the server together say about it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::watch;

use super::State;

/// Gathers what the session (MQTT, or ThingsBoard's HTTP API) and the control plane's own HTTP API come to know. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    parts: Arc<Mutex<Parts>>,
    whole: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Parts {
    session: State,
    http: State,
    connects: u64,
    /// The server asked not to be bothered before.
    hold_until: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            parts: Arc::default(),
            whole: watch::channel(State::Connecting).0,
        }
    }
}

impl Health {
    /// The state of the link.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.whole.subscribe()
    }

    /// How the session is.
    pub fn session(&self, state: State) {
        self.update(|parts| {
            if parts.session == State::Up && state != State::Up {
                // It is asked anew; what it said while all was well counts no more.
                parts.http = State::Connecting;
            }
            parts.session = state;
        });
    }

    /// What the last request to the control plane's HTTP API came to.
    pub fn http(&self, state: State) {
        self.update(|parts| parts.http = state);
    }

    /// How often the link came up.
    pub fn connects(&self) -> u64 {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .connects
    }

    /// The server asks to be left alone for so long.
    pub fn hold(&self, asked: Duration) {
        // A whole fleet is asked the same.
        let spread = asked.mul_f64(rand::thread_rng().gen_range(1.0..=1.5));
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hold_until = Instant::now().checked_add(spread);
    }

    /// How long the server is still to be left alone.
    pub fn held(&self) -> Duration {
        let until = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hold_until;
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    fn update(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let whole = combine(&parts);
        self.whole.send_if_modified(|state| {
            let changed = *state != whole;
            if changed {
                parts.connects += u64::from(whole == State::Up);
                tracing::info!(link = whole.name(), "{whole}");
                *state = whole;
            }
            changed
        });
    }
}

/// A server that answers in any way shows that the node's own link works.
fn combine(parts: &Parts) -> State {
    match (&parts.session, &parts.http) {
        (State::Up, _) | (State::ServerFailing(_), _) => parts.session.clone(),
        (State::Down(reason), State::Up) => State::ServerFailing(reason.clone()),
        (State::Connecting | State::Down(_), State::ServerFailing(reason)) => {
            State::ServerFailing(reason.clone())
        }
        (State::Connecting, State::Down(reason)) => State::Down(reason.clone()),
        (state, _) => state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::logging;

    #[test]
    fn changes_are_logged_in_plain_words_with_the_states_name() {
        let health = Health::default();
        let states = [
            State::Up,
            State::Down("no route".into()),
            State::ServerFailing("503".into()),
            State::Connecting,
        ];
        let logged = logging::captured(|| {
            for state in &states {
                health.session(state.clone());
                health.session(state.clone());
            }
        });
        let said: Vec<Value> = logged
            .iter()
            .map(|line| json!([line["fields"]["link"], line["fields"]["message"]]))
            .collect();
        let expected = [
            json!(["up", "link up"]),
            json!(["down", "link down: no route"]),
            json!(["server-failing", "the server is failing: 503"]),
            json!(["connecting", "connecting"]),
        ];
        assert_eq!(said, expected);
        for state in states {
            assert_eq!(json!(state)["state"], state.name());
        }
    }

    #[test]
    fn a_servers_wish_to_be_left_alone_is_kept() {
        let health = Health::default();
        assert_eq!(health.held(), Duration::ZERO);
        health.hold(Duration::from_secs(100));
        assert!(
            health.held() > Duration::from_secs(90) && health.held() <= Duration::from_secs(150)
        );
    }

    #[test]
    fn a_server_that_answers_with_errors_is_no_broken_link() {
        let health = Health::default();
        let state = || health.watch().borrow().clone();
        health.session(State::Down("refused".into()));
        assert_eq!(state(), State::Down("refused".into()));
        health.http(State::ServerFailing("503".into()));
        assert_eq!(state(), State::ServerFailing("503".into()));
        health.http(State::Up);
        assert_eq!(state(), State::ServerFailing("refused".into()));
        health.http(State::Down("no route".into()));
        assert_eq!(state(), State::Down("refused".into()));
        health.session(State::Up);
        health.http(State::Up);
        assert_eq!((state(), health.connects()), (State::Up, 1));

        // What HTTP said before the loss doesn't count.
        health.session(State::Down("reset".into()));
        assert_eq!(state(), State::Down("reset".into()));
    }
}
