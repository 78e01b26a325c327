//! One fault of a scenario: what, to whom, when and for how long.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

/// Is a fault, as a scenario file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What happens.
    pub kind: Spanned<Kind>,
    /// When, from the beginning of the faults on; absent: when it is drawn.
    #[serde(default, with = "humantime_serde")]
    pub at: Option<Duration>,
    /// How long it lasts, or the node is away.
    #[serde(default, rename = "for")]
    pub lasts: Option<Span>,
    /// How often it is drawn, beside the others.
    pub weight: Option<u32>,
    /// Who is met.
    #[serde(default)]
    pub target: Option<Target>,
    /// How many packets of a hundred are lost.
    pub percent: Option<u32>,
    /// How long packets, or an fsync, are delayed.
    #[serde(default, with = "humantime_serde")]
    pub delay: Option<Duration>,
    /// To how many nodes the cluster grows before it shrinks again.
    pub to: Option<u32>,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGTERM, which has to end with 0, and a new start.
    Stop,
    /// One node after the other is stopped and started, each when `safe-to-stop` says yes.
    Rolling,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// The targets and all others do not hear each other.
    Isolate,
    /// The targets hear nobody, and are heard.
    Deaf,
    /// Nobody hears the targets, which hear.
    Mute,
    /// The others are cut in two halves, which both hear the target.
    Bridge,
    /// So many packets of a hundred between any two nodes are lost.
    Loss,
    /// What nodes send to the targets comes later.
    Delay,
    /// Each fsync of the targets takes longer.
    SlowDisk,
    /// The next fsync of the targets fails, which has to end them; and a new start.
    FailingDisk,
    /// The targets' file systems are full.
    FullDisk,
    /// SIGKILL, the log of the groups is removed, and a new start, which may be refused: then the node is
    /// replaced by a new one. Before, one other node is cut off, and the rest is killed with it.
    LoseLog,
    /// All connections of clients are cut at once.
    Storm,
    /// The brokers of Kafka stand still.
    KafkaOutage,
    /// Every shard that the target leads is handed to another node.
    Transfer,
    /// The target gives up what it holds, and then takes it again.
    Drain,
    /// Nodes join until there are `to`, and are drained, stopped and forgotten again.
    Scale,
}

/// What of the machine is needed that is not on every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// A network namespace of its own, and `nft`.
    Network,
    /// File systems in memory, in a mount namespace of its own.
    Mounts,
    /// `strace`, which may attach to other processes.
    Tracing,
    /// A Kafka, and the processes of its brokers.
    Kafka,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "a network namespace of its own with nft (package nftables)",
            Self::Mounts => "a mount namespace of its own",
            Self::Tracing => "strace (package strace) with the right to attach",
            Self::Kafka => "--kafka and --kafka-pid",
        })
    }
}

/// Who is met by a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Any one node.
    #[default]
    One,
    /// As many as may be away without harm, at most: of three one, of five two.
    Minority,
    /// All nodes.
    All,
    /// The node that leads meta at that time.
    Leader,
    /// The node with this number.
    Node(u32),
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = || text.strip_prefix("node-")?.parse().ok();
        match text.as_str() {
            "one" => Ok(Self::One),
            "minority" => Ok(Self::Minority),
            "all" => Ok(Self::All),
            "leader" => Ok(Self::Leader),
            _ => number().map(Self::Node).ok_or_else(|| {
                format!("target \"{text}\": must be one, minority, all, leader or node-N")
            }),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Minority => f.write_str("minority"),
            Self::All => f.write_str("all"),
            Self::Leader => f.write_str("leader"),
            Self::Node(number) => write!(f, "node-{number}"),
        }
    }
}

/// A length of time that is drawn between two, written as one (`"3s"`) or as both (`"1s..5s"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (least, most) = text.split_once("..").unwrap_or((&text, &text));
        let parse = |part: &str| {
            let ms = admin::time::parse_duration_ms(part.trim());
            ms.map(Duration::from_millis).map_err(D::Error::custom)
        };
        let span = Self {
            least: parse(least)?,
            most: parse(most)?,
        };
        match span.least <= span.most {
            true => Ok(span),
            false => Err(D::Error::custom(format!(
                "\"{text}\": the longer time comes first"
            ))),
        }
    }
}

