//! A series of integers: predicted, then the differences packed in the cheapest of four ways.
//!
//! All arithmetic wraps, so that every `i64` comes back.

use super::BlockError;
use super::bits::{BitReader, BitWriter};
use super::plan::{self, ESCAPE, Packing, Plan, line};

/// Writes a series; the reader must know its length.
pub(super) fn encode(series: &[i64], out: &mut BitWriter) {
    let Some((&first, rest)) = series.split_first() else {
        return;
    };
    out.put_var(zigzag(first));
    if rest.is_empty() {
        return;
    }
    let unit = common_unit(series);
    let steps: Vec<i64> = series
        .iter()
        .map(|&value| {
            if unit > 1 {
                (value - first) / unit
            } else {
                value.wrapping_sub(first)
            }
        })
        .collect();
    out.put(u64::from(unit > 1), 1);
    if unit > 1 {
        out.put_var(unit as u64);
    }

    let plan = plan::cheapest(&steps);
    out.put(u64::from(plan.order), 2);
    let mut differences = Vec::with_capacity(steps.len());
    plan::differences(plan.order, &steps, &mut differences);
    if plan.order == 2 {
        out.put_var(zigzag(steps[1]));
    }
    write_differences(&differences, &plan, out);
}

/// Finds the greatest number that divides all distances from the first value; 1 when the distances
/// leave the range of `i64`.
fn common_unit(series: &[i64]) -> i64 {
    let first = series[0];
    let mut unit: u64 = 0;
    for &value in series {
        let Some(distance) = value.checked_sub(first) else {
            return 1;
        };
        unit = gcd(unit, distance.unsigned_abs());
        if unit == 1 {
            return 1;
        }
    }
    i64::try_from(unit.max(1)).unwrap_or(1)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// How many central differences stand before each that is not central.
fn gaps(differences: &[i64], centre: i64) -> impl Iterator<Item = u64> + Clone {
    let mut next = 0;
    differences
        .iter()
        .enumerate()
        .filter(move |&(_, &difference)| difference != centre)
        .map(move |(at, _)| {
            let gap = at - next;
            next = at + 1;
            gap as u64
        })
}

fn put_rice(number: u64, low: u32, out: &mut BitWriter) {
    let quotient = number >> low;
    if quotient >= u64::from(ESCAPE) {
        out.put((1 << ESCAPE) - 1, ESCAPE);
        out.put(number, 64);
    } else {
        out.put((1 << quotient) - 1, quotient as u32 + 1);
        out.put(number & ((1 << low) - 1), low);
    }
}

fn take_rice(low: u32, bits: &mut BitReader<'_>) -> Result<u64, BlockError> {
    let quotient = bits.take_ones(ESCAPE)?;
    if quotient == ESCAPE {
        return Ok(bits.take(64)?);
    }
    let rest = bits.take(low)?;
    // The encoder's quotients fit; a hostile one must only not overflow.
    Ok((u64::from(quotient) << low) | rest)
}

fn write_differences(differences: &[i64], plan: &Plan, out: &mut BitWriter) {
    let distance = |d: i64| zigzag(d.wrapping_sub(plan.centre));
    let kind = match plan.packing {
        Packing::Constant => 0,
        Packing::Fixed { .. } => 1,
        Packing::Rice { .. } => 2,
        Packing::Sparse { .. } => 3,
    };
    out.put(kind, 2);
    out.put_var(zigzag(plan.centre));
    match plan.packing {
        Packing::Constant => {}
        Packing::Fixed { width } => {
            out.put(u64::from(width), 7);
            for &d in differences {
                out.put(d.wrapping_sub(plan.centre).cast_unsigned(), width);
            }
        }
        Packing::Rice { low } => {
            out.put(u64::from(low), 6);
            for &d in differences {
                put_rice(distance(d), low, out);
            }
        }
        Packing::Sparse { gap_low, low } => {
            let others = || differences.iter().filter(|&&d| d != plan.centre);
            out.put_var(others().count() as u64);
            out.put(u64::from(gap_low), 6);
            out.put(u64::from(low), 6);
            for (gap, &d) in gaps(differences, plan.centre).zip(others()) {
                put_rice(gap, gap_low, out);
                put_rice(distance(d) - 1, low, out);
            }
        }
    }
}

/// Reads a series of `len` integers. Takes memory for `len`, which the caller has bounded.
///
/// # Errors
/// [`BlockError`] for bits that [`encode`] does not write.
pub(super) fn decode(len: usize, bits: &mut BitReader<'_>) -> Result<Vec<i64>, BlockError> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let first = unzigzag(bits.take_var()?);
    if len == 1 {
        return Ok(vec![first]);
    }
    let unit = match bits.take(1)? {
        0 => 1,
        _ => bits.take_var()?.cast_signed(),
    };
    let order = bits.take(2)?;
    let mut series = Vec::with_capacity(len);
    series.push(0);
    match order {
        0 | 1 => {}
        2 if len > 2 => series.push(unzigzag(bits.take_var()?)),
        _ => return Err(BlockError::Damaged("an unknown prediction")),
    }
    read_differences(len, &mut series, bits)?;
    let predicted = if order == 2 { 2 } else { 1 };
    match order {
        0 => {}
        1 => {
            for at in predicted..len {
                series[at] = series[at].wrapping_add(series[at - 1]);
            }
        }
        _ => {
            for at in predicted..len {
                series[at] = series[at].wrapping_add(line(series[at - 2], series[at - 1]));
            }
        }
    }
    for value in &mut series {
        *value = value.wrapping_mul(unit).wrapping_add(first);
    }
    Ok(series)
}

/// Appends differences until there are `len`.
fn read_differences(
    len: usize,
    series: &mut Vec<i64>,
    bits: &mut BitReader<'_>,
) -> Result<(), BlockError> {
    let kind = bits.take(2)?;
    let centre = unzigzag(bits.take_var()?);
    match kind {
        0 => series.resize(len, centre),
        1 => {
            let width = bits.take(7)? as u32;
            if width > 64 {
                return Err(BlockError::Damaged("a field of more than 64 bits"));
            }
            while series.len() < len {
                series.push(bits.take(width)?.cast_signed().wrapping_add(centre));
            }
        }
        2 => {
            let low = bits.take(6)? as u32;
            while series.len() < len {
                series.push(unzigzag(take_rice(low, bits)?).wrapping_add(centre));
            }
        }
        _ => read_sparse(len, series, centre, bits)?,
    }
    Ok(())
}

fn read_sparse(
    len: usize,
    series: &mut Vec<i64>,
    centre: i64,
    bits: &mut BitReader<'_>,
) -> Result<(), BlockError> {
    let start = series.len();
    series.resize(len, centre);
    let mut rest = series[start..].iter_mut();
    let count = bits.take_var()?;
    let gap_low = bits.take(6)? as u32;
    let low = bits.take(6)? as u32;
    for _ in 0..count {
        let gap = take_rice(gap_low, bits)?;
        let distance = take_rice(low, bits)?.wrapping_add(1);
        let other = usize::try_from(gap).ok().and_then(|gap| rest.nth(gap));
        *other.ok_or(BlockError::Damaged("a difference after the end"))? =
            unzigzag(distance).wrapping_add(centre);
    }
    Ok(())
}

/// Maps numbers near zero to small ones: 0, -1, 1, -2 … become 0, 1, 2, 3 …
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The reverse of [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}
