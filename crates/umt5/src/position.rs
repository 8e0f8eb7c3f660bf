//! Relative position buckets of T5 (Raffel et al. 2020, §2.1; bidirectional form).

/// Distances from here on share one bucket a side.
const MAX_DISTANCE: usize = 128;

/// The bucket, in `0..num_buckets`, of a key at `relative` = key position − query position.
///
/// Half of the buckets is for keys behind the query. Within a half, the first `e = num_buckets/4` distances have a
/// bucket each; bucket `e + j` begins at distance `e·(max_distance/e)^(j/e)`, and the last one never ends.
///
/// With 32 buckets and distance 128 the boundaries 16, 32 and 64 are exact integers, where a logarithm may fall on
/// either side. So the comparison is made in whole numbers: `a ≥ e·(m/e)^(j/e)` is `aᵉ·eʲ ≥ eᵉ·mʲ`.
pub fn relative_bucket(relative: i64, num_buckets: usize, max_distance: usize) -> usize {
    let half = num_buckets / 2;
    let side = if relative > 0 { half } else { 0 };
    let distance = usize::try_from(relative.unsigned_abs()).unwrap_or(usize::MAX);
    let exact = half / 2;
    if distance < exact {
        return side + distance;
    }
    let last = half.saturating_sub(1);
    if exact == 0 {
        return side + last;
    }
    if distance >= max_distance {
        return side + last;
    }
    let steps = half - exact;
    let reached = (1..steps).take_while(|j| reaches(distance, exact, max_distance, *j, steps)).count();
    side + (exact + reached).min(last)
}

/// Whether `distance ≥ exact·(max/exact)^(j/steps)`, without rounding where whole numbers can say it.
fn reaches(distance: usize, exact: usize, max: usize, j: usize, steps: usize) -> bool {
    let power = |base: usize, exponent: usize| (base as u128).checked_pow(u32::try_from(exponent).ok()?);
    let sides = || Some((power(distance, steps)?, power(exact, steps - j)?.checked_mul(power(max, j)?)?));
    match sides() {
        Some((left, right)) => left >= right,
        None => {
            let ratio = (distance as f64 / exact as f64).ln() / (max as f64 / exact as f64).ln();
            ratio * steps as f64 >= j as f64
        }
    }
}

/// Bucket of every distance of a key from a query of `tokens` tokens, −(n−1) ..= n−1.
pub(crate) fn buckets(tokens: usize, num_buckets: usize) -> Vec<u32> {
    let n = tokens as i64;
    (1 - n..n).map(|r| relative_bucket(r, num_buckets, MAX_DISTANCE) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First distance of buckets 8..=15 at 32 buckets and distance 128.
    const STARTS: [usize; 8] = [8, 12, 16, 23, 32, 46, 64, 91];

    #[test]
    fn the_table_of_umt5() {
        for distance in 0..2000usize {
            let want = match STARTS.iter().rposition(|s| *s <= distance) {
                Some(i) => 8 + i,
                None => distance,
            };
            let got = relative_bucket(-(distance as i64), 32, 128);
            assert_eq!(got, want, "distance {distance}");
            if distance > 0 {
                assert_eq!(relative_bucket(distance as i64, 32, 128), 16 + want, "distance +{distance}");
            }
        }
        assert_eq!(relative_bucket(i64::MIN, 32, 128), 15);
    }

    #[test]
    fn the_formula_holds_for_other_sizes() {
        for (buckets, max) in [(8, 20), (16, 64), (32, 100), (64, 256), (128, 1000)] {
            let (half, exact) = (buckets / 2, buckets / 4);
            for distance in exact..2 * max {
                let log = (distance as f64 / exact as f64).ln() / (max as f64 / exact as f64).ln();
                let value = exact as f64 + log * (half - exact) as f64;
                if (value - value.round()).abs() < 1e-9 {
                    continue; // the logarithm cannot decide here
                }
                let want = (value.floor() as usize).min(half - 1);
                let got = relative_bucket(-(distance as i64), buckets, max);
                assert_eq!(got, want, "{buckets} buckets, max {max}, distance {distance}");
            }
        }
    }

    #[test]
    fn degenerate_sizes_stay_in_range() {
        for buckets in 1..8 {
            for r in -300..300 {
                assert!(relative_bucket(r, buckets, 128) < buckets.max(1), "{buckets} {r}");
            }
        }
    }
}
