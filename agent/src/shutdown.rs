//! Telling tasks to end, and what tasks are made of.

use std::pin::Pin;

use tokio::sync::watch;

/// Tells all who hold the other end. Dropping it tells them, too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Held by a task that is to end in good order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A new pair.
pub fn pair() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Tells them.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits until it is time to end.
    pub async fn requested(&mut self) {
        // An error means that the trigger is gone.
        let _ = self.0.wait_for(|told| *told).await;
    }

    /// Whether it is time to end.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// A task's work. Without the box the runtime's own code would be there once for each kind of task: a hundredth of the
/// program.
pub fn boxed<'w, T>(
    work: impl Future<Output = T> + Send + 'w,
) -> Pin<Box<dyn Future<Output = T> + Send + 'w>> {
    Box::pin(work)
}
