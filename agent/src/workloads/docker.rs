//! The Docker Engine at its socket.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::ContainerUpdateBody;
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptionsBuilder, EventsOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptions, RenameContainerOptions,
    StartContainerOptions, StopContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use cairn_wire::workload::{Image, Login, Restart, Workload};
use cairn_workload::images::Present;
use cairn_workload::{Action, Seen, Trouble, seen};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, OnceCell, watch};

use super::Running;
use super::container;
use super::engine::{Engine, View};
use super::shown::{Inspected, Listed, Stored};
use super::transport;

/// For what Docker answers from memory.
const QUICK: Duration = Duration::from_secs(30);
/// For how one container is: the others wait for it.
const GLANCE: Duration = Duration::from_secs(5);
/// For making, starting and removing: a slow disk takes its time.
const SLOW: Duration = Duration::from_secs(180);
/// For a stop beyond the longest grace.
const STOP: Duration = Duration::from_secs(3700);
/// How long a pull may make no progress. Docker resumes by itself what breaks within.
const SILENCE: Duration = Duration::from_secs(180);

/// Of a log, in bytes: an answer is one message.
const LOG: usize = 48 * 1024;
/// Of a line of it, in characters.
const LINE: usize = 4096;

/// Docker.
pub struct Socket {
    path: PathBuf,
    node: String,
    volumes: PathBuf,
    logins: watch::Receiver<Arc<Vec<Login>>>,
    client: OnceCell<Docker>,
}

impl Socket {
    /// At a socket; nothing is asked yet.
    pub fn new(
        path: PathBuf,
        node: String,
        volumes: PathBuf,
        logins: watch::Receiver<Arc<Vec<Login>>>,
    ) -> Self {
        Self {
            path,
            node,
            volumes,
            logins,
            client: OnceCell::new(),
        }
    }

    /// The client, once Docker has said which version of its API it speaks.
    async fn client(&self) -> Result<&Docker, Trouble> {
        let connect = async {
            let path = self.path.clone();
            let way = move |request| transport::request(path.clone(), request);
            // Each call has a limit of its own.
            let limit = STOP.as_secs();
            let docker = Docker::connect_with_custom_transport(
                way,
                Some("http://docker"),
                limit,
                API_DEFAULT_VERSION,
            )
            .map_err(trouble)?;
            within(QUICK, docker.negotiate_version()).await
        };
        self.client.get_or_try_init(|| connect).await
    }

    /// What Docker shows at `path`.
    async fn show<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let version = self.client().await?.client_version();
        let asked = transport::get(self.path.clone(), &version, path);
        tokio::time::timeout(QUICK, asked)
            .await
            .unwrap_or_else(|_| Err(silent(QUICK)))
    }

    async fn create(&self, workload: &Workload) -> Result<(), Trouble> {
        let body = container::body(&self.node, workload, &self.volumes)
            .map_err(|error| Trouble::Refused(format!("volumes: {error}")))?;
        let options = CreateContainerOptions {
            name: Some(seen::current_name(&workload.name)),
            ..CreateContainerOptions::default()
        };
        let client = self.client().await?;
        within(SLOW, client.create_container(Some(options), body))
            .await
            .map(drop)
    }

    /// What was stopped by an order Docker must not start again by itself, as it would when it restarts and the exit code was a failure's.
    async fn set_restart(&self, id: &str, rule: Restart) -> Result<(), Trouble> {
        let change = ContainerUpdateBody {
            restart_policy: Some(container::restart_policy(rule)),
            ..ContainerUpdateBody::default()
        };
        let client = self.client().await?;
        within(QUICK, client.update_container(id, change)).await
    }

    /// By digest: Docker checks each byte against it. That the image is then there under it is checked, too.
    async fn pull(&self, image: &Image) -> Result<(), Trouble> {
        let client = self.client().await?;
        let options = CreateImageOptionsBuilder::default()
            .from_image(&image.reference())
            .build();
        let logins = self.logins.borrow().clone();
        let login = logins
            .iter()
            .find(|login| login.registry.as_str() == image.registry());
        let credentials = login.map(credentials).transpose()?;
        let mut progress = std::pin::pin!(client.create_image(Some(options), None, credentials));
        loop {
            match tokio::time::timeout(SILENCE, progress.next()).await {
                Err(_) => return Err(Trouble::Unreachable("the pull stands still".to_owned())),
                Ok(None) => break,
                Ok(Some(step)) => {
                    let step = step.map_err(trouble)?;
                    if let Some(error) = step.error_detail.and_then(|detail| detail.message) {
                        return Err(Trouble::Refused(error));
                    }
                }
            }
        }
        let name = image.local();
        let stored: Stored = self.show(&format!("/images/{name}/json")).await?;
        if stored.repo_digests.iter().flatten().any(|has| *has == name) {
            Ok(())
        } else {
            Err(Trouble::Refused(format!("what came isn't {name}")))
        }
    }
}

