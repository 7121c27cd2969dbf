//! `cairn-agent`: the daemon, and what a person at the console needs of it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use argh::FromArgs;
use cairn_agent::daemon::{self, Paths};
use cairn_agent::disks::look;
use cairn_agent::identity::keeper::Standing;
use cairn_agent::identity::{Identity, key, request};
use cairn_agent::outbox::Priority;
use cairn_agent::socket::{self, Report, Request};
use cairn_agent::{clock::Clock, config, files, logging, status};
use serde_json::json;

/// Runs a node: tells the control plane how it is, does what it is asked, updates it.
#[derive(FromArgs)]
struct Cli {
    /// folder of configuration fragments; may be given more than once, the later wins
    #[argh(option, arg_name = "dir")]
    config_dir: Vec<PathBuf>,
    /// where DATA is mounted; /data without it
    #[argh(option, arg_name = "dir", default = "\"/data\".into()")]
    data: PathBuf,
    /// folder for what lives as long as the boot; /run/cairn without it
    #[argh(option, arg_name = "dir", default = "\"/run/cairn\".into()")]
    run_dir: PathBuf,
    /// says which version this is
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(RunArgs),
    Status(StatusArgs),
    Enrol(EnrolArgs),
    Config(ConfigArgs),
    Watch(WatchArgs),
    Report(ReportArgs),
    Forgive(ForgiveArgs),
    Disks(DisksArgs),
}

/// Runs the daemon
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
struct RunArgs {}

/// Shows how the node is
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
struct StatusArgs {
    /// as JSON
    #[argh(switch)]
    json: bool,
}

/// Trades an enrolment file for a certificate
#[derive(FromArgs)]
#[argh(subcommand, name = "enrol")]
struct EnrolArgs {
    /// the file; else the one in the agent's folder or in /etc/cairn
    #[argh(option)]
    file: Option<PathBuf>,
}

/// Checks the configuration fragments, and shows what they say together; the rest has its default
#[derive(FromArgs)]
#[argh(subcommand, name = "config")]
struct ConfigArgs {}

/// Shows an update's progress until it is interrupted
#[derive(FromArgs)]
#[argh(subcommand, name = "watch")]
struct WatchArgs {}

/// Tells the control plane something; returns when it is on the disk
#[derive(FromArgs)]
#[argh(subcommand, name = "report")]
struct ReportArgs {
    /// telemetry as a JSON object, such as {{"wear_percent": 12}}
    #[argh(positional)]
    values: String,
    /// what is dropped first if the outbox is full: event, fact or sample; sample without it
    #[argh(option, from_str_fn(priority), default = "Priority::Sample")]
    priority: Priority,
}

/// Forgets that a release failed here
#[derive(FromArgs)]
#[argh(subcommand, name = "forgive")]
struct ForgiveArgs {
    /// digest of its manifest's payload, as `status --json` shows it under update.failed
    #[argh(positional)]
    release: cairn_release::Digest,
}

/// Shows what is to be done so that the disks are as declared, or why nothing is; changes nothing
#[derive(FromArgs)]
#[argh(subcommand, name = "disks")]
struct DisksArgs {
    /// a JSON list of disks, instead of those that the server declared
    #[argh(option)]
    file: Option<PathBuf>,
    /// as JSON
    #[argh(switch)]
    json: bool,
}

