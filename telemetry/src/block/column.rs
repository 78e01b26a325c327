//! The values of one metric: mapped to integers in the way that packs best.

use super::BlockError;
use super::bits::{BitReader, BitWriter};
use super::ints;

/// The highest exponent: powers of ten up to 10^22 are exact as `f64`.
const EXPONENT_MAX: usize = 22;

/// Integers up to this magnitude are exact as `f64`, and so is their quotient by an exact power of
/// ten rounded once, as a decimal literal is.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

const POWERS: [f64; EXPONENT_MAX + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

const DECIMAL: u64 = 0;
const SINGLE: u64 = 1;
const DOUBLE: u64 = 2;

/// Writes values; the reader must know how many.
pub(super) fn encode(values: &[f64], out: &mut BitWriter) {
    if values.is_empty() {
        return;
    }
    if let Some(exponent) = decimal_exponent(values) {
        out.put(DECIMAL, 2);
        out.put(exponent as u64, 5);
        encode_decimals(values, exponent, out);
    } else if values.iter().all(|&value| is_single(value)) {
        out.put(SINGLE, 2);
        let keys: Vec<i64> = values
            .iter()
            .map(|&value| i64::from(ordered_32((value as f32).to_bits())))
            .collect();
        ints::encode(&keys, out);
    } else {
        out.put(DOUBLE, 2);
        let keys: Vec<i64> = values.iter().map(|v| ordered_64(v.to_bits())).collect();
        ints::encode(&keys, out);
    }
}

/// Finds the exponent that suits the values best; `None` when too few are decimals.
///
/// Exceptions may be one in eight: each costs some 9 bytes, about what a value of a column of raw
/// doubles costs.
fn decimal_exponent(values: &[f64]) -> Option<usize> {
    let exceptions_max = values.len() / 8;
    let mut exceptions = 0;
    let mut exponent = 0;
    for &value in values {
        if scaled(value, exponent).is_some() {
            continue;
        }
        match (exponent + 1..=EXPONENT_MAX).find(|&e| scaled(value, e).is_some()) {
            Some(e) => exponent = e,
            None => exceptions += 1,
        }
        if exceptions > exceptions_max {
            return None;
        }
    }
    exponent = without_outliers(values, exponent);
    // A higher exponent may have pushed earlier values out of the exact range.
    (exceptions_of(values, exponent) <= exceptions_max).then_some(exponent)
}

/// Lowers the exponent as long as that makes exceptions of few values only.
fn without_outliers(values: &[f64], mut exponent: usize) -> usize {
    let base = exceptions_of(values, exponent);
    for lower in (0..exponent).rev() {
        // An exception costs about 80 bits, a digit 3.3 bits a value.
        let digits = exponent - lower;
        if (exceptions_of(values, lower).saturating_sub(base)) * 24 > values.len() * digits {
            if digits > 3 {
                break;
            }
            continue;
        }
        exponent = lower;
        return without_outliers(values, exponent);
    }
    exponent
}

/// The integer that the value is, times 10^exponent, if that gives the value back bit by bit.
fn scaled(value: f64, exponent: usize) -> Option<i64> {
    let product = value * POWERS[exponent];
    // NaN is in no range.
    if !(-INTEGER_MAX..=INTEGER_MAX).contains(&product) {
        return None;
    }
    let integer = round(product);
    (unscaled(integer as i64, exponent).to_bits() == value.to_bits()).then_some(integer as i64)
}

/// How many of the values are not integers times 10^-exponent.
fn exceptions_of(values: &[f64], exponent: usize) -> usize {
    let power = POWERS[exponent];
    let (mut exceptions, mut large) = (0_u64, 0_u64);
    // Without a branch, so that compilers turn it into vector instructions.
    for &value in values {
        let product = value * power;
        let is_small = product.abs() <= ROUND_MAX;
        let back = ((product + ROUNDER) - ROUNDER) / power;
        exceptions += u64::from(back.to_bits() != value.to_bits());
        large += u64::from(!is_small);
    }
    if large == 0 {
        return exceptions as usize;
    }
    let lost = values.iter().filter(|v| scaled(**v, exponent).is_none());
    lost.count()
}

/// 1.5 * 2^52: sums with it have no binary places, so that adding it rounds, ties to even.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// 2^51: up to it the sum with [`ROUNDER`] stays in the binade where that holds.
const ROUND_MAX: f64 = 2_251_799_813_685_248.0;

/// Rounds to an integer, ties to even; where the processor has no instruction for it, the
/// library's way costs a call.
fn round(product: f64) -> f64 {
    if product.abs() <= ROUND_MAX {
        (product + ROUNDER) - ROUNDER
    } else {
        product.round_ties_even()
    }
}

fn unscaled(integer: i64, exponent: usize) -> f64 {
    integer as f64 / POWERS[exponent]
}

fn encode_decimals(values: &[f64], exponent: usize, out: &mut BitWriter) {
    let mut integers = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    for (at, &value) in values.iter().enumerate() {
        match scaled(value, exponent) {
            Some(integer) => integers.push(integer),
            None => exceptions.push((at, value)),
        }
    }
    out.put(u64::from(!exceptions.is_empty()), 1);
    if !exceptions.is_empty() {
        let width = place_width(values.len());
        out.put(exceptions.len() as u64, width);
        for (at, value) in exceptions {
            out.put(at as u64, width);
            out.put(value.to_bits(), 64);
        }
    }
    ints::encode(&integers, out);
}

/// How many bits a number from 0 to `len` takes.
fn place_width(len: usize) -> u32 {
    usize::BITS - len.leading_zeros()
}

fn is_single(value: f64) -> bool {
    // Casts may change the payload of a NaN.
    !value.is_nan() && f64::from(value as f32).to_bits() == value.to_bits()
}

/// Maps the bits of a float to an integer in the order of the floats, so that near values give
/// near integers.
fn ordered_64(bits: u64) -> i64 {
    let signed = bits.cast_signed();
    signed ^ ((signed >> 63) & i64::MAX)
}

fn ordered_32(bits: u32) -> i32 {
    let signed = bits.cast_signed();
    signed ^ ((signed >> 31) & i32::MAX)
}

/// Reads `len` values. Takes memory for them, which the caller has bounded.
///
/// # Errors
/// [`BlockError`] for bits that [`encode`] does not write.
pub(super) fn decode(len: usize, bits: &mut BitReader<'_>) -> Result<Vec<f64>, BlockError> {
    if len == 0 {
        return Ok(Vec::new());
    }
    match bits.take(2)? {
        DECIMAL => {
            let exponent = bits.take(5)? as usize;
            if exponent > EXPONENT_MAX {
                return Err(BlockError::Damaged("an exponent above 22"));
            }
            decode_decimals(len, exponent, bits)
        }
        SINGLE => {
            let single = |key: i64| {
                let key = i32::try_from(key).map_err(|_| BlockError::Damaged("no 32-bit float"))?;
                let bits = (key ^ ((key >> 31) & i32::MAX)).cast_unsigned();
                Ok(f64::from(f32::from_bits(bits)))
            };
            ints::decode(len, bits)?.into_iter().map(single).collect()
        }
        DOUBLE => {
            let double =
                |key: i64| f64::from_bits((key ^ ((key >> 63) & i64::MAX)).cast_unsigned());
            Ok(ints::decode(len, bits)?.into_iter().map(double).collect())
        }
        _ => Err(BlockError::Damaged("an unknown kind of column")),
    }
}

fn decode_decimals(
    len: usize,
    exponent: usize,
    bits: &mut BitReader<'_>,
) -> Result<Vec<f64>, BlockError> {
    let exceptions = decode_exceptions(len, bits)?;
    let integers = ints::decode(len - exceptions.len(), bits)?;
    if exceptions.is_empty() {
        return Ok(integers
            .into_iter()
            .map(|i| unscaled(i, exponent))
            .collect());
    }
    let mut values = Vec::with_capacity(len);
    let mut integers = integers.into_iter();
    let mut exceptions = exceptions.into_iter().peekable();
    for at in 0..len {
        values.push(match exceptions.next_if(|exception| exception.0 == at) {
            Some((_, value)) => value,
            None => {
                let integer = integers.next().expect("as many integers as other places");
                unscaled(integer, exponent)
            }
        });
    }
    Ok(values)
}

/// Reads the places, strictly ascending and below `len`, and values of the exceptions.
fn decode_exceptions(
    len: usize,
    bits: &mut BitReader<'_>,
) -> Result<Vec<(usize, f64)>, BlockError> {
    if bits.take(1)? == 0 {
        return Ok(Vec::new());
    }
    let width = place_width(len);
    let count = bits.take(width)? as usize;
    let mut exceptions: Vec<(usize, f64)> = Vec::with_capacity(count.min(len));
    for _ in 0..count {
        let at = bits.take(width)? as usize;
        if at >= len || exceptions.last().is_some_and(|last| last.0 >= at) {
            return Err(BlockError::Damaged("exceptions are not ascending"));
        }
        exceptions.push((at, f64::from_bits(bits.take(64)?)));
    }
    Ok(exceptions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>(),
            (any::<i64>(), 0_usize..=EXPONENT_MAX).prop_map(|(n, e)| n as f64 / POWERS[e]),
            (any::<i32>(), 0_usize..5).prop_map(|(n, e)| f64::from(n) / POWERS[e]),
            (-8_i32..8).prop_map(|n| f64::from(n) / 2.0),
            (-4_i64..4).prop_map(|n| ROUND_MAX + n as f64 / 2.0),
        ]
    }

    proptest! {
        #[test]
        fn exceptions_are_the_values_that_cannot_be_scaled(
            values in prop::collection::vec(value(), 0..20), exponent in 0..=EXPONENT_MAX,
        ) {
            let lost = values.iter().filter(|v| scaled(**v, exponent).is_none()).count();
            prop_assert_eq!(exceptions_of(&values, exponent), lost);
        }

        #[test]
        fn rounding_is_to_the_even_of_two_nearest(value in value()) {
            if value.abs() <= INTEGER_MAX {
                prop_assert_eq!(round(value), value.round_ties_even());
            }
        }
    }
}
