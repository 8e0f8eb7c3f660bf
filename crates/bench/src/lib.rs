//! How fast the engine is on this machine: named [cases](Case) with random weights that are made on the spot, so that anybody can
//! run them, measured as [rates](Measured) of what the machine can do at most, and [reports](Report) that can be compared.
//!
//! Times are those of the shared, noisy machine that they are taken on: every case is run several times after a first run that
//! does not count, its median is what is reported, and the machine's peak is measured beside each case.

mod case;
mod environment;
mod gpu;
mod numerics;
mod report;
mod run;
mod statistics;
mod weights;

pub use case::{Case, Forward, Model, OnGpu, UnknownModel, What, cases, gpu_cases};
pub use environment::Environment;
pub use gpu::{GpuCase, GpuNote, GpuPeaks, KernelNote, OpenGpu};
pub use numerics::{
    LIMITS, Limit, Numeric, NumericsModel, NumericsOptions, NumericsReport, NumericsRow, numerics, numerics_of,
};
pub use report::{Change, Measured, PeakRates, Report, ReportError, ReportFile};
pub use run::{BenchError, Options, run};
pub use statistics::Statistics;