impl Engine for Socket {
    async fn look(&self, node: &str) -> Result<View, Trouble> {
        let listed: Vec<Listed> = self.show("/containers/json?all=true").await?;
        let mut view = View::default();
        for listed in listed {
            let mut seen = Seen::from(listed);
            if let Some(workload) = seen.workload(node) {
                let path = format!("/containers/{}/json", seen.id);
                let asked = tokio::time::timeout(GLANCE, self.show(&path)).await;
                let inspected: Inspected = match asked.unwrap_or_else(|_| Err(silent(GLANCE))) {
                    Ok(inspected) => inspected,
                    // It hangs in Docker, or is gone since, which the next look shows. It hides no other.
                    Err(trouble) => {
                        tracing::debug!(%workload, id = seen.id, %trouble, "how it is isn't known");
                        view.seen.push(seen);
                        continue;
                    }
                };
                let label = |key| seen.labels.get(key).cloned().unwrap_or_default();
                if let Some(namespace) = inspected.namespace() {
                    view.running.push(Running {
                        id: seen.id.clone(),
                        workload,
                        customer: label(seen::CUSTOMER),
                        business: label(seen::BUSINESS),
                        namespace,
                        ports: inspected.ports(),
                    });
                }
                inspected.complete(&mut seen);
            }
            view.seen.push(seen);
        }
        let images: Vec<Stored> = self.show("/images/json").await?;
        view.images = images.into_iter().map(Present::from).collect();
        Ok(view)
    }

    async fn perform(&self, action: &Action) -> Result<(), Trouble> {
        let client = self.client().await?;
        let rename = |id: &str, name: String| {
            let id = id.to_owned();
            async move {
                let options = RenameContainerOptions { name };
                within(QUICK, client.rename_container(&id, options)).await
            }
        };
        match action {
            Action::Pull { image, .. } => self.pull(image).await,
            Action::Create(workload) => self.create(workload).await,
            Action::Start { id, restart, .. } => {
                self.set_restart(id, *restart).await?;
                let asked = client.start_container(id, None::<StartContainerOptions>);
                within(SLOW, asked).await.map(drop)
            }
            Action::Stop { id, .. } => {
                self.set_restart(id, Restart::Never).await?;
                // Its own grace was given to Docker when it was made.
                let asked = client.stop_container(id, None::<StopContainerOptions>);
                within(STOP, asked).await.map(drop)
            }
            Action::SetAside { workload, id } => {
                self.set_restart(id, Restart::Never).await?;
                rename(id, seen::previous_name(workload)).await
            }
            Action::Restore { workload, id } => rename(id, seen::current_name(workload)).await,
            Action::Remove { id, .. } => {
                // With the nameless volumes that Docker made for it, and without force.
                let options = RemoveContainerOptionsBuilder::default().v(true).build();
                within(SLOW, client.remove_container(id, Some(options))).await
            }
        }
    }

    async fn remove_image(&self, name: &str) -> Result<(), Trouble> {
        let client = self.client().await?;
        let asked = client.remove_image(name, None::<RemoveImageOptions>, None);
        within(SLOW, asked).await.map(drop)
    }

    async fn logs(&self, id: &str, lines: u32) -> Result<Vec<String>, Trouble> {
        let client = self.client().await?;
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail(&lines.to_string())
            .build();
        let mut log = std::pin::pin!(client.logs(id, Some(options)));
        let (mut kept, mut size) = (VecDeque::new(), 0);
        while let Some(line) = within(QUICK, async { log.next().await.transpose() }).await? {
            let bytes = line.into_bytes();
            // What one line has over is lost, not what came before it.
            let text: String = String::from_utf8_lossy(&bytes).chars().take(LINE).collect();
            let text = text.trim_end().to_owned();
            size += text.len();
            kept.push_back(text);
            while size > LOG {
                size -= kept.pop_front().map_or(size, |text| text.len());
            }
        }
        Ok(kept.into())
    }

