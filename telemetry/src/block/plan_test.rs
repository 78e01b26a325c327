use proptest::prelude::*;

use super::*;

/// The cheapest plan by measuring everything.
fn cheapest_of_all(steps: &[i64]) -> Plan {
    let mut plans = Vec::new();
    for order in 0..=2 {
        if order == 2 && steps.len() < 3 {
            continue;
        }
        let mut all = Vec::new();
        differences(order, steps, &mut all);
        let seed = if order == 2 {
            var_len(zigzag(steps[1]))
        } else {
            0
        };
        let mut add = |packing, centre, bits| {
            let bits = seed + 2 + var_len(zigzag(centre)) + bits;
            plans.push(Plan {
                order,
                centre,
                packing,
                bits,
            });
        };
        let (lowest, highest) = extremes(&all);
        if lowest == highest {
            add(Packing::Constant, lowest, 0);
            continue;
        }
        let width = 64 - highest.wrapping_sub(lowest).cast_unsigned().leading_zeros();
        add(
            Packing::Fixed { width },
            lowest,
            7 + u64::from(width) * all.len() as u64,
        );
        let mut sorted = all.clone();
        sorted.sort_unstable();
        let centre = sorted[sorted.len() / 2];
        let distances: Vec<u64> = all
            .iter()
            .map(|&d| zigzag(d.wrapping_sub(centre)))
            .collect();
        let (low, bits) = best_of_all(&distances);
        add(Packing::Rice { low }, centre, 6 + bits);
        let (mut gaps, mut others) = (Vec::new(), Vec::new());
        split(&distances, &mut gaps, &mut others);
        let ((gap_low, gap_bits), (low, bits)) = (best_of_all(&gaps), best_of_all(&others));
        let count_bits = var_len(others.len() as u64);
        add(
            Packing::Sparse { gap_low, low },
            centre,
            count_bits + 12 + gap_bits + bits,
        );
    }
    plans
        .into_iter()
        .min_by_key(|plan| plan.bits)
        .expect("order 0 suits every series")
}

/// The best of the same candidates, number by number.
fn best_of_all(numbers: &[u64]) -> (u32, u64) {
    let count = numbers.len() as u64;
    if count == 0 {
        return (0, 0);
    }
    let sum: u128 = numbers.iter().map(|&n| u128::from(n)).sum();
    let lengths: u64 = numbers.iter().map(|&n| u64::from(bit_length(n))).sum();
    let by_mean = bit_length((sum / u128::from(count)) as u64);
    let by_length = (lengths / count) as u32;
    (by_length.saturating_sub(2)..=by_length + 1)
        .chain(by_mean.saturating_sub(2)..=by_mean)
        .filter(|&low| low < 64)
        .map(|low| (low, numbers.iter().map(|&n| rice_len(n, low)).sum()))
        .min_by_key(|&(_, bits)| bits)
        .expect("a candidate below 64")
}

fn series() -> impl Strategy<Value = Vec<i64>> {
    let walk = |step: i64| {
        prop::collection::vec(-step..=step, 2..130).prop_map(|steps| {
            let sum = |at: &mut i64, &step: &i64| {
                *at += step;
                Some(*at)
            };
            steps.iter().scan(0, sum).collect::<Vec<i64>>()
        })
    };
    let rare = prop::collection::vec(prop_oneof![9 => Just(0_i64), 1 => -300_i64..300], 2..130);
    prop_oneof![
        prop::collection::vec(any::<i64>(), 2..20),
        prop::collection::vec(0_i64..64, 2..130),
        (0_u32..62).prop_flat_map(move |bits| walk(1 << bits.min(50))),
        rare,
        (any::<i32>(), 2..130_i64)
            .prop_map(|(step, len)| (0..len).map(|i| i * i64::from(step)).collect()),
        (any::<i64>(), prop::collection::vec(-3_i64..3, 2..130)).prop_map(|(far, mut near)| {
            near[1] = far;
            near
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_not_measured_could_not_have_won(steps in series()) {
        prop_assert_eq!(cheapest(&steps), cheapest_of_all(&steps));
    }
}
