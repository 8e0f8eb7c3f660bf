//! Sigmas, timesteps, step rules and guidance arithmetic; knows no model.
