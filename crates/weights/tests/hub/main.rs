//! The cache and the client against a hub on this machine.

mod cache;
mod faults;
mod list;
mod pull;
mod support;
