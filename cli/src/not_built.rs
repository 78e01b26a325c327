//! Commands of the contract that are not built yet.

/// Names of nouns of `ctl` that are planned.
pub(crate) const NOUNS: [&str; 8] = [
    "listener", "acl", "user", "shadow", "rollout", "backup", "config", "alarm",
];

/// Says that a command is not built yet: exit code 2.
pub(crate) fn refuse(command: &str, words: &[String]) -> u8 {
    let asked = words.join(" ");
    let error = format!("{command} {asked}: not built yet; nothing was done");
    crate::fail(crate::exit::USAGE, &error)
}
