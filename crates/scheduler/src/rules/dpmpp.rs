//! DPM-Solver++ 2M with the midpoint rule, and its SDE variant.
//!
//! Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling", arXiv 2211.01095. `m` are x0-predictions.

use super::lambda;

/// Weights of one step: sample, m[0] at the step it starts from, m[0] − m[-1] (one step before), fresh noise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub sample: f64,
    pub current: f64,
    pub slope: f64,
    pub noise: f64,
}

/// From sigmas[i] to sigmas[i + 1], which is above 0 (at the last step the answer is m[0] itself). Order 1 at the
/// first step, 2 after it.
pub(crate) fn rule(sigmas: &[f64], i: usize, stochastic: bool) -> Rule {
    let (start, end) = (sigmas[i], sigmas[i + 1]);
    // e^(−h) as a ratio: 0 where the step starts at sigma 1, without any infinity.
    let decay = (1.0 - start) * end / (start * (1.0 - end));
    let mut rule = if stochastic {
        let fresh = 1.0 - decay * decay;
        Rule { sample: end / start * decay, current: (1.0 - end) * fresh, slope: 0.0, noise: end * fresh.sqrt() }
    } else {
        Rule { sample: end / start, current: (1.0 - end) * (1.0 - decay), slope: 0.0, noise: 0.0 }
    };
    if i > 0 {
        // 1/r0 = h/h_prev; 0 where the step before started at sigma 1, which makes this step one of order 1.
        let h = lambda(end) - lambda(start);
        let h_previous = lambda(start) - lambda(sigmas[i - 1]);
        rule.slope = rule.current * 0.5 * (h / h_previous);
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_straight_line_and_the_variance() {
        let sigmas = [1.0, 0.97, 0.8, 0.4, 0.1, 0.0];
        for i in 0..4 {
            let ode = rule(&sigmas, i, false);
            let reached = ode.sample * (1.0 - sigmas[i]) + ode.current;
            assert!((reached - (1.0 - sigmas[i + 1])).abs() < 1e-14, "ode {i}: {reached}");
            assert_eq!(ode.noise, 0.0);

            let sde = rule(&sigmas, i, true);
            let reached = sde.sample * (1.0 - sigmas[i]) + sde.current;
            assert!((reached - (1.0 - sigmas[i + 1])).abs() < 1e-14, "sde {i}: {reached}");
            let deviation = (sde.sample * sigmas[i]).hypot(sde.noise);
            assert!((deviation - sigmas[i + 1]).abs() < 1e-14, "sde {i}: deviation {deviation}");
        }
    }

    #[test]
    fn a_start_at_sigma_one_makes_two_steps_of_order_one() {
        let sigmas = [1.0, 0.8, 0.5, 0.2, 0.0];
        assert_eq!(rule(&sigmas, 0, false).slope, 0.0);
        assert_eq!(rule(&sigmas, 1, false).slope, 0.0);
        assert!(rule(&sigmas, 2, false).slope > 0.0);
    }
}
