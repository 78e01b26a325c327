//! What a demo writes at its end.

use std::io::Write;

use admin::query::QueryAnswer;
use admin::time::format_time;

use super::folder::Folder;
use super::node::Launch;
use super::report::Report;
use super::{Error, Options};
use crate::profile;

/// Rows and metrics of the device that is shown at the end.
const ROWS_SHOWN: usize = 3;
const METRICS_SHOWN: [&str; 4] = ["battery", "speed", "temp_motor", "sequence"];

pub(super) fn describe_rows(device: &str, answer: &QueryAnswer) -> String {
    let mut text = format!(
        "{device}: {} rows in the last hour, the newest:\n",
        answer.rows.len()
    );
    text.push_str(&format!("{:>26}", "time"));
    for name in METRICS_SHOWN {
        text.push_str(&format!("{name:>14}"));
    }
    text.push('\n');
    for row in &answer.rows[answer.rows.len().saturating_sub(ROWS_SHOWN)..] {
        text.push_str(&format!("{:>26}", format_time(row.ts)));
        for name in METRICS_SHOWN {
            let value = row
                .metrics
                .get(name)
                .map_or_else(|| "-".to_owned(), ToString::to_string);
            text.push_str(&format!("{value:>14}"));
        }
        text.push('\n');
    }
    text
}

/// Writes the result and the commands to go on with.
pub(super) fn show(
    options: &Options,
    launches: &[Launch],
    folder: &Folder,
    report: &Report,
    rows: &str,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let commands = commands(options, launches, folder, report);
    let written = if options.json {
        eprint!("{rows}\n{report}\n{commands}");
        writeln!(out, "{}", report.to_json())
    } else {
        write!(out, "{rows}\n{report}\n{commands}")
    };
    written
        .and_then(|()| out.flush())
        .map_err(|error| Error::Failed(format!("standard output: {error}")))
}

fn commands(options: &Options, launches: &[Launch], folder: &Folder, report: &Report) -> String {
    let device = profile::device_id(report.devices - 1);
    let path = folder.path().display();
    let [first, ..] = launches else {
        return String::new();
    };
    let last = launches.last().unwrap_or(first);
    let serve: Vec<String> = launches.iter().map(Launch::command_line).collect();
    if options.keep {
        let cluster = match launches.len() {
            1 => String::new(),
            _ => format!(
                "  tidewire ctl --admin http://{} cluster status\n",
                last.admin
            ),
        };
        format!(
            "go on, while {serving}:\n\
             {cluster}  \
             tidewire query {device} --metric battery --admin http://{admin}\n  \
             curl 'http://{admin}/v1/query/{device}?from=-15m&metric=speed'\n  \
             mosquitto_sub -h {host} -p {port} -t 'fleet/#' -v\n",
            serving = match launches.len() {
                1 => "this node serves",
                _ => "these nodes serve",
            },
            admin = first.admin,
            host = last.mqtt.ip(),
            port = last.mqtt.port(),
        )
    } else if options.data.is_some() || !report.is_ok() {
        // Without the others a node of several cannot say what they store.
        let query = match launches.len() {
            1 => format!(
                "  tidewire query {device} --metric battery --data {}\n",
                first.data.display()
            ),
            _ => String::new(),
        };
        format!(
            "go on:\n{query}  tidewire demo --check {path}\n  {}\n",
            serve.join(" &\n  ")
        )
    } else {
        "go on (the temporary folder of this run is removed):\n  \
         tidewire demo --keep                  # serves on after the check\n  \
         tidewire demo --data ./tidewire-demo  # keeps the data\n  \
         tidewire demo --kill                  # kills the node in the middle\n  \
         tidewire demo --nodes 3 --kill        # kills one of three\n"
            .to_owned()
    }
}
