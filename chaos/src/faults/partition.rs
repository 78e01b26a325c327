//! Who hears whom no more, and later.

use std::time::Duration;

use crate::Error;
use crate::network::{Network, ways};
use crate::run::Run;
use crate::scenario::Kind;

impl Run {
    pub(super) fn network(&mut self) -> Result<&mut Network, Error> {
        let network = self.network.as_mut();
        network.ok_or_else(|| Error::Failed("no network of its own".to_owned()))
    }

    /// Which ways a partition cuts.
    pub(super) fn cuts(&self, kind: Kind, met: &[usize]) -> Vec<(usize, usize)> {
        let all = self.cluster.places();
        let others: Vec<usize> = all.into_iter().filter(|at| !met.contains(at)).collect();
        let both = |one: &[usize], other: &[usize]| [ways(one, other), ways(other, one)].concat();
        match kind {
            Kind::Deaf => ways(&others, met),
            Kind::Mute => ways(met, &others),
            Kind::Bridge => {
                let (one, other) = others.split_at(others.len() / 2);
                both(one, other)
            }
            _ => both(met, &others),
        }
    }

    /// Whom a partition leaves no way to most of meta's voters, or none back, as the nodes say now.
    pub(super) fn without_meta(&self, kind: Kind, met: &[usize]) -> Vec<usize> {
        let status = self.watch.status();
        let groups = status.iter().flat_map(|status| &status.groups);
        let meta = groups.clone().find(|group| group.group == "meta");
        let meta = meta.filter(|meta| meta.moving_to.is_none());
        let all = self.cluster.places();
        let votes = |at: &usize| {
            let number = self.cluster.member(*at).number();
            meta.is_some_and(|meta| meta.voters.contains(&number))
        };
        // Meta has three voters: whoever they are, one node alone is no quorum.
        let voters = meta.map(|meta| meta.voters.len());
        if voters.is_none() && met.len() > 1 {
            return Vec::new();
        }
        without_quorum(kind, met, &all, voters.unwrap_or(all.len()), votes)
    }

    pub(super) fn delay(&self, places: &[usize], delay: Duration) {
        for at in places {
            if let Some(proxy) = self.cluster.member(*at).proxy() {
                proxy.delay(delay);
            }
        }
    }
}

/// Of all nodes those whom a partition leaves no way to most of the voters, or none back. Of nodes that are deaf or mute
/// together and make up most of them nobody can say: what they hear of one another goes on. A bridge has a way to all.
fn without_quorum(
    kind: Kind,
    met: &[usize],
    all: &[usize],
    voters: usize,
    votes: impl Fn(&usize) -> bool,
) -> Vec<usize> {
    let of_met = met.iter().filter(|at| votes(at)).count();
    let are_most = 2 * of_met > voters;
    match kind {
        Kind::Isolate | Kind::Deaf | Kind::Mute if !are_most => met.to_vec(),
        Kind::Isolate => {
            let others = all.iter().filter(|at| !met.contains(at));
            others.copied().collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_cut_off_is_not_with_most_of_the_voters() {
        let all = [0, 1, 2, 3, 4];
        let of = |kind, met: &[usize]| without_quorum(kind, met, &all, 3, |at| *at < 3);
        assert_eq!(of(Kind::Isolate, &[1]), [1]);
        assert_eq!(of(Kind::Isolate, &[2, 4]), [2, 4]);
        assert_eq!(of(Kind::Isolate, &[0, 1]), [2, 3, 4], "the others are");
        assert_eq!(of(Kind::Mute, &[2]), [2]);
        let nobody: [usize; 0] = [];
        assert_eq!(of(Kind::Deaf, &[0, 1]), nobody);
        assert_eq!(of(Kind::Bridge, &[1]), nobody);
    }
}
