//! Logs: JSON lines on standard error, or text for people.
//!
//! A line has `timestamp` (RFC 3339, UTC), `level`, `target`, the event's own fields beside them, and `spans`. No event may
//! have a field `timestamp`, `level`, `target`, `span` or `spans`: it would be written twice. A level without a target
//! never lowers the level of libraries below `info`: HTTP stacks can print the data that passes through them.

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::LevelFilter, fmt::MakeWriter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// Text for people.
    Text,
}

/// The reason why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "cannot parse the log level {level:?}: use off, error, warn, info, debug or trace, or directives such as landfall=debug,kube=info (--log-level or LANDFALL_LOG)"
    )]
    Level {
        level: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("logging was already started in this process")]
    AlreadyStarted(#[source] tracing_subscriber::util::TryInitError),
}

/// kube's client logs the whole body of an answer that it cannot parse, even of a Secret.
const NEVER: &str = "kube_client::client=off";

/// Starts logging of the whole process to standard error.
///
/// `level` is a level for Landfall itself, or a list of directives of tracing-subscriber's `EnvFilter`.
pub fn start(level: &str, format: LogFormat) -> Result<(), TelemetryError> {
    subscriber(level, format, std::io::stderr)?.try_init().map_err(TelemetryError::AlreadyStarted)
}

/// The subscriber of [`start`] with another writer, for tests that read the log.
pub fn subscriber<W>(
    level: &str,
    format: LogFormat,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static + use<W>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(format!("{},{NEVER}", directives(level)))
        .map_err(|source| TelemetryError::Level { level: level.to_owned(), source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    Ok(tracing_subscriber::registry().with(filter).with(lines))
}

/// A level without a target is for Landfall itself; libraries stay at `info`.
fn directives(level: &str) -> String {
    match level.trim().parse::<LevelFilter>() {
        Ok(own) => format!("{},landfall={own}", own.min(LevelFilter::INFO)),
        Err(_) => level.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// The log of a test.
    #[derive(Clone, Default)]
    pub struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        /// Runs `code` with its log captured at level `info`.
        pub fn during<T>(&self, code: impl FnOnce() -> T) -> T {
            self.during_at("info", code)
        }

        fn during_at<T>(&self, level: &str, code: impl FnOnce() -> T) -> T {
            let writer = self.clone();
            let subscriber = subscriber(level, LogFormat::Json, move || writer.clone()).expect("a level");
            tracing::subscriber::with_default(subscriber, code)
        }

        pub fn lines(&self) -> Vec<serde_json::Value> {
            let text = String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("UTF-8");
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        }

        pub fn messages(&self) -> Vec<String> {
            self.lines().iter().map(|line| line["message"].as_str().expect("a message").to_owned()).collect()
        }
    }

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_json_object_with_the_fields_beside_the_message() {
        let log = Captured::default();
        log.during(|| {
            let _span = tracing::info_span!("reconcile", kind = "GitHubApp").entered();
            tracing::info!(attempt = 3, "not yet");
        });
        let [line] = log.lines().try_into().expect("one line");
        assert_eq!((line["message"].as_str(), line["attempt"].as_i64()), (Some("not yet"), Some(3)));
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["spans"][0]["kind"], "GitHubApp");
        line["timestamp"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("RFC 3339");
    }

    #[test]
    fn a_level_without_a_target_is_for_landfall_and_libraries_stay_at_info() {
        let log = Captured::default();
        log.during_at("trace", || {
            tracing::trace!(target: "landfall::github", "own");
            tracing::debug!(target: "h2::codec", "frame");
            tracing::info!(target: "kube_client", "theirs");
        });
        assert_eq!(log.messages(), ["own", "theirs"]);

        let log = Captured::default();
        log.during_at("warn,h2=debug", || {
            tracing::info!(target: "landfall::github", "own");
            tracing::debug!(target: "h2::codec", "frame");
        });
        assert_eq!(log.messages(), ["frame"], "directives are used unchanged");
    }

    #[test]
    fn an_unknown_level_is_refused_with_the_known_ones() {
        let Err(error) = subscriber("landfall=loud", LogFormat::Text, io::sink) else { panic!("accepted") };
        assert!(error.to_string().contains("landfall=loud") && error.to_string().contains("--log-level"), "{error}");
    }
}
