//! Logs go to stderr: for the journal with its levels and without the time, which it has itself; as JSON if `CAIRN_LOG_FORMAT=json`.
//! `RUST_LOG` says how much, as `info` or `cairn_agent=debug`.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// For journald: the level as its number, as sd-daemon(3) has it.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let number = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{number}>")?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Starts logging, for the life of the program.
pub fn start() {
    let filter = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that somebody else has started logging, and gets ours.
    let _ = if std::env::var_os("CAIRN_LOG_FORMAT").is_some_and(|format| format == "json") {
        registry.with(layer.json()).try_init()
    } else if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry
            .with(layer.with_ansi(false).event_format(Journal))
            .try_init()
    } else {
        registry
            .with(layer.with_ansi(false).with_target(false))
            .try_init()
    };
}

/// What is logged while `work` runs, as JSON.
#[cfg(test)]
pub(crate) fn captured(work: impl FnOnce()) -> Vec<serde_json::Value> {
    use std::io::{Seek as _, SeekFrom};

    let mut file = tempfile::tempfile().unwrap();
    let writer = std::sync::Arc::new(file.try_clone().unwrap());
    let subscriber = tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().json().with_writer(writer));
    tracing::subscriber::with_default(subscriber, work);
    file.seek(SeekFrom::Start(0)).unwrap();
    std::io::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
