//! Chooses how a series of integers is packed: the way with the fewest bits, found with little work.
//!
//! Sealing and merging spend most of their time here. So lengths that a packing cannot fall below
//! are worked out first, and a packing that cannot win is not measured; the choice stays the same.

use super::bits::var_len;
use super::ints::zigzag;

/// A quotient of Rice's code from which the whole difference follows as 64 bits instead.
pub(super) const ESCAPE: u32 = 20;

/// How the differences are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// All are equal to the centre.
    Constant,
    /// Each less the centre, which is the lowest, in `width` bits.
    Fixed { width: u32 },
    /// Each less the centre, zig-zag, by Rice's code with `low` low bits.
    Rice { low: u32 },
    /// Only those that differ from the centre: gaps and zig-zag values by Rice's code.
    Sparse { gap_low: u32, low: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// 0: the value itself; 1: less the one before; 2: less the line through the two before.
    pub(super) order: u32,
    pub(super) centre: i64,
    pub(super) packing: Packing,
    pub(super) bits: u64,
}

/// Finds the cheapest plan of a series of at least two; of equal ones that of the lowest order,
/// then of the packing that [`Packing`] lists first.
pub(super) fn cheapest(steps: &[i64]) -> Plan {
    let mut scratch = Scratch::default();
    // Most series are walks: order 1 comes first, so that the others are given up early.
    let mut best = plan(1, steps, u64::MAX, &mut scratch).expect("nothing costs the limit");
    if let Some(plan) = plan(0, steps, best.bits + 1, &mut scratch) {
        best = plan;
    }
    plan(2, steps, best.bits, &mut scratch).unwrap_or(best)
}

/// The differences from what the values before predict: `len - 1` of them, `len - 2` in order 2.
pub(super) fn differences(order: u32, steps: &[i64], out: &mut Vec<i64>) {
    out.clear();
    match order {
        0 => out.extend_from_slice(&steps[1..]),
        1 => out.extend(steps.windows(2).map(|w| w[1].wrapping_sub(w[0]))),
        _ => {
            let steps = steps.windows(3);
            out.extend(steps.map(|w| w[2].wrapping_sub(line(w[0], w[1]))));
        }
    }
}

/// Continues the line through two values.
pub(super) fn line(before: i64, last: i64) -> i64 {
    last.wrapping_add(last.wrapping_sub(before))
}

/// Memory of the search.
#[derive(Default)]
struct Scratch {
    differences: Vec<i64>,
    unordered: Vec<i64>,
    distances: Vec<u64>,
    gaps: Vec<u64>,
    others: Vec<u64>,
    narrow: Vec<u32>,
}

/// Finds the cheapest packing in one order; `None` when it takes `limit` bits or more, or when the
/// series is too short for the order.
fn plan(order: u32, steps: &[i64], mut limit: u64, scratch: &mut Scratch) -> Option<Plan> {
    if order == 2 && steps.len() < 3 {
        return None;
    }
    differences(order, steps, &mut scratch.differences);
    let differences = &scratch.differences;
    let seed = if order == 2 {
        var_len(zigzag(steps[1]))
    } else {
        0
    };
    let head = |centre| seed + 2 + var_len(zigzag(centre));
    let mut best = None;
    let mut consider = |packing, centre, bits| {
        if bits < limit {
            limit = bits;
            best = Some(Plan {
                order,
                centre,
                packing,
                bits,
            });
        }
        limit
    };

    let (lowest, highest) = extremes(differences);
    if lowest == highest {
        consider(Packing::Constant, lowest, head(lowest));
        return best;
    }
    let width = 64 - highest.wrapping_sub(lowest).cast_unsigned().leading_zeros();
    let fixed_bits = 7 + u64::from(width) * differences.len() as u64;
    let limit = consider(Packing::Fixed { width }, lowest, head(lowest) + fixed_bits);

    let centre = median(differences, &mut scratch.unordered);
    let about = Distances::of(differences, centre, &mut scratch.distances);
    let mut limit = limit;
    if head(centre) + 6 + about.rice_bits_min < limit {
        let (low, bits) = best_rice(&scratch.distances, &mut scratch.narrow);
        limit = consider(Packing::Rice { low }, centre, head(centre) + 6 + bits);
    }
    let sparse_head = head(centre) + var_len(about.others) + 12;
    if sparse_head + about.sparse_bits_min < limit {
        split(&scratch.distances, &mut scratch.gaps, &mut scratch.others);
        let (gap_low, gap_bits) = best_rice(&scratch.gaps, &mut scratch.narrow);
        let (low, bits) = best_rice(&scratch.others, &mut scratch.narrow);
        let packing = Packing::Sparse { gap_low, low };
        consider(packing, centre, sparse_head + gap_bits + bits);
    }
    best
}