fn main() -> ExitCode {
    let mut cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if cli.version {
        return ended(print(concat!(
            "cairn-agent ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )));
    }
    let Some(command) = cli.command.take() else {
        let reason = "expected a command; cairn-agent --help shows them";
        ended(Err(anyhow::anyhow!(reason)));
        return ExitCode::from(2);
    };
    logging::start();
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let daemon = matches!(command, Command::Run(_));
    match work(cli, command) {
        Err(error) if daemon => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
        result => ended(result),
    }
}

/// Options that may stand anywhere.
const ANYWHERE: [&str; 3] = ["--config-dir", "--data", "--run-dir"];

/// Reads the command line; shows the help if that is asked for, or what is wrong.
fn parse() -> Result<Cli, ExitCode> {
    let mut words = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned());
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let anywhere = ANYWHERE.contains(&word.as_str());
        let place = if anywhere { &mut first } else { &mut rest };
        place.push(word);
        place.extend(anywhere.then(|| words.next()).flatten());
    }
    let words: Vec<&str> = first.iter().chain(&rest).map(String::as_str).collect();
    Cli::from_args(&["cairn-agent"], &words).map_err(|early| match early.status {
        Ok(()) => ended(print(&early.output)),
        Err(()) => {
            ended(Err(anyhow::anyhow!(early.output)));
            ExitCode::from(2)
        }
    })
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    // There is nobody else to tell if stderr is closed.
    let _ = writeln!(std::io::stderr(), "cairn-agent: {error:#}");
    ExitCode::FAILURE
}

fn work(cli: Cli, command: Command) -> anyhow::Result<()> {
    let paths = Paths {
        config: if cli.config_dir.is_empty() {
            vec![
                "/usr/lib/cairn/agent.d".into(),
                "/etc/cairn/agent.d".into(),
                cli.data.join("agent/agent.d"),
            ]
        } else {
            cli.config_dir
        },
        data: cli.data,
        run: cli.run_dir,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the runtime")?;
    let result = match command {
        Command::Run(_) => runtime.block_on(daemon::run(paths)),
        Command::Status(args) => runtime.block_on(show(&paths, args.json)),
        Command::Enrol(args) => runtime.block_on(enrol(&paths, args.file)),
        Command::Config(_) => print(&said(&paths.config)?),
        Command::Watch(_) => runtime.block_on(watch(&paths)),
        Command::Report(args) => runtime.block_on(report(&paths, &args.values, args.priority)),
        Command::Forgive(args) => runtime.block_on(forgive(&paths, args.release)),
        Command::Disks(args) => disks(&paths, args),
    };
    // What is stuck in a file operation doesn't hold us.
    runtime.shutdown_background();
    result
}

/// What the fragments say, under a line that names where they were looked for.
fn said(folders: &[PathBuf]) -> anyhow::Result<String> {
    let (table, _) = config::load(folders)?;
    let folders: Vec<_> = folders
        .iter()
        .map(|folder| {
            let missing = if folder.is_dir() { "" } else { " (not there)" };
            format!("{}{missing}", folder.display())
        })
        .collect();
    Ok(format!(
        "# from *.toml in {}; what isn't here has its default\n{}",
        folders.join(", "),
        toml::to_string(&table)?
    ))
}

fn priority(text: &str) -> Result<Priority, String> {
    let known = Priority::ALL
        .into_iter()
        .find(|priority| priority.as_str() == text);
    known.ok_or_else(|| "expected event, fact or sample".to_owned())
}

fn unreachable(paths: &Paths) -> String {
    format!(
        "cannot reach the agent at {}: it doesn't run, you aren't root, or it has another --run-dir",
        paths.socket().display()
    )
}

async fn report(paths: &Paths, values: &str, priority: Priority) -> anyhow::Result<()> {
    let values = serde_json::from_str(values).context("expected a JSON object of values")?;
    let report = Report { values, priority };
    report.check().map_err(anyhow::Error::msg)?;
    let answer = socket::ask(&paths.socket(), &Request::Report(report)).await;
    let answer = answer.with_context(|| unreachable(paths))?;
    match answer["error"].as_str() {
        Some(error) => bail!("{error}"),
        None => Ok(()),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who reads has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

async fn show(paths: &Paths, as_json: bool) -> anyhow::Result<()> {
    let status = match socket::ask(&paths.socket(), &Request::Status).await {
        Ok(status) => status,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(error).context("only root may ask the agent");
        }
        Err(_) => without_agent(paths),
    };
    if as_json {
        print(&format!("{status:#}\n"))
    } else {
        print(&status::for_people(&status))
    }
}

/// What can be said when no agent runs: what lies on the disk.
fn without_agent(paths: &Paths) -> serde_json::Value {
    let clock = Clock::open(
        &paths.agent(),
        status::running(&paths.data).map_or(0, |manifest| manifest.created.unix()),
    );
    let standing = match Identity::load(&paths.identity()) {
        Ok(identity) => Standing {
            identity: identity.map(Into::into),
            problem: None,
        },
        Err(error) => Standing {
            identity: None,
            problem: Some(error.to_string()),
        },
    };
    json!({
        "agent": env!("CARGO_PKG_VERSION"),
        "running": false,
        "standing": status::identity(&standing, &clock),
        "time": status::time(&clock),
        "boot": status::boot(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()),
        "releases": status::releases(&paths.data),
        "last_boot_failure": status::last_boot_failure(&paths.data),
    })
}

async fn enrol(paths: &Paths, file: Option<PathBuf>) -> anyhow::Result<()> {
    if let Ok(Some(identity)) = Identity::load(&paths.identity()) {
        bail!(
            "the node is enrolled already, as {} of {}",
            identity.device,
            identity.server
        );
    }
    let candidates = file.map_or_else(|| paths.enrol_files(), |file| vec![file]);
    let path = candidates.iter().find(|path| path.exists());
    let path = path.with_context(|| {
        format!(
            "there is no enrolment file; `cairnctl token create --out enrol.toml` makes one; looked for {}",
            candidates
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        )
    })?;
    let text = files::read(path, 64 * 1024)?.unwrap_or_default();
    let text =
        String::from_utf8(text).with_context(|| format!("{}: expected text", path.display()))?;
    // What serde would quote of the file may be the token.
    let file: cairn_wire::enrol::EnrolFile = toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message()))?;
    paths.make_agent()?;
    let clock = Clock::open(&paths.agent(), 0);
    let key = key::load_or_make(&paths.identity())?;
    let identity = request::enrol(&file, &key, request::facts(), &clock).await?;
    identity.store(&paths.identity())?;
    if paths.enrol_files().contains(path) {
        // The token is spent; a read-only system keeps the file, which does no harm.
        let _ = files::remove(path);
    }
    // Without an agent there is nobody to tell.
    let _ = socket::ask(&paths.socket(), &Request::Reload).await;
    print(&format!(
        "enrolled as {} of {}\n",
        identity.device, identity.server
    ))
}

async fn watch(paths: &Paths) -> anyhow::Result<()> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let stream = tokio::net::UnixStream::connect(paths.socket())
        .await
        .with_context(|| unreachable(paths))?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(b"{\"cmd\":\"watch\"}\n").await?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        print(&format!("{line}\n"))?;
    }
    Ok(())
}

