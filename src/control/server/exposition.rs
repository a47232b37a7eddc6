//! The two texts in which scrapers take metrics: OpenMetrics, and the older one of Prometheus.
//!
//! The older one (version 0.0.4) calls a counter by the name of its samples, and does not know the type
//! `info`; everything else here is the same.

use std::collections::HashMap;
use std::fmt::Write;

/// A form of the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus 0.0.4.
    Prometheus,
}

impl Form {
    /// The form that a client with this value of `Accept` (RFC 9110 §12.5.1) wants most; of two that it
    /// wants as much, the newer one. A client that wants neither gets what every scraper reads.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.trim().is_empty() {
            return Self::OpenMetrics;
        }
        let weight = |form: Self| {
            let matching = accept.split(',').filter_map(|range| form.matched_by(range));
            matching.max_by_key(|(precision, _)| *precision).map_or(0, |(_, weight)| weight)
        };
        let (new, old) = (weight(Self::OpenMetrics), weight(Self::Prometheus));
        if new > 0 && new >= old { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of `Content-Type`.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// `text`, which is OpenMetrics, in this form.
    pub(super) fn of(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Prometheus => prometheus(&text),
        }
    }

    const fn name(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::OpenMetrics => ("application", "openmetrics-text", "1.0.0"),
            Self::Prometheus => ("text", "plain", "0.0.4"),
        }
    }

    /// How precisely one media range means this form, and its weight in thousandths.
    fn matched_by(self, range: &str) -> Option<(u8, u16)> {
        let (kind, subkind, version) = self.name();
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let precision = match parts.next()?.split_once('/')? {
            (k, s) if k == kind && s == subkind => 2,
            (k, "*") if k == kind => 1,
            ("*", "*") => 0,
            _ => return None,
        };
        let (mut weight, mut exact) = (1000, 0);
        for part in parts {
            match part.split_once('=') {
                Some(("q", value)) => weight = thousandths(value),
                Some(("version", value)) if value.trim_matches('"') == version => exact = 1,
                Some(("version", _)) => return None,
                _ => {}
            }
        }
        Some((precision + exact, weight))
    }
}

/// A weight, `0` to `1` with up to three decimals (RFC 9110 §12.4.2); 0 where it is none.
fn thousandths(weight: &str) -> u16 {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    let decimals: String = decimals.chars().chain("000".chars()).take(3).collect();
    match (whole, decimals.parse::<u16>()) {
        ("1", Ok(0)) => 1000,
        ("0", Ok(decimals)) => decimals,
        _ => 0,
    }
}

/// What a comment of the kind `what` says: a name, and the rest.
fn described<'a>(line: &'a str, what: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(what)?.split_once(' ')
}

/// The older form of OpenMetrics text.
fn prometheus(text: &str) -> String {
    let types: HashMap<&str, &str> = text.lines().filter_map(|line| described(line, "# TYPE ")).collect();
    let sample = |name: &str| match types.get(name).copied() {
        Some("counter") => format!("{name}_total"),
        Some("info") => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        // Writing to a string does not fail.
        let _ = if let Some((name, help)) = described(line, "# HELP ") {
            writeln!(out, "# HELP {} {help}", sample(name))
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            writeln!(out, "# TYPE {} {}", sample(name), if kind == "info" { "gauge" } else { kind })
        } else if line.starts_with('#') {
            // The end and the units, which this form has not.
            Ok(())
        } else {
            writeln!(out, "{line}")
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Form::{self, OpenMetrics, Prometheus};

    #[test]
    fn a_scraper_gets_what_it_accepts() {
        for (accept, form) in [
            ("", OpenMetrics),
            ("*/*", OpenMetrics),
            ("text/plain", Prometheus),
            ("Text/Plain;version=0.0.4", Prometheus),
            ("text/*", Prometheus),
            ("text/html, text/plain;q=0.9, */*;q=0.1", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", OpenMetrics),
            ("application/openmetrics-text; version=0.0.1, text/plain;q=0.5", Prometheus),
            ("application/openmetrics-text;q=0.5, text/plain;q=0.9", Prometheus),
            ("application/openmetrics-text;q=0, */*", Prometheus),
            ("application/openmetrics-text, text/plain", OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            ("application/json", Prometheus),
            ("text/plain;q=x", Prometheus),
            ("garbage", Prometheus),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }

    #[test]
    fn the_older_form_names_counters_by_their_samples() {
        let text = "# HELP up_build The build.\n# TYPE up_build info\nup_build_info{version=\"1\"} 1\n\
                    # HELP up_x Things.\n# TYPE up_x counter\n# UNIT up_x s\nup_x_total{a=\"b c\"} 3\n\
                    # HELP up_g Now.\n# TYPE up_g gauge\nup_g 2\n# EOF\n";
        let expected = "# HELP up_build_info The build.\n# TYPE up_build_info gauge\nup_build_info{version=\"1\"} 1\n\
                        # HELP up_x_total Things.\n# TYPE up_x_total counter\nup_x_total{a=\"b c\"} 3\n\
                        # HELP up_g Now.\n# TYPE up_g gauge\nup_g 2\n";
        assert_eq!(Prometheus.of(text.to_owned()), expected);
        assert_eq!(OpenMetrics.of(text.to_owned()), text);
    }
}