    async fn listen(&self, heard: &Notify) {
        let Ok(client) = self.client().await else {
            return;
        };
        let filters: HashMap<String, Vec<String>> =
            [("type".to_owned(), vec!["container".to_owned()])].into();
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut events = std::pin::pin!(client.events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            // A health check that runs changes nothing.
            if !event
                .action
                .is_some_and(|action| action.starts_with("exec_"))
            {
                heard.notify_one();
            }
        }
    }
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map_err(trouble),
        Err(_) => Err(silent(limit)),
    }
}

fn silent(limit: Duration) -> Trouble {
    Trouble::Unreachable(format!("no answer within {} s", limit.as_secs()))
}

/// As the client library takes them. It writes base64 with `+` and `/` where Docker reads `-` and `_` and else ignores all of it; so what would
/// come to these is refused here.
fn credentials(login: &Login) -> Result<DockerCredentials, Trouble> {
    let credentials = DockerCredentials {
        serveraddress: Some(login.registry.as_str().to_owned()),
        username: Some(login.user.clone()),
        password: Some(login.password.reveal().to_owned()),
        ..DockerCredentials::default()
    };
    let json = serde_json::to_vec(&credentials).unwrap_or_default();
    let spoilt = json.chunks(3).any(|three| {
        let bits = (0..3).fold(0_u32, |bits, at| {
            bits << 8 | u32::from(three.get(at).copied().unwrap_or(0))
        });
        [18, 12, 6, 0]
            .into_iter()
            .any(|shift| bits >> shift & 63 >= 62)
    });
    if spoilt {
        return Err(Trouble::Refused(format!(
            "user and password of {} can't be given to Docker; expected ones without > ? ~ and letters beyond ASCII",
            login.registry.as_str()
        )));
    }
    Ok(credentials)
}

/// Only what Docker itself says counts against what was asked for.
fn trouble(error: Error) -> Trouble {
    match error {
        Error::DockerResponseServerError { message, .. } => Trouble::Refused(message),
        Error::DockerStreamError { error } => Trouble::Refused(error),
        other => Trouble::Unreachable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use cairn_workload::seen::Run;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// A Docker with two containers of ours, of which it tells one.
    async fn answer(mut stream: UnixStream) {
        let (mut asked, mut buffer) = (String::new(), [0; 1024]);
        while !asked.ends_with("\r\n\r\n") {
            let read = stream.read(&mut buffer).await.unwrap();
            asked.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        let listed = |id: &str| {
            json!({
                "Id": id, "Names": [format!("/cairn-{id}")], "Labels": { "cairn.node": "n", "cairn.workload": id },
            })
        };
        let said = |said: Value| {
            let body = said.to_string();
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        let answer = match asked.split(' ').nth(1).unwrap() {
            path if path.ends_with("/version") => said(json!({ "ApiVersion": "1.41" })),
            path if path.ends_with("/images/json") => said(json!([])),
            path if path.contains("/containers/json") => {
                said(json!([listed("hung"), listed("web")]))
            }
            path if path.ends_with("/containers/web/json") => {
                said(json!({ "State": { "Status": "exited", "ExitCode": 0 } }))
            }
            _ => return,
        };
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    #[tokio::test]
    async fn one_container_that_hangs_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let docker = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        let logins = watch::channel(Arc::default()).1;
        let socket = Socket::new(path, "n".into(), folder.path().into(), logins);
        let view = socket.look("n").await.unwrap();
        let runs: Vec<_> = view
            .seen
            .iter()
            .map(|seen| (&*seen.id, &seen.run))
            .collect();
        let ended = Run::Exited {
            code: 0,
            oom: false,
        };
        assert_eq!(runs, [("hung", &Run::Unclear), ("web", &ended)]);
        docker.abort();
    }

    #[test]
    fn a_password_that_docker_would_not_read_is_refused_without_being_shown() {
        let login = |password: &str| {
            let json = serde_json::json!({ "registry": "r.example.org", "user": "u", "password": password });
            serde_json::from_value::<Login>(json).unwrap()
        };
        assert!(credentials(&login("Az09-_.!$%&")).is_ok());
        let refused = |password| credentials(&login(password)).unwrap_err().to_string();
        // One of three places in a row is the one that matters.
        for password in ["~~~", "???", ">>>"] {
            let reason = refused(password);
            assert!(
                reason.contains("r.example.org") && !reason.contains(password),
                "{reason}"
            );
        }
    }
}
