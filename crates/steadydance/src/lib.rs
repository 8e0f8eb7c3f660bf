//! steadydance
