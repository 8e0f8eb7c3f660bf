//! FlowUniPC of order 2 with B2(h) = e^h − 1 and x0-prediction, as Wan 2.1 uses it.
//!
//! Zhao et al., "UniPC: A Unified Predictor-Corrector Framework", arXiv 2302.04867, solved for order 2 by hand.
//! Each rule gives the next sample as a weighted sum. `m` are x0-predictions: `m[0]` at the step the rule starts from,
//! `m[-1]` one step before, `m[+1]` (corrector only) at the step it arrives at. The others enter as differences from
//! `m[0]`: after a short step before a long one their weights are large, and cancel against nothing in this form.

use super::lambda;

/// Weights of a predictor: sample, m[0], m[-1] − m[0].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Predictor {
    pub sample: f64,
    pub current: f64,
    pub previous: f64,
}

/// Weights of a corrector: the sample that the predictor started from, m[0], m[-1] − m[0], m[+1] − m[0].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Corrector {
    pub sample: f64,
    pub current: f64,
    pub previous: f64,
    pub next: f64,
}

/// Order of the predictor of step `i` of `n`: 1 at both ends, 2 between.
fn order(i: usize, n: usize) -> usize {
    2.min(n - i).min(i + 1)
}

/// From sigmas[i] to sigmas[i + 1], which is above 0 (at the last step the answer is m[0] itself).
pub(crate) fn predictor(sigmas: &[f64], i: usize) -> Predictor {
    let n = sigmas.len() - 1;
    let (start, end) = (sigmas[i], sigmas[i + 1]);
    let h = lambda(end) - lambda(start);
    let scale = (1.0 - end) * (-h).exp_m1();
    let previous = if order(i, n) == 2 {
        let r = (lambda(sigmas[i - 1]) - lambda(start)) / h;
        -scale * 0.5 / r
    } else {
        0.0
    };
    Predictor { sample: end / start, current: -scale, previous }
}

/// The sample at sigmas[i], i ≥ 1, again from sigmas[i − 1], now that m at sigmas[i] is known; of the order of the
/// predictor that led there.
pub(crate) fn corrector(sigmas: &[f64], i: usize) -> Corrector {
    let n = sigmas.len() - 1;
    let (start, end) = (sigmas[i - 1], sigmas[i]);
    let h = lambda(end) - lambda(start);
    let phi = (-h).exp_m1();
    let scale = (1.0 - end) * phi;
    let (rho_previous, rho_next) = if order(i - 1, n) == 2 {
        let r = (lambda(sigmas[i - 2]) - lambda(start)) / h;
        let k1 = phi / -h - 1.0;
        let k2 = k1 / -h - 0.5;
        let (b1, b2) = (k1 / phi, 2.0 * k2 / phi);
        let rho = (b1 - b2) / (1.0 - r);
        (rho / r, b1 - rho)
    } else {
        (0.0, 0.5)
    };
    Corrector { sample: end / start, current: -scale, previous: -scale * rho_previous, next: -scale * rho_next }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample on the straight line from x0 = 1 to noise = 0 has the value 1 − sigma and x0-prediction 1 everywhere,
    /// so every rule must map 1 − sigma to 1 − next sigma.
    #[test]
    fn weights_keep_the_straight_line() {
        let sigmas = [1.0, 0.97, 0.8, 0.4, 0.1, 0.0];
        for i in 0..4 {
            let p = predictor(&sigmas, i);
            let reached = p.sample * (1.0 - sigmas[i]) + p.current;
            assert!((reached - (1.0 - sigmas[i + 1])).abs() < 1e-14, "predictor {i}: {reached}");
        }
        for i in 1..5 {
            let c = corrector(&sigmas, i);
            let reached = c.sample * (1.0 - sigmas[i - 1]) + c.current;
            assert!((reached - (1.0 - sigmas[i])).abs() < 1e-14, "corrector {i}: {reached}");
        }
    }

    #[test]
    fn orders() {
        assert_eq!((0..5).map(|i| order(i, 5)).collect::<Vec<_>>(), [1, 2, 2, 2, 1]);
        assert_eq!(order(0, 1), 1);
        assert_eq!((0..2).map(|i| order(i, 2)).collect::<Vec<_>>(), [1, 1]);
    }
}
