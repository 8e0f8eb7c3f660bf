//! What was measured, as a value that can be written, read and compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use kernels::peak::Peak;
use media::MediaError;
use media::output::PendingFile;
use serde::{Deserialize, Serialize};

use crate::gpu::{GpuCase, GpuNote};
use crate::{Environment, Statistics};

/// What [`Report::format`] says.
const FORMAT: &str = "steadydance-bench-report";
/// Of the format.
const VERSION: u32 = 1;

/// A report of `steadydance bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `steadydance-bench-report`.
    pub format: String,
    /// Of the format, 1.
    pub version: u32,
    /// Where it was measured.
    pub environment: Environment,
    /// The GPU that cases were measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuNote>,
    /// Case by case.
    pub cases: Vec<Measured>,
}

/// What the machine can do at most: see [`Peak`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PeakRates {
    /// 10⁹ operations a second in f32.
    pub f32_gflops: f64,
    /// In bf16, where there are instructions.
    pub bf16_gflops: Option<f64>,
    /// In int8, where there are instructions.
    pub int8_gops: Option<f64>,
    /// 10⁹ bytes a second that are read.
    pub read_gb_s: f64,
    /// 10⁹ bytes a second that are copied.
    pub copy_gb_s: f64,
}

impl PeakRates {
    pub(crate) fn of(peak: Peak) -> Self {
        let Peak { f32_gflops, bf16_gflops, int8_gops, read_gb_s, copy_gb_s, .. } = peak;
        Self { f32_gflops, bf16_gflops, int8_gops, read_gb_s, copy_gb_s }
    }
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The case's name.
    pub name: String,
    /// Of its runs.
    pub time: Statistics,
    /// Operations of one run, a multiplication and an addition being two; 0 where that says nothing.
    pub flop: f64,
    /// 10⁹ operations a second at the median.
    pub gflops: Option<f64>,
    /// Of what the machine can do in these numbers at most, 0 to 1.
    pub of_peak: Option<f64>,
    /// In which numbers that is.
    pub peak_in: Option<String>,
    /// What the processor could do just before the case, if that was measured on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<PeakRates>,
    /// Bytes that one run reads from a file.
    pub bytes: Option<u64>,
    /// Of a network of which a part was computed: the median for all of it, in seconds.
    pub whole_seconds: Option<f64>,
    /// The most memory that the process had during the case, mapped files apart, where the system tells.
    pub peak_bytes: Option<u64>,
    /// More of a case on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuCase>,
}

/// A case in two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Median seconds then.
    pub before: f64,
    /// Median seconds now.
    pub now: f64,
    /// Seconds then for a second now: above 1 it is faster now.
    pub speedup: f64,
    /// Whether the runs of then and now do not overlap, so that it is not only noise.
    pub is_clear: bool,
}

/// A file that is no report.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}; expected a report that `steadydance bench --json FILE` wrote", path.display())]
#[non_exhaustive]
pub struct ReportError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl Report {
    /// With these cases, measured here.
    pub fn new(environment: Environment, cases: Vec<Measured>) -> Self {
        Self { format: FORMAT.to_owned(), version: VERSION, environment, gpu: None, cases }
    }

    /// Reads a report.
    ///
    /// # Errors
    /// The file cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let wrong = |problem: String| ReportError { path: path.to_owned(), problem };
        let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let report: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("no such JSON ({e})")))?;
        if report.format != FORMAT || report.version != VERSION {
            return Err(wrong(format!("format {:?} version {}", report.format, report.version)));
        }
        Ok(report)
    }

    /// The cases that both have, in the order of this one.
    pub fn since(&self, before: &Self) -> Vec<Change> {
        let then: BTreeMap<_, _> = before.cases.iter().map(|c| (c.name.as_str(), &c.time)).collect();
        let change = |now: &Measured| {
            let then = then.get(now.name.as_str())?;
            let most = |s: &Statistics| s.seconds.iter().copied().fold(0.0, f64::max);
            Some(Change {
                name: now.name.clone(),
                before: then.median,
                now: now.time.median,
                speedup: then.median / now.time.median,
                is_clear: most(&now.time) < then.least || most(then) < now.time.least,
            })
        };
        self.cases.iter().filter_map(change).collect()
    }
}

/// A report's file, which appears when it is complete.
pub struct ReportFile {
    pending: PendingFile,
    file: File,
    path: PathBuf,
}

impl ReportFile {
    /// Finds out whether it can be written, before there is anything to write.
    ///
    /// # Errors
    /// It cannot.
    pub fn create(path: &Path) -> Result<Self, MediaError> {
        let (pending, file) = PendingFile::create(path)?;
        Ok(Self { pending, file, path: path.to_owned() })
    }

    /// Writes it, in the place of what was there.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(self, report: &impl Serialize) -> Result<(), MediaError> {
        let text = serde_json::to_string_pretty(report).map_err(|e| MediaError::write(&self.path, e))?;
        self.write_text(&format!("{text}\n"))
    }

    /// Writes text instead.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_text(mut self, text: &str) -> Result<(), MediaError> {
        self.file.write_all(text.as_bytes()).map_err(|e| MediaError::write(&self.path, e))?;
        drop(self.file);
        self.pending.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, seconds: &[f64]) -> Report {
        let peak = PeakRates { f32_gflops: 1.0, bf16_gflops: None, int8_gops: None, read_gb_s: 1.0, copy_gb_s: 1.0 };
        let case = Measured {
            name: name.to_owned(),
            time: Statistics::of(seconds.to_vec()).unwrap(),
            flop: 0.0,
            gflops: None,
            of_peak: None,
            peak_in: None,
            peak: Some(peak),
            gpu: None,
            bytes: None,
            whole_seconds: None,
            peak_bytes: None,
        };
        Report::new(Environment::here(), vec![case])
    }

    #[test]
    fn reports_are_compared_by_name() {
        let now = report("a", &[1.0, 1.1, 1.2]);
        let changes = now.since(&report("a", &[2.2, 2.3, 2.1]));
        assert_eq!((changes[0].speedup, changes[0].is_clear), (2.0, true));
        assert!(!now.since(&report("a", &[1.15, 3.0]))[0].is_clear);
        assert!(now.since(&report("b", &[1.0])).is_empty());
    }

    #[test]
    fn what_is_written_is_read_and_other_files_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let report = report("a", &[1.0]);
        ReportFile::create(&path).unwrap().write(&report).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        for other in ["", "{}", "[1, 2", &serde_json::to_string(&Report { version: 9, ..report }).unwrap()] {
            std::fs::write(&path, other).unwrap();
            let text = Report::read(&path).unwrap_err().to_string();
            assert!(text.contains("expected a report") && !text.contains('\n'), "{text}");
        }
        assert!(Report::read(folder.path()).is_err());
    }
}
