//! `cairn-control`: the server, and what is done on its own machine.

use std::io::{IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cairn_control_plane::config::{Ages, Config, Keep};
use cairn_control_plane::registry::{is_label, packages, profiles};
use cairn_control_plane::server::{self, Server};
use cairn_control_plane::store::{Store, StoreError};
use cairn_control_plane::telemetry::quota;
use cairn_control_plane::{duration, people, releases};
use cairn_wire::topic::Package;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rusqlite::TransactionBehavior;
use tokio_util::sync::CancellationToken;

/// The control plane of a fleet: devices, releases, rollouts.
#[derive(Parser)]
#[command(name = "cairn-control", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server
    Serve(Serve),
    /// Accounts of people
    #[command(subcommand)]
    Account(AccountCommand),
    /// The trust root that uploaded releases are checked against
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Packages that ThingsBoard devices fetch in chunks
    #[command(subcommand)]
    Package(PackageCommand),
    /// Profiles by which ThingsBoard devices provision themselves
    #[command(subcommand)]
    Profile(ProfileCommand),
}

/// In MiB.
const SMALLEST_QUOTA: u64 = quota::SMALLEST >> 20;

#[derive(Args)]
struct Serve {
    /// Where everything is kept; made if it isn't there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where HTTPS listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Where MQTT over TLS listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8883")]
    mqtt: SocketAddr,
    /// Where health and metrics are served over plain HTTP
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8480")]
    admin: SocketAddr,
    /// A further name or address in the server's certificate; may be given several times
    #[arg(long = "name", value_name = "HOST_OR_IP", value_parser = host)]
    names: Vec<String>,
    /// The HTTPS address as devices and people reach it; it goes into enrolment files
    #[arg(long, value_name = "https://HOST:PORT", value_parser = public_url)]
    public_url: Option<String>,
    /// The MQTT address as devices reach it; else the host that they enrolled at, with the listener's port
    #[arg(long, value_name = "HOST:PORT", value_parser = public_mqtt)]
    public_mqtt: Option<String>,
    /// Life of a device's certificate, in days
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    certificate_days: u32,
    /// How long samples of telemetry are kept, in days
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36500))]
    telemetry_days: u32,
    /// How long what they come to in each 5 minutes is kept, in days
    #[arg(long, value_name = "DAYS", default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=36500))]
    telemetry_5min_days: u32,
    /// How long what they come to in each hour is kept, in days
    #[arg(long, value_name = "DAYS", default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=36500))]
    telemetry_hour_days: u32,
    /// How long events stay in the stream, in days
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=36500))]
    stream_days: u32,
    /// How large the stream may become, in MiB; then the oldest events go
    #[arg(long, value_name = "MIB", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    stream_size: u64,
    /// How often telemetry and traffic are packed, and what is too old is forgotten
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = tidy_every)]
    tidy_every: std::time::Duration,
    /// How much telemetry each device may store in a day, in MiB; who has used it up is slowed down
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(SMALLEST_QUOTA..=1 << 30))]
    telemetry_quota: u64,
    /// Most connections at once, for MQTT and for HTTPS each
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    max_connections: usize,
    /// How long a shutdown waits for what is under way
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    drain: std::time::Duration,
}