fn extremes(differences: &[i64]) -> (i64, i64) {
    let first = (differences[0], differences[0]);
    differences
        .iter()
        .fold(first, |(low, high), &d| (low.min(d), high.max(d)))
}

fn median(differences: &[i64], scratch: &mut Vec<i64>) -> i64 {
    scratch.clear();
    scratch.extend_from_slice(differences);
    let middle = scratch.len() / 2;
    *scratch.select_nth_unstable(middle).1
}

/// What the distances from the centre cost at least: a number takes a bit more than its length,
/// whatever the low bits.
struct Distances {
    rice_bits_min: u64,
    sparse_bits_min: u64,
    /// How many are not zero.
    others: u64,
}

impl Distances {
    /// Works out the distances, and what they cost at least.
    fn of(differences: &[i64], centre: i64, distances: &mut Vec<u64>) -> Self {
        distances.clear();
        distances.extend(differences.iter().map(|&d| zigzag(d.wrapping_sub(centre))));
        let (mut lengths, mut other_lengths, mut others) = (0, 0, 0);
        for &distance in &*distances {
            lengths += u64::from(bit_length(distance));
            other_lengths += u64::from(bit_length(distance.saturating_sub(1)));
            others += u64::from(distance != 0);
        }
        Self {
            rice_bits_min: lengths + distances.len() as u64,
            // A bit for the value, one for its gap.
            sparse_bits_min: other_lengths + 2 * others,
            others,
        }
    }
}

/// Splits distances into those that are not zero, less 1, and how many zeros stand before each.
fn split(distances: &[u64], gaps: &mut Vec<u64>, others: &mut Vec<u64>) {
    gaps.clear();
    others.clear();
    let mut gap = 0;
    for &distance in distances {
        if distance == 0 {
            gap += 1;
        } else {
            gaps.push(gap);
            others.push(distance - 1);
            gap = 0;
        }
    }
}

/// Finds the number of low bits that makes Rice's code shortest, and its length in bits.
fn best_rice(numbers: &[u64], narrow: &mut Vec<u32>) -> (u32, u64) {
    let count = numbers.len() as u64;
    if count == 0 {
        return (0, 0);
    }
    let (mut sum, mut lengths, mut bits) = (0_u128, 0_u64, 0_u64);
    for &number in numbers {
        sum += u128::from(number);
        lengths += u64::from(bit_length(number));
        bits |= number;
    }
    narrow.clear();
    if bits < NARROW_END {
        narrow.extend(numbers.iter().map(|&number| number as u32));
    }
    // The best is just below the logarithm of the mean; a few outliers draw that far up, but
    // hardly the mean of the lengths.
    let by_mean = bit_length((sum / u128::from(count)) as u64);
    let by_length = (lengths / count) as u32;
    let candidates = (by_length.saturating_sub(2)..=by_length + 1)
        .chain(by_mean.saturating_sub(2)..=by_mean)
        .filter(|&low| low < 64);
    let mut measured = 0_u64;
    let mut best: Option<(u32, u64)> = None;
    for low in candidates {
        if measured & (1 << low) != 0 {
            continue;
        }
        measured |= 1 << low;
        let bits = if narrow.is_empty() {
            numbers.iter().map(|&number| rice_len(number, low)).sum()
        } else {
            narrow_rice_len(narrow, low)
        };
        if best.is_none_or(|(_, fewest)| bits < fewest) {
            best = Some((low, bits));
        }
    }
    best.expect("a mean of lengths, less 2, is below 64")
}

/// 0 for 0, 64 for the highest numbers.
fn bit_length(number: u64) -> u32 {
    64 - number.leading_zeros()
}

fn rice_len(number: u64, low: u32) -> u64 {
    let quotient = number >> low;
    if quotient >= u64::from(ESCAPE) {
        u64::from(ESCAPE) + 64
    } else {
        quotient + 1 + u64::from(low)
    }
}

/// Numbers below it are measured several at a time.
const NARROW_END: u64 = 1 << 31;

/// The sum of [`rice_len`], in a form that compilers turn into vector instructions.
fn narrow_rice_len(numbers: &[u32], low: u32) -> u64 {
    // No number reaches bit 31.
    let shift = low.min(31);
    let lens = numbers.iter().map(|&number| {
        let quotient = number >> shift;
        if quotient >= ESCAPE {
            ESCAPE + 64
        } else {
            quotient + 1 + low
        }
    });
    // A block has at most 4 096 rows, so that 32 bits hold the sum.
    u64::from(lens.sum::<u32>())
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
