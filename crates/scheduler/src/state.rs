//! What a run must write down to go on later exactly where it stood.

use candle_core::{DType, Device, Tensor};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Schedule, StepError};

/// Names of the x0-predictions, newest first.
pub(crate) const X0_PREDICTION: [&str; 2] = ["x0_prediction.0", "x0_prediction.1"];

/// Name of the corrected sample that UniPC's next corrector starts from.
pub(crate) const LAST_SAMPLE: &str = "last_sample";

/// Sigmas of a schedule built twice may differ in the last bits between platforms, by far less than this.
const SAME_SIGMA: f64 = 1e-9;

/// A sampler between two steps. The latents of that moment belong to the caller and are written beside it.
///
/// serde writes the whole as one value, tensors as their little-endian bytes. Where that is too large (JSON), write
/// [`Self::header`] with serde and [`Self::tensors`] as a safetensors file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SamplerState {
    /// Settings and position.
    pub header: StateHeader,
    /// What the sampler remembers: `x0_prediction.0` (newest), `x0_prediction.1`, `last_sample`, those that the sampler
    /// has; shape and dtype of the latents, on the host.
    pub tensors: Vec<NamedTensor>,
}

/// The part of a [`SamplerState`] that is not tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateHeader {
    /// The schedule of the run.
    pub schedule: Schedule,
    /// The seed of the run's noise.
    pub seed: u64,
    /// The step that is due, from 0; the number of steps when the run is over.
    pub next_step: usize,
}

/// A tensor and its name; serde writes `{name, dtype, shape, data}`.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// The name.
    pub name: String,
    /// Any shape, f32 or f64.
    pub tensor: Tensor,
}

/// The written form of a [`NamedTensor`]: `data` are its values, row-major, little-endian.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTensor {
    name: String,
    dtype: WrittenDType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenDType {
    F32,
    F64,
}

impl Serialize for NamedTensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flat = self.tensor.flatten_all().map_err(S::Error::custom)?;
        let (dtype, data) = match flat.dtype() {
            DType::F32 => {
                let values = flat.to_vec1::<f32>().map_err(S::Error::custom)?;
                (WrittenDType::F32, values.into_iter().flat_map(f32::to_le_bytes).collect())
            }
            DType::F64 => {
                let values = flat.to_vec1::<f64>().map_err(S::Error::custom)?;
                (WrittenDType::F64, values.into_iter().flat_map(f64::to_le_bytes).collect())
            }
            found => {
                return Err(S::Error::custom(StepError::DType { name: self.name.clone(), found }));
            }
        };
        WrittenTensor { name: self.name.clone(), dtype, shape: self.tensor.dims().to_vec(), data }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NamedTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WrittenTensor { name, dtype, shape, data } = WrittenTensor::deserialize(deserializer)?;
        let size = match dtype {
            WrittenDType::F32 => 4,
            WrittenDType::F64 => 8,
        };
        let expected = shape.iter().try_fold(size, |bytes: usize, dim| bytes.checked_mul(*dim));
        if expected != Some(data.len()) {
            return Err(D::Error::custom(format!(
                "tensor {name} has {} bytes of data; expected what its shape {shape:?} takes: the file is damaged",
                data.len()
            )));
        }
        let tensor = match dtype {
            WrittenDType::F32 => {
                let values: Vec<f32> = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            WrittenDType::F64 => {
                let values: Vec<f64> = data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
        };
        Ok(Self { name, tensor: tensor.map_err(D::Error::custom)? })
    }
}

impl SamplerState {
    /// Refuses a state of another schedule, naming the first difference.
    pub(crate) fn check_schedule(&self, schedule: &Schedule) -> Result<(), StepError> {
        let (ours, theirs) = (schedule, &self.header.schedule);
        let refuse = |what: String| Err(StepError::OtherSchedule { what });
        if ours.sampler() != theirs.sampler() {
            return refuse(format!("the sampler was {}, now it is {}", theirs.sampler(), ours.sampler()));
        }
        if ours.num_steps() != theirs.num_steps() {
            return refuse(format!("it had {} steps, now there are {}", theirs.num_steps(), ours.num_steps()));
        }
        for (i, (new, old)) in ours.sigmas().iter().zip(theirs.sigmas()).enumerate() {
            if (new - old).abs() > SAME_SIGMA {
                return refuse(format!("sigma {i} was {old}, now it is {new}"));
            }
        }
        for (i, (new, old)) in ours.timesteps().iter().zip(theirs.timesteps()).enumerate() {
            // Timesteps are sigmas times 1000.
            if (new - old).abs() > 1000.0 * SAME_SIGMA {
                return refuse(format!("timestep {i} was {old}, now it is {new}"));
            }
        }
        if self.header.next_step > theirs.num_steps() {
            let (next, steps) = (self.header.next_step, theirs.num_steps());
            return refuse(format!("it stands before step {next} of {steps}"));
        }
        Ok(())
    }

    /// The tensors of exactly these names, in this order; all of one shape, f32 or f64.
    pub(crate) fn take_tensors(&self, expected: &[&'static str]) -> Result<Vec<Tensor>, StepError> {
        let by_name = |name: &&str| self.tensors.iter().find(|named| named.name == **name);
        let found: Vec<&NamedTensor> = expected.iter().filter_map(by_name).collect();
        if found.len() != expected.len() || self.tensors.len() != expected.len() {
            return Err(StepError::StateTensors {
                sampler: self.header.schedule.sampler(),
                step: self.header.next_step,
                found: self.tensors.iter().map(|named| named.name.clone()).collect(),
                expected: expected.to_vec(),
            });
        }
        let mut tensors: Vec<Tensor> = Vec::with_capacity(found.len());
        for NamedTensor { name, tensor } in found {
            if !matches!(tensor.dtype(), DType::F32 | DType::F64) {
                return Err(StepError::DType { name: name.clone(), found: tensor.dtype() });
            }
            if let Some(first) = tensors.first().filter(|first| first.dims() != tensor.dims()) {
                let (found, expected) = (tensor.dims().to_vec(), first.dims().to_vec());
                return Err(StepError::Shape { name: name.clone(), found, expected });
            }
            tensors.push(tensor.clone());
        }
        Ok(tensors)
    }
}