#[derive(Subcommand)]
enum AccountCommand {
    /// Adds an account; works while the server runs, and before its first start
    Add {
        /// Its name
        name: String,
        /// admin, operator or viewer
        #[arg(long)]
        role: people::Role,
        /// Reads the password (12 characters or more) from standard input, the only way to give it
        #[arg(long, required = true)]
        password_stdin: bool,
        /// The server's data
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[derive(Subcommand)]
enum TrustCommand {
    /// Sets the first trust root, or a later one that chains to it
    Set {
        /// The trust root, as `imgtool trust` writes it, or a folder of 1.dsse.json, 2.dsse.json and so on
        file: PathBuf,
        /// The server's data
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Firmware
    Fw,
    /// Software
    Sw,
}

#[derive(Subcommand)]
enum PackageCommand {
    /// Stores a package; name it to a device by the shared attributes fw_title and fw_version, or sw_title and sw_version
    Add {
        /// The package
        file: PathBuf,
        /// Firmware or software
        #[arg(long, default_value = "fw")]
        kind: Kind,
        /// As in fw_title
        #[arg(long)]
        title: String,
        /// As in fw_version
        #[arg(long)]
        version: String,
        /// The server's data
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[derive(Subcommand)]
enum ProfileCommand {
    /// Makes a profile, or gives it another secret
    Set {
        /// provisionDeviceKey
        key: String,
        /// Reads provisionDeviceSecret from standard input, the only way to give it
        #[arg(long, required = true)]
        secret_stdin: bool,
        /// The group that its devices come into
        #[arg(long, default_value = "default")]
        group: String,
        /// The server's data
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    log();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cairn-control: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in a line; a cause that is in the text already isn't said twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// `https://HOST:PORT`, as devices and people are told.
fn public_url(text: &str) -> Result<String, String> {
    let plain = reqwest::Url::parse(text).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
    });
    if plain {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err("expected https://HOST:PORT without a path".to_owned())
    }
}

/// What a certificate can be for.
fn host(text: &str) -> Result<String, String> {
    rustls::pki_types::ServerName::try_from(text)
        .map(|_| text.to_owned())
        .map_err(|_| "expected a host's name or an IP address, without a port".to_owned())
}

/// A pause between two rounds of tidying.
fn tidy_every(text: &str) -> Result<std::time::Duration, String> {
    match duration::parse(text) {
        Ok(pause) if (1..=86_400).contains(&pause.as_secs()) => Ok(pause),
        Ok(_) => Err("expected 1s to 1d".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `HOST:PORT`, as devices are told.
fn public_mqtt(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && !host.contains(['/', '@', ' '])
                && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT, as control.example.org:8883".to_owned()),
    }
}

/// Text for a person at a terminal, JSON for everything else.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(arguments) => serve(arguments),
        Command::Account(AccountCommand::Add {
            name, role, data, ..
        }) => {
            let password = secret("password")?;
            let fresh = !data.join("cairn.db").exists();
            people::cli_add_account(&data, &name, role, &password)?;
            let made = if fresh {
                format!("; {} is new", data.join("cairn.db").display())
            } else {
                String::new()
            };
            say(&format!("account {name} added{made}"))
        }
        Command::Trust(TrustCommand::Set { file, data }) => {
            let number = releases::trust::set_trust(&data, &file)?;
            say(&format!("trust root {number} set"))
        }
        Command::Package(PackageCommand::Add {
            file,
            kind,
            title,
            version,
            data,
        }) => {
            let kind = match kind {
                Kind::Fw => Package::Firmware,
                Kind::Sw => Package::Software,
            };
            let name = kind.as_str();
            let mut connection = open(&data)?;
            // Deferred: the copy comes first, and locks nobody out.
            let tx = connection.transaction()?;
            let stored = packages::add(&tx, &data, kind, &title, &version, &file)?;
            let detail = serde_json::json!({ "kind": name, "version": version, "sha256": stored.sha256, "size": stored.size });
            people::audit(&tx, "cli", "package.add", &title, &detail)?;
            tx.commit()?;
            say(&serde_json::json!({
                format!("{name}_title"): title,
                format!("{name}_version"): version,
                format!("{name}_size"): stored.size,
                format!("{name}_checksum"): stored.sha256,
                format!("{name}_checksum_algorithm"): "SHA256",
            })
            .to_string())
        }
        Command::Profile(ProfileCommand::Set {
            key, group, data, ..
        }) => {
            if !is_label(&group) {
                bail!("{group:?} is no group: expected 1 to 64 of A-Za-z0-9._-");
            }
            let secret = secret("secret")?;
            let mut connection = open(&data)?;
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            profiles::put(&tx, &key, &secret, &group)?;
            people::audit(
                &tx,
                "cli",
                "profile.set",
                &key,
                &serde_json::json!({ "group": group }),
            )?;
            tx.commit()?;
            say(&format!("profile {key} set"))
        }
    }
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").context("cannot write to standard output")
}

/// One line of standard input.
fn secret(what: &str) -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the {what}"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        bail!("expected the {what} on standard input");
    }
    Ok(text.to_owned())
}

/// The database of a server that may be running.
fn open(data: &Path) -> Result<rusqlite::Connection> {
    let path = data.join("cairn.db");
    if !path.exists() {
        bail!(
            "there is no {}; start the server once, or give its --data",
            path.display()
        );
    }
    // Brings the schema up to date.
    drop(Store::open(&path)?);
    let connection = rusqlite::Connection::open(&path)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000;",
    )?;
    Ok(connection)
}

fn serve(arguments: Serve) -> Result<()> {
    server::raise_file_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cairn")
        .build()?;
    let result = runtime.block_on(listen(arguments));
    // Readers of the database may still be at it; nothing of theirs is lost.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Two servers on one folder would tell devices different things. The lock ends with the process.
fn lock(data: &Path) -> Result<std::fs::File> {
    use rustix::fs::{FlockOperation, flock};
    use std::os::unix::fs::DirBuilderExt as _;
    let cannot = || format!("cannot use the data folder {}", data.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(cannot)?;
    let file = std::fs::File::create(data.join("serve.lock")).with_context(cannot)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another cairn-control serves {}; stop it first, or give another --data",
            data.display()
        ),
        Err(error) => Err(error).with_context(cannot),
    }
}

async fn listen(arguments: Serve) -> Result<()> {
    let _lock = lock(&arguments.data)?;
    let config = Config {
        https: arguments.https,
        mqtt: arguments.mqtt,
        admin: arguments.admin,
        names: arguments.names,
        public_url: arguments.public_url,
        public_mqtt: arguments.public_mqtt,
        certificate_days: arguments.certificate_days,
        ages: Ages {
            raw_days: arguments.telemetry_days,
            five_minute_days: arguments.telemetry_5min_days,
            hour_days: arguments.telemetry_hour_days,
        },
        stream: Keep {
            days: arguments.stream_days,
            bytes: arguments.stream_size << 20,
        },
        tidy_every: arguments.tidy_every,
        telemetry_quota: arguments.telemetry_quota << 20,
        max_connections: arguments.max_connections,
        drain: arguments.drain,
        ..Config::new(arguments.data)
    };
    let server = Server::bind(config).await?;
    let shutdown = CancellationToken::new();
    stop_on_signals(&shutdown)?;
    let accounts: i64 = server
        .app
        .store
        .read::<_, StoreError, _>(|connection| {
            Ok(connection.query_row("SELECT count(*) FROM account", [], |row| row.get(0))?)
        })
        .await?;
    if accounts == 0 {
        tracing::warn!(
            "there is no account yet; make one: cairn-control account add NAME --role admin --password-stdin --data DIR"
        );
    }
    say(&serde_json::json!({
        "event": "ready",
        "https": server.https.to_string(),
        "mqtt": server.mqtt.to_string(),
        "admin": server.admin.to_string(),
        "ca": server.app.config.data.join("ca").join("ca.pem"),
    })
    .to_string())?;
    tracing::info!(https = %server.https, mqtt = %server.mqtt, admin = %server.admin, "listening");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    });
    server.run(shutdown).await?;
    Ok(())
}

fn stop_on_signals(shutdown: &CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot wait for signals")?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signals.recv().await;
            shutdown.cancel();
        });
    }
    Ok(())
}
