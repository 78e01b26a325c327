//! The figures as people and machines read them.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::SessionsError;
use crate::load::grouped;
use crate::machine::Machine;

/// Is one figure of one broker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Word of the case.
    pub case: &'static str,
    /// What it is, with its unit.
    pub figure: String,
    /// Whose.
    pub broker: &'static str,
    /// The value; `None`: it could not be measured.
    pub value: Option<f64>,
    /// It should be no less.
    pub at_least: Option<f64>,
    /// It should be no more.
    pub at_most: Option<f64>,
}

impl Figure {
    pub(super) fn new(
        case: &'static str,
        figure: &str,
        broker: &'static str,
        value: Option<f64>,
    ) -> Self {
        Self {
            case,
            figure: figure.to_owned(),
            broker,
            value,
            at_least: None,
            at_most: None,
        }
    }

    pub(super) fn at_least(self, at_least: Option<f64>) -> Self {
        Self { at_least, ..self }
    }

    pub(super) fn at_most(self, at_most: Option<f64>) -> Self {
        Self { at_most, ..self }
    }

    /// Whether a bound is kept; `None` without one.
    #[must_use]
    pub fn is_reached(&self) -> Option<bool> {
        match (self.at_least, self.at_most) {
            (None, None) => None,
            (least, most) => Some(self.value.is_some_and(|value| {
                least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most)
            })),
        }
    }

    fn bound(&self) -> String {
        let least = self.at_least.map(|least| format!("≥ {}", shown(least)));
        let most = self.at_most.map(|most| format!("≤ {}", shown(most)));
        least.or(most).unwrap_or_default()
    }

    pub(super) fn one_line(&self) -> String {
        let value = self.value.map_or_else(|| "no figure".to_owned(), shown);
        let Self {
            case,
            figure,
            broker,
            ..
        } = self;
        format!(
            "{case:<9} {broker:<10} {value:>14}  {figure} {}",
            self.bound()
        )
    }
}

/// Is the result of `bench sessions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// Which cores were whose.
    pub pinning: String,
    /// Load averages before the run.
    pub load_average: String,
    /// The brokers, with version and settings.
    pub brokers: Vec<String>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// The figures, in order.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Returns the report as one JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with odd keys")
    }

    /// Returns the report as a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("a String takes any text");
        };
        line(format_args!("# Durable sessions\n"));
        let Self {
            machine,
            pinning,
            load_average,
            ..
        } = self;
        line(format_args!(
            "Written by `tidewire bench sessions`. {machine}.\n"
        ));
        line(format_args!(
            "Pinned: {pinning}. Load average before: {load_average}. MQTT 3.1.1 over loopback, QoS 1, payload 256 B where nothing else is said, a fresh broker for each case, one run. CPU time, memory and bytes are the broker's process's; bytes written are what the kernel counts for a disk (`write_bytes`, whole pages). Tidewire acknowledges what is fsynced; mosquitto writes its file every 30 minutes and at a stop, and acknowledges before.\n"
        ));
        for broker in &self.brokers {
            line(format_args!("- {broker}"));
        }
        for note in &self.notes {
            line(format_args!("- {note}"));
        }
        line(format_args!(
            "\n| Case | Figure | Tidewire | mosquitto | First step | |\n| --- | --- | ---: | ---: | --- | --- |"
        ));
        for figure in self.figures.iter().filter(|one| one.broker == "tidewire") {
            let theirs = self.figures.iter().find(|one| {
                one.broker != "tidewire" && (one.case, &one.figure) == (figure.case, &figure.figure)
            });
            let value = |one: &Figure| one.value.map_or_else(|| "–".to_owned(), shown);
            let reached = match figure.is_reached() {
                None => "",
                Some(true) => "reached",
                Some(false) => "not reached",
            };
            line(format_args!(
                "| {} | {} | {} | {} | {} | {reached} |",
                figure.case,
                figure.figure,
                value(figure),
                theirs.map_or_else(|| "–".to_owned(), value),
                figure.bound(),
            ));
        }
        text
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), SessionsError> {
        let files = [
            ("sessions.md", self.to_markdown()),
            ("sessions.json", self.to_json() + "\n"),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            let written =
                std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
            written.map_err(|error| SessionsError::Write(path, error))?;
        }
        Ok(())
    }
}

/// Few digits behind the point, where there are any.
fn shown(value: f64) -> String {
    if value.abs() < 10.0 && value.fract() != 0.0 {
        format!("{value:.4}")
    } else {
        grouped(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_kept_at_the_bound_and_never_without_a_value() {
        let figure = |value| Figure::new("queue", "x", "tidewire", value);
        assert_eq!(figure(Some(1.0)).is_reached(), None);
        let least = |value| figure(value).at_least(Some(2.0)).is_reached();
        assert_eq!(least(Some(2.0)), Some(true));
        assert_eq!(least(Some(1.9)), Some(false));
        assert_eq!(least(None), Some(false));
        let most = |value| figure(value).at_most(Some(2.0)).is_reached();
        assert_eq!(most(Some(2.0)), Some(true));
        assert_eq!(most(Some(2.1)), Some(false));
    }
}