impl Kind {
    /// Returns its word in scenario files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Rolling => "rolling",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Deaf => "deaf",
            Self::Mute => "mute",
            Self::Bridge => "bridge",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::SlowDisk => "slow_disk",
            Self::FailingDisk => "failing_disk",
            Self::FullDisk => "full_disk",
            Self::LoseLog => "lose_log",
            Self::Storm => "storm",
            Self::KafkaOutage => "kafka_outage",
            Self::Transfer => "transfer",
            Self::Drain => "drain",
            Self::Scale => "scale",
        }
    }

    /// Returns what of the machine it needs that is not on every one.
    #[must_use]
    pub fn needs(self) -> Option<Need> {
        match self {
            Self::Isolate | Self::Deaf | Self::Mute | Self::Bridge | Self::Loss | Self::LoseLog => {
                Some(Need::Network)
            }
            Self::SlowDisk | Self::FailingDisk => Some(Need::Tracing),
            Self::FullDisk => Some(Need::Mounts),
            Self::KafkaOutage => Some(Need::Kafka),
            _ => None,
        }
    }

    /// Returns true when packets between nodes are dropped by a rule.
    #[must_use]
    pub fn is_partition(self) -> bool {
        matches!(self, Self::Isolate | Self::Deaf | Self::Mute | Self::Bridge)
    }

    /// Returns true when something operators do, which nobody has to notice.
    #[must_use]
    pub fn is_operation(self) -> bool {
        matches!(
            self,
            Self::Rolling | Self::Transfer | Self::Drain | Self::Scale
        )
    }

    /// Returns true when it meets single nodes.
    fn has_targets(self) -> bool {
        !matches!(
            self,
            Self::Rolling | Self::Loss | Self::Storm | Self::KafkaOutage | Self::Scale
        )
    }

    /// Returns true when its end is not its beginning.
    fn lasts(self) -> bool {
        !matches!(
            self,
            Self::Storm | Self::Transfer | Self::Scale | Self::LoseLog
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Entry {
    /// Checks what no type says, in a scenario of so many nodes.
    pub(super) fn check(&self, nodes: u32) -> Result<(), String> {
        let kind = *self.kind.get_ref();
        let fits = [
            ("target", self.target.is_some(), kind.has_targets()),
            ("for", self.lasts.is_some(), kind.lasts()),
            ("percent", self.percent.is_some(), kind == Kind::Loss),
            (
                "delay",
                self.delay.is_some(),
                matches!(kind, Kind::Delay | Kind::SlowDisk),
            ),
            ("to", self.to.is_some(), kind == Kind::Scale),
            ("weight", self.weight.is_some(), self.at.is_none()),
        ];
        for (key, is_there, is_of_use) in fits {
            if is_there && !is_of_use {
                return Err(format!("{kind}: `{key}` is of no use here"));
            }
        }
        if let Some(percent) = self.percent
            && !(1..=99).contains(&percent)
        {
            return Err(format!("{kind}: percent = {percent}: must be 1 to 99"));
        }
        if let Some(Target::Node(number)) = self.target
            && !(1..=nodes).contains(&number)
        {
            return Err(format!("{kind}: target node-{number}: there are {nodes}"));
        }
        if let Some(to) = self.to
            && (to <= nodes || to > 2 * super::NODES_MAX)
        {
            return Err(format!(
                "{kind}: to = {to}: must be more than {nodes} nodes"
            ));
        }
        if self.weight == Some(0) {
            return Err(format!("{kind}: weight = 0: leave it out"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct One {
        of: Span,
    }

    #[test]
    fn a_length_of_time_is_one_or_a_range() {
        let span =
            |text: &str| toml::from_str::<One>(&format!("of = \"{text}\"")).map(|one| one.of);
        let ms = Duration::from_millis;
        assert_eq!(
            span("3s").expect("one"),
            Span {
                least: ms(3_000),
                most: ms(3_000)
            }
        );
        assert_eq!(
            span("500ms..2s").expect("two"),
            Span {
                least: ms(500),
                most: ms(2_000)
            }
        );
        for wrong in ["", "3", "5s..1s", "1s.."] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_target_survives_its_word() {
        for word in ["one", "minority", "all", "leader", "node-2"] {
            let target = Target::try_from(word.to_owned()).expect(word);
            assert_eq!(target.to_string(), word);
        }
        assert!(Target::try_from("node-x".to_owned()).is_err());
    }
}
