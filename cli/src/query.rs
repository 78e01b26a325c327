//! `tidewire query`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use admin::client::{Client, ClientError};
use admin::query::QueryAnswer;
use admin::question::{Question, Resolved};
use admin::time::format_time;
use bridge::{QueryError, QueryRequest, StoppedNode};

use crate::arguments::{Output, Query};
use crate::{exit, fail};

/// Reads a device's rows from a node or a folder and prints them; the exit code.
pub(crate) fn run(arguments: &Query) -> u8 {
    let question = Question {
        metrics: arguments.metric.clone(),
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        step: arguments.step.clone(),
        limit: arguments.limit,
    };
    let now_ms = runtime::Clock::wall_ms(&runtime::SystemClock::default());
    let resolved = match question.resolve(now_ms) {
        Ok(resolved) => resolved,
        Err(error) => return fail(exit::USAGE, &error),
    };
    let answer = match &arguments.data {
        Some(folder) => from_folder(folder, &arguments.device, &resolved),
        None => Client::new(&arguments.target.admin)
            .query(&arguments.device, &question)
            .map_err(|error| fail(code_of(&error), &error)),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    let text = match arguments.output {
        Output::Json => json(&answer),
        Output::Csv => csv(&answer),
        Output::Table => table(&answer),
    };
    if answer.rows.is_empty() {
        eprintln!("no rows of {} in that time", arguments.device);
    }
    if answer.partial {
        let reason = answer.reason.as_deref();
        let reason = reason.unwrap_or("the store has not caught up with the log yet");
        eprintln!("partial: {reason}");
    }
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        return fail(exit::FAILED, &error);
    }
    0
}

/// Reads the data folder of a stopped node.
fn from_folder(folder: &Path, device: &str, asked: &Resolved) -> Result<QueryAnswer, u8> {
    let node = StoppedNode::open(folder).map_err(|error| fail(exit::FAILED, &error))?;
    let request = QueryRequest {
        device: device.to_owned(),
        metrics: asked.metrics.clone(),
        from_ms: asked.from_ms,
        to_ms: asked.to_ms,
        step_ms: asked
            .step_ms
            .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        limit: asked.limit,
    };
    node.query(&request).map_err(|error| match error {
        QueryError::Device(_) => fail(exit::USAGE, &error),
        _ => fail(exit::FAILED, &error),
    })
}

/// The exit code of a failed request.
pub(crate) fn code_of(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { .. } => exit::UNREACHABLE,
        ClientError::Refused { status: 400, .. } => exit::USAGE,
        ClientError::Refused { .. } | ClientError::Answer { .. } => exit::FAILED,
    }
}

fn json(answer: &QueryAnswer) -> String {
    serde_json::to_string(answer).expect("an answer is JSON") + "\n"
}

/// Names of all metrics of an answer, in order.
fn columns(answer: &QueryAnswer) -> Vec<&str> {
    let names: BTreeSet<&str> = answer
        .rows
        .iter()
        .flat_map(|row| row.metrics.keys())
        .map(String::as_str)
        .collect();
    names.into_iter().collect()
}

fn csv(answer: &QueryAnswer) -> String {
    let columns = columns(answer);
    let quote = |name: &&str| match name.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => (*name).to_owned(),
    };
    let head: Vec<_> = std::iter::once("ts".to_owned())
        .chain(columns.iter().map(quote))
        .collect();
    let mut text = head.join(",") + "\n";
    for row in &answer.rows {
        text += &row.ts.to_string();
        for name in &columns {
            text.push(',');
            if let Some(value) = row.metrics.get(*name) {
                text += &value.to_string();
            }
        }
        text.push('\n');
    }
    text
}

fn table(answer: &QueryAnswer) -> String {
    let columns = columns(answer);
    let cell = |row: &admin::query::QueryRow, name: &str| {
        row.metrics
            .get(name)
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let widths: Vec<usize> = columns
        .iter()
        .map(|name| {
            let cells = answer
                .rows
                .iter()
                .map(|row| cell(row, name).chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    if answer.rows.is_empty() {
        return String::new();
    }
    let mut text = format!("{:<24}", "TIME");
    for (name, width) in columns.iter().zip(&widths) {
        write!(text, "  {name:>width$}").expect("a String takes everything");
    }
    text.push('\n');
    for row in &answer.rows {
        write!(text, "{:<24}", format_time(row.ts)).expect("a String takes everything");
        for (name, width) in columns.iter().zip(&widths) {
            write!(text, "  {:>width$}", cell(row, name)).expect("a String takes everything");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::query::{MetricValue, QueryRow};

    fn answer() -> QueryAnswer {
        let row = |ts, metrics: &[(&str, f64)]| QueryRow {
            ts,
            metrics: metrics
                .iter()
                .map(|(n, v)| ((*n).to_owned(), MetricValue(*v)))
                .collect(),
        };
        let rows = vec![
            row(1_000, &[("battery", 81.5)]),
            row(2_000, &[("speed,max", 3.0)]),
        ];
        QueryAnswer {
            rows,
            partial: false,
            reason: None,
        }
    }

    #[test]
    fn a_table_has_a_column_a_metric_and_a_dash_for_what_was_not_sent() {
        let expected = "TIME                      battery  speed,max\n\
                        1970-01-01T00:00:01.000Z     81.5          -\n\
                        1970-01-01T00:00:02.000Z        -          3\n";
        assert_eq!(table(&answer()), expected);
    }

    #[test]
    fn csv_quotes_names_with_commas() {
        assert_eq!(
            csv(&answer()),
            "ts,battery,\"speed,max\"\n1000,81.5,\n2000,,3\n"
        );
    }
}