fn disks(paths: &Paths, args: DisksArgs) -> anyhow::Result<()> {
    let (_, settings) = config::load(&paths.config)?;
    let file = args
        .file
        .unwrap_or_else(|| paths.agent().join("disks.json"));
    let wrong = || format!("{}", file.display());
    let text = files::read(&file, 1 << 20).with_context(wrong)?;
    let declared: cairn_wire::Disks = match text {
        Some(text) => serde_json::from_slice(&text).with_context(wrong)?,
        None => bail!("no disks are declared: there is no {}", file.display()),
    };
    let look = look::Look {
        catalogue: look::Hardware,
        data: paths.data.clone(),
    };
    let told =
        cairn_agent::disks::describe(&declared, &settings.disks, &look, &paths.disks_memory())
            .context("cannot look at the disks (run as root)")?;
    if args.json {
        return print(&format!("{:#}\n", json!(told)));
    }
    let mut text = String::new();
    for (name, status) in told {
        let state = json!(status.state);
        let state = state.as_str().unwrap_or_default();
        let device = Some(status.device).filter(|device| !device.is_empty());
        let device = device
            .map(|device| format!(" ({device})"))
            .unwrap_or_default();
        text += &format!("{name}{device}: {state}\n");
        let reason = Some(status.reason).filter(|reason| !reason.is_empty());
        for line in status.plan.iter().chain(&reason) {
            text += &format!("    {line}\n");
        }
    }
    print(&text)
}

async fn forgive(paths: &Paths, release: cairn_release::Digest) -> anyhow::Result<()> {
    let answer = socket::ask(&paths.socket(), &Request::Forgive { release })
        .await
        .with_context(|| unreachable(paths))?;
    match answer.get("error").and_then(|error| error.as_str()) {
        Some(error) => bail!("{error}"),
        None => print("forgiven\n"),
    }
}
