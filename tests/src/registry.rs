//! A registry on this machine, and images of one program in it. No Docker is needed to fill it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::tools;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const START: Duration = Duration::from_secs(30);

/// docker-registry, without TLS.
pub struct Registry {
    process: Child,
    port: u16,
    dir: TempDir,
}

impl Registry {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cairn-registry-")
            .tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let config = dir.path().join("config.yml");
        let storage = json!({ "filesystem": { "rootdirectory": dir.path().join("images") } });
        let http = json!({ "addr": format!("127.0.0.1:{port}") });
        // JSON is YAML.
        let text = json!({ "version": "0.1", "storage": storage, "http": http });
        fs::write(&config, text.to_string())?;
        let log = fs::File::create(tools::cache_dir()?.join("logs/registry.log"))?;
        let process = Command::new(tools::require("setpriv")?)
            // Whatever ends the test ends the registry.
            .args(["--pdeathsig", "KILL", "--"])
            .arg(tools::require("docker-registry")?)
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let registry = Self { process, port, dir };
        runtime()?.block_on(registry.ready())?;
        Ok(registry)
    }

    async fn ready(&self) -> Result<()> {
        let end = Instant::now() + START;
        let client = client()?;
        loop {
            match client.get(self.url("")).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => ensure!(
                    Instant::now() < end,
                    "the registry says {}",
                    answer.status()
                ),
                Err(error) => ensure!(Instant::now() < end, "the registry: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Puts an image of this program in, and gives its name for those that reach this machine as `host`: with port and digest.
    ///
    /// # Errors
    /// If the program isn't static, or the registry takes it not.
    pub fn publish(&self, host: &str, name: &str, program: &Path) -> Result<String> {
        let mut layer = tar::Builder::new(Vec::new());
        layer
            .append_path_with_name(program, "program")
            .with_context(|| format!("cannot pack {}", program.display()))?;
        let layer = layer.into_inner()?;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Entrypoint": ["/program"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part(CONFIG, &config),
            "layers": [part(LAYER, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let reference = format!("{host}:{}/{name}@{}", self.port, digest(&manifest));
        runtime()?.block_on(async {
            self.put_blob(name, layer).await?;
            self.put_blob(name, config).await?;
            let put = client()?
                .put(self.url(&format!("{name}/manifests/latest")))
                .header(CONTENT_TYPE, MANIFEST)
                .body(manifest);
            taken(put.send().await?, StatusCode::CREATED).map(drop)
        })?;
        Ok(reference)
    }

    /// An upload in two steps, as the distribution specification of OCI has it.
    async fn put_blob(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let client = client()?;
        let begin = client.post(self.url(&format!("{name}/blobs/uploads/")));
        let begun = taken(begin.send().await?, StatusCode::ACCEPTED)?;
        let place = begun
            .headers()
            .get(LOCATION)
            .context("no place to upload to")?;
        let place = place.to_str()?;
        let mark = if place.contains('?') { '&' } else { '?' };
        let put = client.put(format!("{place}{mark}digest={}", digest(&bytes)));
        taken(put.body(bytes).send().await?, StatusCode::CREATED).map(drop)
    }

    fn url(&self, rest: &str) -> String {
        format!("http://127.0.0.1:{}/v2/{rest}", self.port)
    }

    /// The folder of what it holds.
    pub fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn taken(answer: reqwest::Response, expected: StatusCode) -> Result<reqwest::Response> {
    let (url, status) = (answer.url().clone(), answer.status());
    ensure!(
        status == expected,
        "{url}: expected {expected}, got {status}"
    );
    Ok(answer)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn client() -> Result<Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().no_proxy().timeout(START).build()?)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}
