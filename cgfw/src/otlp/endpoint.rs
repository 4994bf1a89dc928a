//! Where to, by the option and the variables of OpenTelemetry ("OpenTelemetry Protocol
//! Exporter", and "Environment Variable Specification").

use std::time::Duration;

use anyhow::{Context as _, bail};
use ureq::http::Uri;

const PROTOCOL: &str = "http/protobuf";
/// The standard's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Of which two kinds of things are sent.
#[derive(Clone, Copy)]
pub(super) enum Signal {
    Traces,
    Logs,
}

impl Signal {
    /// As it is in the names of variables.
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Logs => "LOGS",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }

    /// Where this signal goes, if anywhere. `option` is --otlp-endpoint.
    pub(super) fn endpoint(self, option: Option<&str>) -> anyhow::Result<Option<String>> {
        let of_signal = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", self.name());
        let general = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let below = |base: &str| format!("{}{}", base.trim_end_matches('/'), self.path());
        let (source, url) = if let Some(base) = option {
            ("--otlp-endpoint", below(base))
        } else if let Some(url) = variable(&of_signal)? {
            (&*of_signal, url)
        } else if let Some(base) = variable(general)? {
            (general, below(&base))
        } else {
            return Ok(None);
        };
        let exporter = variable(&format!("OTEL_{}_EXPORTER", self.name()))?;
        if exporter.is_some_and(|exporter| exporter == "none") {
            return Ok(None);
        }
        check_url(&url).with_context(|| format!("{source}: `{url}`"))?;
        self.check_protocol()?;
        Ok(Some(url))
    }

    /// How long one request may take.
    pub(super) fn timeout(self) -> anyhow::Result<Duration> {
        let Some((name, text)) = self.setting("TIMEOUT")? else {
            return Ok(TIMEOUT);
        };
        let number = text.parse();
        let number = number.with_context(|| format!("{name}={text}: not milliseconds"))?;
        Ok(Duration::from_millis(number))
    }

    /// Whether there is a variable for how many of them may wait.
    pub(super) fn has_queue_size(self) -> anyhow::Result<bool> {
        let name = match self {
            Self::Traces => "OTEL_BSP_MAX_QUEUE_SIZE",
            Self::Logs => "OTEL_BLRP_MAX_QUEUE_SIZE",
        };
        Ok(variable(name)?.is_some())
    }

    fn check_protocol(self) -> anyhow::Result<()> {
        if let Some((name, protocol)) = self.setting("PROTOCOL")?
            && protocol != PROTOCOL
        {
            bail!(
                "{name}={protocol}: cgfw speaks {PROTOCOL} alone; set {name}={PROTOCOL}, and the \
                 endpoint to the collector's port for that, 4318 as a rule"
            );
        }
        Ok(())
    }

    /// What is set for this signal, or else for all of them, and by which variable.
    fn setting(self, what: &str) -> anyhow::Result<Option<(String, String)>> {
        for name in [
            format!("OTEL_EXPORTER_OTLP_{}_{what}", self.name()),
            format!("OTEL_EXPORTER_OTLP_{what}"),
        ] {
            if let Some(text) = variable(&name)? {
                return Ok(Some((name, text)));
            }
        }
        Ok(None)
    }
}

/// `OTEL_SDK_DISABLED`
pub(super) fn is_disabled() -> anyhow::Result<bool> {
    let value = variable("OTEL_SDK_DISABLED")?;
    Ok(value.is_some_and(|value| value.eq_ignore_ascii_case("true")))
}

fn check_url(url: &str) -> anyhow::Result<()> {
    let url: Uri = url.parse().context("not a URL")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        bail!("an endpoint is a URL such as http://collector.example:4318");
    }
    Ok(())
}

/// A variable; an empty one is none.
fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(name.to_owned()),
    }
}
