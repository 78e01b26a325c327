//! `tidewire demo`.

use benches::demo::{self, Options};

use crate::arguments::Demo;
use crate::fail;

/// Runs the demo, or checks the folder of an ended one; the exit code.
pub(crate) fn run(arguments: &Demo) -> u8 {
    if let Some(folder) = &arguments.check {
        return match demo::check(folder) {
            Ok(report) => {
                if arguments.json {
                    println!("{}", report.to_json());
                } else {
                    print!("{report}");
                }
                report.exit_code()
            }
            Err(error) => fail(error.exit_code(), &error),
        };
    }
    let options = Options {
        nodes: arguments.nodes,
        devices: arguments.devices,
        interval: arguments.interval,
        duration: arguments.duration,
        data: arguments.data.clone(),
        seed: arguments.seed,
        mqtt: arguments.mqtt,
        admin: arguments.admin,
        kafka: arguments.kafka.clone(),
        kill: arguments.kill,
        keep: arguments.keep,
        json: arguments.json,
        program: None,
    };
    match demo::run(&options, &mut std::io::stdout()) {
        Ok(report) => report.exit_code(),
        Err(error) => fail(error.exit_code(), &error),
    }
}
