//! What the build and the tests need from the machine, and how it gets there.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run;
use crate::skip;

/// The Python MQTT client that the process tests talk through, of one version so that they do not change by themselves.
const PAHO: PythonPackage = PythonPackage {
    module: "paho.mqtt.client",
    requirement: "paho-mqtt==2.1.0",
};

/// The Python Kafka client of the example consumer; it wraps librdkafka, which its wheels bring along.
const CONFLUENT_KAFKA: PythonPackage = PythonPackage {
    module: "confluent_kafka",
    requirement: "confluent-kafka==2.16.1",
};

/// A package of the tests' Python environment: what is imported, and what pip is asked for.
struct PythonPackage {
    module: &'static str,
    requirement: &'static str,
}

/// A program that the tests use, and the Debian package that brings it.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Without these nothing builds.
const BUILD: [Tool; 2] = [
    Tool {
        program: "cc",
        package: "gcc",
    },
    Tool {
        program: "make",
        package: "make",
    },
];

/// What runs Kafka.
pub(crate) const JAVA: Tool = Tool {
    program: "java",
    package: "default-jre-headless",
};

/// What fetches Kafka.
pub(crate) const MAVEN: Tool = Tool {
    program: "mvn",
    package: "maven",
};

/// Without these some tests are skipped, and say so.
const CLIENTS: [Tool; 4] = [
    Tool {
        program: "mosquitto_pub",
        package: "mosquitto-clients",
    },
    Tool {
        program: "mosquitto_sub",
        package: "mosquitto-clients",
    },
    Tool {
        program: "haproxy",
        package: "haproxy",
    },
    Tool {
        program: "python3",
        package: "python3",
    },
];

/// Apart from the others: apt installs nothing at all where it does not know one of the packages, and older systems call
/// this one otherwise.
const KCAT: [Tool; 1] = [Tool {
    program: "kcat",
    package: "kcat",
}];

/// What cuts links between nodes in a network of the test's own.
const NETWORKS: [Tool; 3] = [
    Tool {
        program: "ip",
        package: "iproute2",
    },
    Tool {
        program: "nft",
        package: "nftables",
    },
    Tool {
        program: "unshare",
        package: "util-linux",
    },
];

/// Build tools that are absent and could not be installed.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} not found; a C toolchain with make is needed (Debian: apt-get install gcc libc6-dev make)",
            self.0
        )
    }
}

/// Makes sure of `cc` and `make`, installing them where that is allowed.
pub(crate) fn ensure_build(may_install: bool) -> Result<(), Missing> {
    if may_install {
        install(&absent(&BUILD));
    }
    let missing = absent(&BUILD);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    Err(Missing(names.join(" and ")))
}

/// Installs the programs that the process tests drive, as far as that is allowed.
///
/// What stays absent is not an error here: each test that needs it skips itself and names it.
pub(crate) fn ensure_clients() {
    install(&absent(&CLIENTS));
    install(&absent(&KCAT));
    install(&absent(&NETWORKS));
}

/// Installs those of `tools` that are absent, as far as that is allowed; the caller sees what stays so.
pub(crate) fn ensure(tools: &'static [Tool]) {
    install(&absent(tools));
}

/// Returns the folder of a Python environment that holds the MQTT client, and the Kafka client where it can be had, or
/// why there is none.
pub(crate) fn ensure_venv(target: &Path) -> Result<PathBuf, String> {
    let venv = target.join("test-venv");
    if !PAHO.is_in(&venv) {
        ensure_bare_venv(&venv)?;
        PAHO.install(&venv);
    }
    if !PAHO.is_in(&venv) {
        return Err(format!("pip could not install {}", PAHO.requirement));
    }
    // Where there is no wheel for this Python, the tests that import it skip themselves; the others have their client.
    if !CONFLUENT_KAFKA.is_in(&venv) {
        CONFLUENT_KAFKA.install(&venv);
    }
    Ok(venv)
}

fn ensure_bare_venv(venv: &Path) -> Result<(), String> {
    let made = make_venv(venv) || {
        // Debian ships the module `venv` without its second half, which is in this package.
        install(&[&Tool {
            program: "python3 -m venv",
            package: "python3-venv",
        }]);
        make_venv(venv)
    };
    if made {
        Ok(())
    } else {
        Err("python3 -m venv failed; install python3-venv".to_owned())
    }
}

/// Whether `program` lies on the search path.
pub(crate) fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn absent(tools: &'static [Tool]) -> Vec<&'static Tool> {
    tools.iter().filter(|tool| !on_path(tool.program)).collect()
}

/// Installs through apt when this process may; failures leave the tool absent, which the caller sees.
fn install(tools: &[&Tool]) {
    if tools.is_empty() || !on_path("apt-get") || !is_root() {
        return;
    }
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    packages.dedup();
    eprintln!("xtask: installing {}", packages.join(", "));
    // A bare machine has no package lists yet; a stale list is reported by the install itself.
    run::succeeds(apt().arg("update"));
    run::succeeds(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&packages),
    );
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // Standard output belongs to the test results.
    apt.arg("-qq")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    apt
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn make_venv(venv: &Path) -> bool {
    on_path("python3")
        && run::succeeds(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(venv),
        )
}

impl PythonPackage {
    fn is_in(&self, venv: &Path) -> bool {
        let python = venv.join("bin/python");
        python.is_file() && skip::imports(&mut Command::new(python), self.module)
    }

    /// Failures leave the package absent, which the caller sees.
    fn install(&self, venv: &Path) {
        let mut pip = Command::new(venv.join("bin/python"));
        // From a wheel alone: building one from its source needs libraries that nobody asked for.
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            self.requirement,
        ]);
        run::succeeds(&mut pip);
    }
}
