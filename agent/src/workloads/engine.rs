//! Everything that is asked of Docker, one method each.

use std::future::Future;

use cairn_workload::images::Present;
use cairn_workload::{Action, Seen, Trouble};
use tokio::sync::Notify;

use super::Running;

/// What Docker has.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// All containers, whoever made them.
    pub seen: Vec<Seen>,
    /// All images.
    pub images: Vec<Present>,
    /// Those containers of ours that run.
    pub running: Vec<Running>,
}

/// Docker. Each method has a time limit of its own; what it does may go on when it is over.
pub trait Engine: Send + Sync + 'static {
    /// Looks at everything.
    fn look(&self, node: &str) -> impl Future<Output = Result<View, Trouble>> + Send;
    /// Does it. What is done already is well.
    fn perform(&self, action: &Action) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// Removes a name of an image, and the image if it was the last; never by force.
    fn remove_image(&self, name: &str) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// The last lines that a container wrote, the oldest first.
    fn logs(
        &self,
        id: &str,
        lines: u32,
    ) -> impl Future<Output = Result<Vec<String>, Trouble>> + Send;
    /// Tells of each change of a container until Docker ends or doesn't answer.
    fn listen(&self, heard: &Notify) -> impl Future<Output = ()> + Send;
}
