//! Kafka's jars: fetched once into the target folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tools;

/// What Maven fetches. `kafka-tools` are the command line tools; what only Kafka Connect needs is left out.
/// `slf4j-simple` writes the servers' logs to their standard error, where readiness is read.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidewire</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>4.1.0</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>4.1.0</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-api</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-json</artifactId></exclusion>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion>
      </exclusions>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"#;

/// Of one version, or Maven would take the newest, which may need a newer Maven.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies";

/// Written into the folder last, with the pom that filled it: without it, or with another, the folder is filled anew.
const MARKER: &str = "complete.xml";

/// What Kafka 4.1 is compiled for.
const JAVA_MIN: u32 = 17;

/// A folder with the jars of Apache Kafka 4.1.0 and its command line tools, and a Java that can run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jars {
    libs: PathBuf,
}

impl Jars {
    /// Makes sure of the jars in `<target>/kafka/libs` and of a Java to run them; fetches 44 MB the first time and only
    /// looks afterwards. Blocks.
    ///
    /// Java and Maven are installed through apt where they are absent, `may_install` says so, and this process may.
    ///
    /// # Errors
    /// What is missing and what to install, or what Maven said.
    pub fn ensure(target: &Path, may_install: bool) -> Result<Self, String> {
        let libs = Self::below(target);
        if may_install {
            tools::ensure(&[tools::JAVA]);
        }
        let java = java_version()?;
        if java < JAVA_MIN {
            return Err(format!(
                "Java {java} is too old for Kafka; install Java {JAVA_MIN} or newer, or set TIDEWIRE_TEST_KAFKA"
            ));
        }
        let kafka = target.join("kafka");
        fs::create_dir_all(&kafka).map_err(|error| cannot("create", &kafka, &error))?;
        // Two test commands over one target folder must not fill it both at once.
        let lock = kafka.join("lock");
        let held = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _held = held.map_err(|error| cannot("lock", &lock, &error))?;
        if is_complete(&libs) {
            return Ok(Self { libs });
        }
        if may_install {
            tools::ensure(&[tools::MAVEN]);
        }
        fetch(&kafka, &libs)?;
        Ok(Self { libs })
    }

    /// Takes a folder that [`ensure`](Self::ensure) has filled.
    ///
    /// # Errors
    /// When it is absent or was not filled to the end, or when there is no Java.
    pub fn open(libs: &Path) -> Result<Self, String> {
        if !is_complete(libs) {
            return Err(format!(
                "no Kafka in {}; run `cargo xtask test` once, which fetches it, or set TIDEWIRE_TEST_KAFKA",
                libs.display()
            ));
        }
        if !tools::on_path("java") {
            return Err(no_java());
        }
        Ok(Self {
            libs: libs.to_owned(),
        })
    }

    /// Where [`ensure`](Self::ensure) puts the jars.
    pub(crate) fn below(target: &Path) -> PathBuf {
        target.join("kafka/libs")
    }

    /// The folder itself.
    #[must_use]
    pub fn libs(&self) -> &Path {
        &self.libs
    }

    /// A Java with every jar on its class path; options, the class and its arguments are to follow.
    #[must_use]
    pub fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg("-cp")
            .arg(self.libs.join("*"))
            .stdin(Stdio::null());
        java
    }

    /// A Java for a program that ends soon: less time goes into compiling it and into collecting garbage.
    #[must_use]
    pub fn short_java(&self) -> Command {
        let mut java = self.java();
        java.args([
            "-Xmx256m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        ]);
        java
    }
}

fn is_complete(libs: &Path) -> bool {
    fs::read_to_string(libs.join(MARKER)).is_ok_and(|filled_by| filled_by == POM)
}

fn fetch(kafka: &Path, libs: &Path) -> Result<(), String> {
    if !tools::on_path("mvn") {
        return Err("no mvn; install maven, or set TIDEWIRE_TEST_KAFKA".to_owned());
    }
    if libs.exists() {
        // Jars of another version beside the wanted ones would be on the class path too.
        fs::remove_dir_all(libs).map_err(|error| cannot("remove", libs, &error))?;
    }
    let pom = kafka.join("pom.xml");
    fs::write(&pom, POM).map_err(|error| cannot("write", &pom, &error))?;
    eprintln!("xtask: fetching Kafka, 44 MB");
    let mut output_directory = std::ffi::OsString::from("-DoutputDirectory=");
    output_directory.push(libs);
    // Its output is kept back: standard output belongs to the test results.
    let output = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg(COPY)
        .args(["-DincludeScope=runtime"])
        .arg(output_directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run mvn: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "mvn could not fetch Kafka: {}",
            first_error(&String::from_utf8_lossy(&output.stdout))
        ));
    }
    let marker = libs.join(MARKER);
    fs::write(&marker, POM).map_err(|error| cannot("write", &marker, &error))
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}

/// Maven says much; its first error says why.
fn first_error(output: &str) -> &str {
    output
        .lines()
        .find_map(|line| line.strip_prefix("[ERROR] "))
        .unwrap_or("it gave no reason")
}

fn no_java() -> String {
    "no java; install default-jre-headless and maven, or set TIDEWIRE_TEST_KAFKA".to_owned()
}

fn java_version() -> Result<u32, String> {
    let output = Command::new("java")
        .arg("-version")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| no_java())?;
    let text = String::from_utf8_lossy(&output.stderr);
    feature_version(&text).ok_or_else(|| format!("java does not tell its version: {}", text.trim()))
}

/// 17 of `openjdk version "17.0.15" 2025-04-15`, 8 of `java version "1.8.0_292"`.
fn feature_version(text: &str) -> Option<u32> {
    let quoted = text.split('"').nth(1)?;
    let mut numbers = quoted.split(['.', '_', '-', '+']);
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        version => Some(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read_from_what_every_java_says() {
        for (text, version) in [
            ("openjdk version \"17.0.15\" 2025-04-15\nmore", Some(17)),
            ("openjdk version \"21\" 2023-09-19", Some(21)),
            ("openjdk version \"25-ea\" 2025-09-16", Some(25)),
            ("java version \"1.8.0_292\"", Some(8)),
            ("bash: java: command not found", None),
        ] {
            assert_eq!(feature_version(text), version, "{text}");
        }
    }

    #[test]
    fn a_folder_that_an_interrupted_download_left_is_no_kafka() {
        let target = crate::scratch::folder("interrupted-download");
        let libs = Jars::below(&target);
        fs::create_dir_all(&libs).unwrap();
        fs::write(libs.join("kafka_2.13-4.1.0.jar"), "half a jar").unwrap();

        assert!(Jars::open(&libs).unwrap_err().contains("no Kafka in"));
        fs::write(libs.join(MARKER), "the pom of another version").unwrap();
        assert!(Jars::open(&libs).unwrap_err().contains("no Kafka in"));
        fs::write(libs.join(MARKER), POM).unwrap();
        assert!(is_complete(&libs));
    }

    #[test]
    fn the_reason_of_a_failed_download_is_its_first_error() {
        let output =
            "[INFO] x\n[ERROR] cannot resolve kafka\n[ERROR] To see the full stack trace, …";

        assert_eq!(first_error(output), "cannot resolve kafka");
    }
}
