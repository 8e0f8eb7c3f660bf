//! The step rules as numbers: what each tensor is multiplied with at step `i`. All in f64, on the host; no tensor here.

pub(crate) mod dpmpp;
pub(crate) mod unipc;

/// Half the log of the signal to noise ratio at `sigma`: ln((1 − sigma)/sigma); −∞ at 1, +∞ at 0.
fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}
