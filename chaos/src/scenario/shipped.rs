//! The scenarios that come with the program.

/// Is a scenario that comes with the program.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(Shipped {
            name: $name,
            text: include_str!(concat!("../../scenarios/", $name, ".toml")),
        }),+]
    };
}

const ALL: [Shipped; 18] = files![
    "kills",
    "outage",
    "five",
    "pauses",
    "partitions",
    "leases",
    "loss",
    "delay",
    "late",
    "storms",
    "disks",
    "full-disk",
    "leaders",
    "mixed",
    "damage",
    "kafka",
    "rolling",
    "scale",
];

/// Returns the shipped scenarios, in the order in which they are run.
pub fn shipped() -> impl Iterator<Item = Shipped> {
    ALL.into_iter()
}
