//! What a run showed: figures by name, for a table and for one line of JSON.

use std::fmt;

use super::histogram::Histogram;
use super::plan::Tally;
use super::process::{Spent, Usage};

/// A run's figures, and what it found wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Name of the case.
    pub case: &'static str,
    /// Settings that shaped the figures, in order.
    pub settings: Vec<(&'static str, String)>,
    /// Figures in order; the name ends with the unit.
    pub figures: Vec<(&'static str, f64)>,
    /// What a correct broker does not do; empty: nothing.
    pub violations: Vec<String>,
    /// What each process used while it was measured, of several nodes only.
    pub spent: Option<Spent>,
}

impl Outcome {
    pub(super) fn new(case: &'static str) -> Self {
        Self {
            case,
            settings: Vec::new(),
            figures: Vec::new(),
            violations: Vec::new(),
            spent: None,
        }
    }

    /// Returns a figure.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| *value)
    }

    pub(super) fn setting(&mut self, name: &'static str, value: impl fmt::Display) {
        self.settings.push((name, value.to_string()));
    }

    pub(super) fn push(&mut self, name: &'static str, value: f64) {
        self.figures.push((name, value));
    }

    /// Adds quantiles in µs under four names.
    pub(super) fn latency(&mut self, names: [&'static str; 4], histogram: &Histogram) {
        for (name, share) in names.into_iter().zip([0.5, 0.99, 0.999, 1.0]) {
            if let Some(ns) = histogram.quantile(share) {
                self.push(name, ns as f64 / 1e3);
            }
        }
    }

    pub(super) fn cpu(&mut self, messages: u64, usage: Option<(Usage, Usage)>) {
        let Some((before, after)) = usage else {
            return;
        };
        let cpu_s = after.cpu_s - before.cpu_s;
        self.push("cpu_s", cpu_s);
        if messages > 0 {
            self.push("cpu_s_per_million", cpu_s * 1e6 / messages as f64);
        }
        if cpu_s > 0.0 {
            self.push("messages_per_cpu_s", messages as f64 / cpu_s);
        }
        self.push("rss_bytes", after.rss_bytes as f64);
    }

    /// Notes everything in a tally that no broker may do.
    pub(super) fn check(&mut self, tally: &Tally) {
        let counts = [
            (
                tally.late,
                "messages after a later one of the same publisher [MQTT-4.6.0-6]",
            ),
            (
                tally.acks_out_of_order,
                "PUBACKs out of order [MQTT-4.6.0-2]",
            ),
            (tally.refused, "PUBACKs with a failure"),
            (tally.failed, "connections not made"),
            (tally.closed, "connections closed by the broker"),
            (tally.malformed, "connections refused or not MQTT"),
        ];
        for (count, what) in counts {
            if count > 0 {
                self.violations.push(format!("{count} {what}"));
            }
        }
    }

    /// Notes messages that did not come or came again.
    pub(super) fn deliveries(&mut self, qos: u8, expected: u64, tally: &Tally) {
        let lost = expected.saturating_sub(tally.received);
        self.push("delivered", tally.received as f64);
        self.push("lost", lost as f64);
        self.push("again", tally.again as f64);
        if lost > 0 && qos > 0 {
            self.violations.push(format!("{lost} messages lost"));
        }
        if tally.again > 0 {
            // On a connection that did not break nothing is sent twice [MQTT-4.4.0-1].
            self.violations
                .push(format!("{} messages came again", tally.again));
        }
    }

    pub(super) fn acknowledged(&mut self, tally: &Tally) {
        let unacked = tally.sent - tally.acked;
        if unacked > 0 {
            self.violations
                .push(format!("{unacked} messages not acknowledged"));
        }
    }

    /// Returns the outcome as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("case".into(), self.case.into());
        for (name, value) in &self.settings {
            let value = value
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map_or_else(|| value.clone().into(), serde_json::Value::Number);
            object.insert((*name).into(), value);
        }
        for (name, value) in &self.figures {
            object.insert((*name).into(), (*value).into());
        }
        object.insert("violations".into(), self.violations.clone().into());
        object.into()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        writeln!(f, "{}: {}", self.case, settings.join(", "))?;
        for (name, value) in &self.figures {
            writeln!(f, "  {name:<24} {:>16}", grouped(*value))?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATION: {violation}")?;
        }
        Ok(())
    }
}

/// Writes a number with blanks between thousands, and decimals where it is small.
#[must_use]
pub fn grouped(value: f64) -> String {
    let magnitude = value.abs();
    if value.fract() != 0.0 && magnitude < 10.0 {
        return format!("{value:.3}");
    }
    if value.fract() != 0.0 && magnitude < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{magnitude:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_small_ones_keep_decimals() {
        let texts: Vec<_> = [0.0, 0.6512, 12.34, 999.6, 1_234_567.0, -1_000.0]
            .map(grouped)
            .into();
        assert_eq!(
            texts,
            ["0", "0.651", "12.3", "1 000", "1 234 567", "-1 000"]
        );
    }
}
