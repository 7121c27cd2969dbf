//! What Docker shows of containers and images: the fields that matter, each of which it may leave out or call null.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cairn_wire::workload::Protocol;
use cairn_workload::Seen;
use cairn_workload::images::Present;
use cairn_workload::seen::{Health, Run};
use serde::Deserialize;

/// A container in the list of all.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    id: Option<String>,
    names: Option<Vec<String>>,
    image: Option<String>,
    #[serde(rename = "ImageID")]
    image_id: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl From<Listed> for Seen {
    fn from(listed: Listed) -> Self {
        // What others call it by a link has a further slash: `/theirs/web`.
        let names = listed.names.iter().flatten();
        let mut names = names.map(|name| name.trim_start_matches('/'));
        let name = names.find(|name| !name.contains('/'));
        Self {
            name: name.unwrap_or_default().to_owned(),
            labels: listed.labels.unwrap_or_default(),
            image_id: listed.image_id.unwrap_or_default(),
            image: listed.image.unwrap_or_default(),
            run: Run::Unclear,
            restarts: 0,
            id: listed.id.unwrap_or_default(),
        }
    }
}

/// One of ours, more closely.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    restart_count: Option<i64>,
    config: Option<Config>,
    state: Option<State>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: Option<String>,
    pid: Option<i64>,
    exit_code: Option<i64>,
    #[serde(rename = "OOMKilled")]
    oom_killed: Option<bool>,
    started_at: Option<String>,
    health: Option<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Condition {
    status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    sandbox_key: Option<String>,
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    host_port: Option<String>,
}

impl Inspected {
    /// The file of its network namespace, if it runs.
    pub fn namespace(&self) -> Option<PathBuf> {
        self.state.as_ref()?.pid.filter(|pid| *pid > 0)?;
        let networks = self.network_settings.as_ref()?;
        networks.sandbox_key.as_ref().map(PathBuf::from)
    }

    /// The node's ports that lead to it now.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        let networks = self.network_settings.as_ref();
        let inside = networks.and_then(|networks| networks.ports.as_ref());
        let published = inside.into_iter().flatten().filter_map(|(port, bindings)| {
            let protocol = match port.split_once('/')?.1 {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            Some((protocol, bindings.as_ref()?))
        });
        published
            .flat_map(|(protocol, bindings)| {
                let hosts = bindings.iter().filter_map(|one| one.host_port.as_ref());
                hosts.filter_map(move |host| Some((protocol, host.parse().ok()?)))
            })
            .collect()
    }

    /// Adds what the list doesn't have.
    pub fn complete(self, seen: &mut Seen) {
        seen.restarts = self
            .restart_count
            .and_then(|count| u64::try_from(count).ok())
            .unwrap_or(0);
        if let Some(image) = self.config.and_then(|config| config.image) {
            seen.image = image;
        }
        if let Some(state) = self.state {
            seen.run = state.run();
        }
    }
}

impl State {
    fn run(self) -> Run {
        let health = self.health.and_then(|health| health.status);
        match self.status.as_deref() {
            Some("created") => Run::Created,
            Some("running" | "stopping") => Run::Running {
                health: match health.as_deref() {
                    Some("starting") => Health::Starting,
                    Some("healthy") => Health::Healthy,
                    Some("unhealthy") => Health::Unhealthy,
                    _ => Health::Unchecked,
                },
                since: self.started_at.unwrap_or_default(),
            },
            Some("paused") => Run::Paused,
            Some("restarting") => Run::Restarting,
            Some("exited") => Run::Exited {
                code: self.exit_code.unwrap_or(0),
                oom: self.oom_killed.unwrap_or(false),
            },
            _ => Run::Dead,
        }
    }
}

/// An image, in the list of all or alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stored {
    id: String,
    /// The names by which it can be told from all others.
    pub repo_digests: Option<Vec<String>>,
    size: Option<i64>,
}

impl From<Stored> for Present {
    fn from(stored: Stored) -> Self {
        Self {
            id: stored.id,
            names: stored.repo_digests.unwrap_or_default(),
            size: stored
                .size
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(state: serde_json::Value) -> (Seen, Option<PathBuf>) {
        let listed = json!({
            "Id": "1", "Names": ["/cairn-web"], "Image": "sha256:a", "ImageID": "sha256:a", "Labels": { "cairn.node": "n" },
            "Ports": [], "HostConfig": { "NetworkMode": "none" },
        });
        let inspected = json!({
            "RestartCount": 3, "Config": { "Image": "r/web@sha256:b", "Env": null }, "State": state,
            "NetworkSettings": { "SandboxKey": "/run/netns/1", "Ports": {
                "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }, { "HostIp": "::", "HostPort": "8080" }],
                "53/udp": [{ "HostIp": "10.0.0.1", "HostPort": "5353" }],
                "81/tcp": null, "9/sctp": [{ "HostPort": "9" }], "82/tcp": [{ "HostPort": "" }],
            } },
        });
        let mut seen = Seen::from(serde_json::from_value::<Listed>(listed).unwrap());
        let inspected: Inspected = serde_json::from_value(inspected).unwrap();
        let ports = [(Protocol::Tcp, 8080), (Protocol::Udp, 5353)];
        assert_eq!(inspected.ports(), ports.into());
        let namespace = inspected.namespace();
        inspected.complete(&mut seen);
        (seen, namespace)
    }

    #[test]
    fn a_container_is_seen_as_docker_shows_it() {
        let (web, namespace) = seen(json!({
            "Status": "running", "Pid": 7, "StartedAt": "t", "Health": { "Status": "healthy", "Log": [] },
        }));
        assert_eq!(
            (&*web.name, &*web.image, web.restarts),
            ("cairn-web", "r/web@sha256:b", 3)
        );
        assert_eq!(web.labels["cairn.node"], "n");
        let running = |health| Run::Running {
            health,
            since: "t".into(),
        };
        assert_eq!(web.run, running(Health::Healthy));
        assert_eq!(namespace, Some("/run/netns/1".into()));

        let (web, _) = seen(json!({ "Status": "running", "StartedAt": "t", "Health": null }));
        assert_eq!(web.run, running(Health::Unchecked));
        let (web, namespace) =
            seen(json!({ "Status": "exited", "Pid": 0, "ExitCode": 137, "OOMKilled": true }));
        let killed = Run::Exited {
            code: 137,
            oom: true,
        };
        assert_eq!((web.run, namespace), (killed, None));
        assert_eq!(seen(json!({ "Status": "a new word" })).0.run, Run::Dead);
    }

    #[test]
    fn a_link_to_a_container_is_not_its_name() {
        let listed = json!({ "Names": ["/a/web", "/cairn-web", "/b/web"] });
        let listed: Listed = serde_json::from_value(listed).unwrap();
        assert_eq!(Seen::from(listed).name, "cairn-web");
    }

    #[test]
    fn what_docker_leaves_out_is_nothing() {
        for networks in [json!(null), json!({ "Ports": null })] {
            let inspected = json!({ "NetworkSettings": networks });
            let inspected: Inspected = serde_json::from_value(inspected).unwrap();
            assert_eq!(inspected.ports(), BTreeSet::new());
        }
        let listed: Listed =
            serde_json::from_value(json!({ "Names": null, "Labels": null })).unwrap();
        assert_eq!(Seen::from(listed).name, "");
        let stored = json!({ "Id": "sha256:a", "RepoDigests": null, "RepoTags": null, "Size": -1 });
        let image = Present::from(serde_json::from_value::<Stored>(stored).unwrap());
        assert_eq!((image.names.len(), image.size), (0, 0));
    }
}
