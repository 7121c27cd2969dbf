//! Tasks that begin and end together.

use tokio::task::JoinHandle;

use crate::shutdown::{self, Shutdown, Trigger, boxed};

/// Tasks that end together.
pub struct Tasks {
    trigger: Trigger,
    shutdown: Shutdown,
    handles: Vec<JoinHandle<()>>,
}

impl Tasks {
    /// None yet.
    pub fn new() -> Self {
        let (trigger, shutdown) = shutdown::pair();
        Self {
            trigger,
            shutdown,
            handles: Vec::new(),
        }
    }

    /// Another one; it is given what tells it to end.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        work: impl FnOnce(Shutdown) -> F,
    ) {
        let work = boxed(work(self.shutdown.clone()));
        self.handles.push(tokio::spawn(work));
    }

    /// Tells all to end, and waits for them.
    pub async fn end(self) {
        self.trigger.pull();
        for handle in self.handles {
            if let Err(error) = handle.await {
                tracing::error!(%error, "a part of the agent broke");
            }
        }
    }
}
