//! Everything that is asked of Docker, one method each.

use std::future::Future;

use cairn_workload::images::Present;
use cairn_workload::seen::Run;
use cairn_workload::{Action, Seen, Trouble};
use tokio::sync::Notify;

use super::Running;

/// What Docker has.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// All containers, whoever made them. One of ours that Docker doesn't tell of is unclear.
    pub seen: Vec<Seen>,
    /// All images.
    pub images: Vec<Present>,
    /// Those containers of ours that run.
    pub running: Vec<Running>,
}

impl View {
    /// What runs; of those that are unclear what was known before.
    pub fn running_after(&self, before: &[Running]) -> Vec<Running> {
        let unclear = |one: &&Running| {
            self.seen
                .iter()
                .any(|seen| seen.id == one.id && seen.run == Run::Unclear)
        };
        let kept = before.iter().filter(unclear);
        self.running.iter().chain(kept).cloned().collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_unclear_is_still_whose_it_was() {
        let running = |id: &str| Running {
            id: id.into(),
            workload: "web".parse().unwrap(),
            customer: "acme".into(),
            business: "vod".into(),
            namespace: "/run/netns/1".into(),
            ports: Default::default(),
        };
        let seen = |id: &str, run| Seen {
            id: id.into(),
            name: "cairn-web".into(),
            labels: Default::default(),
            image_id: String::new(),
            image: String::new(),
            run,
            restarts: 0,
        };
        let view = View {
            seen: vec![seen("hung", Run::Unclear), seen("dead", Run::Dead)],
            images: Vec::new(),
            running: vec![running("new")],
        };
        let before = ["hung", "dead", "gone"].map(running);
        assert_eq!(
            view.running_after(&before),
            [running("new"), running("hung")]
        );
    }
}
