//! The program from the outside: the real binary, its exit codes, and what it says where.

mod bench;
mod cancel;
mod config;
mod convert;
mod directions;
mod doctor;
mod eval;
mod gpu;
mod gpu_bench;
mod hostile;
mod lora;
mod models;
mod own_models;
mod plan;
mod pose;
mod pose_networks;
mod run;
mod support;
mod usage;
