//! Defects that a build with the feature `faults` can carry, one at a time, and strains under which
//! they show sooner.
//!
//! A [`Defect`] breaks a promise of SEMANTICS; a checker has to find it. A [`Strain`] breaks none: it
//! makes frequent what may happen anyway (an answer is lost, a disk is slow, the power goes), so
//! whatever is right holds under it too. Without the feature there is neither: every question is
//! answered with no at compile time, and [`carry`] refuses.

#![forbid(unsafe_code)]

#[cfg_attr(feature = "faults", path = "carried.rs")]
#[cfg_attr(not(feature = "faults"), path = "nothing.rs")]
mod build;

pub use build::{carry, happens, is, is_faulty_build, value};

/// A promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Defect {
    /// PUBREL leaves before `Rec` is committed.
    PubrelBeforeRec = 1,
    /// PUBCOMP leaves before `Q2Out` is committed.
    PubcompBeforeQ2Out,
    /// A shard takes an item although one before it is missing.
    NoGapRefusal,
    /// A repeated item is applied again instead of answered as the first was.
    RepeatRecomputed,
    /// An `Open` is applied whatever epoch it expects.
    OpenWithoutExpectedEpoch,
    /// A row of the routes has the index of its command as version, not a number of its own.
    RouteVersionIsLogIndex,
    /// A session that was deleted begins again with the incarnation that it once had.
    EpochsRestart,
    /// A leader that was started again leads on without an election.
    LeaderRestored,
    /// SUBACK leaves although the node has no lease.
    SubackWithoutLease,
    /// PUBACK and PUBREC leave although the node has no lease.
    AckWithoutLease,
    /// Readers of the telemetry log see what is not synced.
    ReaderAheadOfFsync,
    /// A new leader does not take up the outbox that the one before left.
    OutboxNotResumed,
    /// A voter whose log is gone votes and counts on.
    VoterAfterDamage,
    /// `Expire` ends a session whoever owns it now.
    ExpireWithoutEpoch,
    /// `Retain` has no stamp.
    RetainUnstamped,
    /// PUBACK and PUBREC leave before the shards have committed.
    AckBeforeCommit,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::PubrelBeforeRec,
        Self::PubcompBeforeQ2Out,
        Self::NoGapRefusal,
        Self::RepeatRecomputed,
        Self::OpenWithoutExpectedEpoch,
        Self::RouteVersionIsLogIndex,
        Self::EpochsRestart,
        Self::LeaderRestored,
        Self::SubackWithoutLease,
        Self::AckWithoutLease,
        Self::ReaderAheadOfFsync,
        Self::OutboxNotResumed,
        Self::VoterAfterDamage,
        Self::ExpireWithoutEpoch,
        Self::RetainUnstamped,
        Self::AckBeforeCommit,
    ];

    /// Its name on the command line and in the environment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PubrelBeforeRec => "pubrel-before-rec",
            Self::PubcompBeforeQ2Out => "pubcomp-before-q2out",
            Self::NoGapRefusal => "no-gap-refusal",
            Self::RepeatRecomputed => "repeat-recomputed",
            Self::OpenWithoutExpectedEpoch => "open-without-expected-epoch",
            Self::RouteVersionIsLogIndex => "route-version-is-log-index",
            Self::EpochsRestart => "epochs-restart",
            Self::LeaderRestored => "leader-restored",
            Self::SubackWithoutLease => "suback-without-lease",
            Self::AckWithoutLease => "ack-without-lease",
            Self::ReaderAheadOfFsync => "reader-ahead-of-fsync",
            Self::OutboxNotResumed => "outbox-not-resumed",
            Self::VoterAfterDamage => "voter-after-damage",
            Self::ExpireWithoutEpoch => "expire-without-epoch",
            Self::RetainUnstamped => "retain-unstamped",
            Self::AckBeforeCommit => "ack-before-commit",
        }
    }

    /// The defect of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|defect| defect.name() == name)
    }
}

/// What may happen to any node at any time, made frequent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Strain {
    /// One in so many requests of items from another node is lost on its way.
    LoseItems,
    /// The answer to one in so many requests of items from another node is lost.
    LoseAnswers,
    /// Each sync of a log takes so many milliseconds longer.
    SlowSync,
    /// Not 0: a start finds of the logs what was synced, as after a power cut, and not what the kernel
    /// still had.
    PowerCut,
}

impl Strain {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::LoseItems,
        Self::LoseAnswers,
        Self::SlowSync,
        Self::PowerCut,
    ];

    /// Its name in the environment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LoseItems => "lose-items",
            Self::LoseAnswers => "lose-answers",
            Self::SlowSync => "slow-sync",
            Self::PowerCut => "power-cut",
        }
    }
}

/// What a process carries: at most one defect, and a value for each strain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The defect.
    pub defect: Option<Defect>,
    /// Values of the strains, in the order of [`Strain::ALL`]; 0: none.
    pub strains: [u32; Strain::ALL.len()],
}

impl Load {
    /// Reads a defect's name and strains such as `slow-sync=20,power-cut=1`; either may be empty.
    ///
    /// # Errors
    /// The word that is neither.
    pub fn parse(defect: &str, strains: &str) -> Result<Self, Error> {
        let mut load = Self::default();
        if !defect.is_empty() {
            let named = Defect::named(defect).ok_or_else(|| Error::Defect(defect.to_owned()))?;
            load.defect = Some(named);
        }
        for word in strains.split(',').filter(|word| !word.is_empty()) {
            let wrong = || Error::Strain(word.to_owned());
            let (name, value) = word.split_once('=').ok_or_else(wrong)?;
            let at = Strain::ALL.iter().position(|strain| strain.name() == name);
            load.strains[at.ok_or_else(wrong)?] = value.parse().map_err(|_| wrong())?;
        }
        Ok(load)
    }

    /// Whether it is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a process carries nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No defect has this name.
    Defect(String),
    /// No strain is this word.
    Strain(String),
    /// The build has no feature `faults`.
    CleanBuild,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Defect(name) => write!(f, "no defect is called {name:?}; there are"),
            Self::Strain(word) => {
                return write!(
                    f,
                    "no strain is {word:?}; a strain is NAME=NUMBER, and the names are {}",
                    Strain::ALL.map(Strain::name).join(", ")
                );
            }
            Self::CleanBuild => {
                return f.write_str(
                    "this program carries no defects; those are in a build with \
                     --features tidewire-cli/faults",
                );
            }
        }?;
        Defect::ALL
            .iter()
            .try_for_each(|defect| write!(f, " {}", defect.name()))
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_is_found_by_its_name_and_no_two_have_one() {
        for (at, defect) in Defect::ALL.into_iter().enumerate() {
            assert_eq!(Defect::named(defect.name()), Some(defect));
            assert_eq!(defect as usize, at + 1);
        }
    }

    #[test]
    fn a_load_is_read_and_a_wrong_word_is_named() {
        let load = Load::parse("retain-unstamped", "slow-sync=20,power-cut=1").unwrap();

        assert_eq!(load.defect, Some(Defect::RetainUnstamped));
        assert_eq!(load.strains, [0, 0, 20, 1]);
        assert!(Load::parse("", "").unwrap().is_empty());
        let wrong = Load::parse("retain", "").unwrap_err();
        assert!(wrong.to_string().contains("\"retain\""), "{wrong}");
        let wrong = Load::parse("", "slow-sync=x").unwrap_err();
        assert!(wrong.to_string().contains("\"slow-sync=x\""), "{wrong}");
    }
}
