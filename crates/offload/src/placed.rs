//! Weights that follow the plan: a network asks for its blocks, and gets them from wherever they are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use kernels::cuda::ops::channels_last;
use kernels::cuda::{Gpu, GpuDtype, GpuMatrix, GpuTensor};
use kernels::linear::LaterMatrix;
use weights::{Manifest, Matrix, MatrixForm, Resident, TensorSource, TensorSpec, WeightSource, Weights};

use crate::device::{Charge, DeviceMemory, Use};
use crate::slab::Slab;
use crate::store::{Moving, Store, Unit};
use crate::traffic::Traffic;
use crate::{PhasePlan, Piece, Placement, Tier};

/// A network's weights.
pub struct Network<'a> {
    /// Where they come from.
    pub source: Arc<dyn TensorSource>,
    /// Names and shapes of all of them.
    pub manifest: &'a Manifest,
    /// What its repeated parts are called, in the order of their use: `["blocks"]` for `blocks.0`, `blocks.1`, ….
    pub groups: &'a [&'a str],
    /// What matrices are converted to; `None` keeps them as stored.
    pub dtype: Option<DType>,
}

/// Where the blocks of a network are while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residence {
    /// How many blocks stay in the device's memory; more than there are is all.
    pub resident: usize,
    /// Staging buffers that the others take turns in, 2 or 3; 1 computes and reads in turn.
    pub ring: usize,
    /// Blocks that do not stay are kept in pinned host memory as far as this reaches, in bytes.
    pub pinned_bytes: u64,
    /// Whether blocks are brought while those before them are computed with.
    pub ahead: bool,
    /// Whether what does not stay is moved matrix by matrix, for the least memory.
    pub by_matrix: bool,
}

impl Residence {
    /// Everything stays.
    pub const WHOLE: Self = Self { resident: usize::MAX, ring: 2, pinned_bytes: 0, ahead: true, by_matrix: false };
    /// Nothing stays: the block at work, and the next one while it is read.
    pub const STREAMED: Self = Self { resident: 0, ..Self::WHOLE };

    /// What a plan says of a phase.
    pub fn of(plan: &PhasePlan) -> Self {
        let Placement { resident, ring, piece, tier, .. } = plan.placement;
        if plan.placement.is_resident() {
            return Self::WHOLE;
        }
        Self {
            resident,
            ring,
            pinned_bytes: if tier == Tier::Disk { 0 } else { u64::MAX },
            ahead: ring > 1,
            by_matrix: piece == Piece::Matrix,
        }
    }
}

/// A [`WeightSource`] with a [`Residence`]. What a network computes does not depend on which.
pub struct Placed {
    root: Resident,
    store: Arc<Store>,
    by_matrix: bool,
    device: Device,
    dtype: Option<DType>,
    traffic: Arc<Traffic>,
    gpu: Option<Gpu>,
}

impl Placed {
    /// Weights in `memory`. Nothing is read before it is asked for.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or a thread cannot be started.
    pub fn new(network: Network, residence: Residence, memory: Arc<dyn DeviceMemory>) -> Result<Self> {
        Self::with_traffic(network, residence, memory, Arc::new(Traffic::default()))
    }

    /// As [`new`](Self::new), counting in `traffic`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_traffic(
        network: Network,
        residence: Residence,
        memory: Arc<dyn DeviceMemory>,
        traffic: Arc<Traffic>,
    ) -> Result<Self> {
        let Network { source, manifest, groups, dtype } = network;
        let groups = in_order(manifest, groups);
        let stays = |i| Placement::stays(i, residence.resident, groups.len());
        let mut units = Vec::new();
        for (i, (name, tensors)) in groups.iter().enumerate() {
            if stays(i) || !residence.by_matrix {
                units.push(Unit { name: name.clone(), tensors: tensors.clone(), stays: stays(i) });
                continue;
            }
            let (matrices, rest): (Vec<_>, Vec<_>) = tensors.iter().cloned().partition(|t| t.matrix);
            units.push(Unit { name: name.clone(), tensors: rest, stays: true });
            units.extend(matrices.into_iter().map(|t| Unit { name: t.name.clone(), tensors: vec![t], stays: false }));
        }
        let Residence { ring, pinned_bytes, ahead, by_matrix, .. } = residence;
        let moving = Moving { ring, pinned_bytes, ahead, dtype };
        let charged = Charged {
            source: source.clone(),
            memory: memory.clone(),
            traffic: traffic.clone(),
            held: Mutex::default(),
        };
        let gpu = memory.gpu().cloned();
        let root = Resident::new(Arc::new(charged), Device::Cpu, dtype);
        let store = Arc::new(Store::new(source, units, memory, moving, traffic.clone())?);
        Ok(Self { root, store, by_matrix, device: Device::Cpu, dtype, traffic, gpu })
    }

    /// The GPU that the weights are brought to.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// What has been read so far.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Bytes of blocks in the device's memory when all that stay, and all staging buffers, are there.
    pub fn device_bytes(&self) -> u64 {
        self.store.device_bytes()
    }
}

/// The groups `prefix.0`, `prefix.1`, … with their tensors, in the order of their numbers.
fn in_order(manifest: &Manifest, prefixes: &[&str]) -> Vec<(String, Vec<TensorSpec>)> {
    let mut groups: BTreeMap<(usize, usize), Vec<TensorSpec>> = BTreeMap::new();
    for spec in manifest.tensors() {
        let found = prefixes.iter().enumerate().find_map(|(at, prefix)| {
            let rest = spec.name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((at, rest.split_once('.')?.0.parse().ok()?))
        });
        if let Some(group) = found {
            groups.entry(group).or_default().push(spec.clone());
        }
    }
    groups.into_iter().map(|((at, number), tensors)| (format!("{}.{number}", prefixes[at]), tensors)).collect()
}

impl WeightSource for Placed {
    fn group(&self, group: &str) -> Result<Weights> {
        if !self.store.has(group) {
            return self.root.group(group);
        }
        let slab = self.store.get(group)?;
        let source: Arc<dyn TensorSource> = match self.by_matrix {
            true => Arc::new(MatrixByMatrix { slab, store: self.store.clone() }),
            false => slab,
        };
        Ok(Weights::new(source, self.device.clone(), self.dtype).pp(group))
    }
}

/// A block whose matrices come one by one.
struct MatrixByMatrix {
    slab: Arc<Slab>,
    store: Arc<Store>,
}

impl TensorSource for MatrixByMatrix {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        match self.slab.has(name) {
            true => self.slab.tensor(name, shape, dtype, device),
            false => self.store.get(name)?.tensor(name, shape, dtype, device),
        }
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        if self.slab.has(name) {
            return self.slab.matrix(name, shape, dtype, device);
        }
        let &[rows, columns] = shape else { return Ok(self.tensor(name, shape, dtype, device)?.into()) };
        Ok(Matrix::later(Arc::new(Later { store: self.store.clone(), name: name.to_owned(), shape: [rows, columns] })))
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        match self.slab.has(name) {
            true => self.slab.form(name, shape, dtype),
            false => self.store.get(name)?.form(name, shape, dtype),
        }
    }

    fn gpu_tensor(&self, name: &str, shape: &[usize]) -> Result<GpuTensor> {
        match self.slab.has(name) {
            true => self.slab.gpu_tensor(name, shape),
            false => self.store.get(name)?.gpu_tensor(name, shape),
        }
    }

    fn gpu_matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<GpuMatrix> {
        match self.slab.has(name) {
            true => self.slab.gpu_matrix(name, shape, dtype),
            false => self.store.get(name)?.gpu_matrix(name, shape, dtype),
        }
    }
}

struct Later {
    store: Arc<Store>,
    name: String,
    shape: [usize; 2],
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl LaterMatrix for Later {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn bytes(&self) -> u64 {
        self.store.bytes_of(&self.name)
    }

    fn load(&self) -> Result<Matrix> {
        self.store.get(&self.name)?.matrix(&self.name, &self.shape, None, &Device::Cpu)
    }
}

/// Counts what is read, as memory of the device for as long as it is kept.
struct Charged {
    source: Arc<dyn TensorSource>,
    memory: Arc<dyn DeviceMemory>,
    traffic: Arc<Traffic>,
    held: Mutex<Vec<Charge>>,
}

impl Charged {
    fn count(&self, bytes: u64) -> Result<()> {
        let charge = self.memory.reserve(bytes, Use::Weights).map_err(|e| e.into_candle())?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(charge);
        self.traffic.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl TensorSource for Charged {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let tensor = self.source.tensor(name, shape, dtype, device)?;
        self.count((tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64)?;
        Ok(tensor)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        let matrix = self.source.matrix(name, shape, dtype, device)?;
        self.count(matrix.stored_bytes())?;
        Ok(matrix)
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let rows = self.source.rows(name, shape, ids, dtype, device)?;
        let bytes = (rows.elem_count() * rows.dtype().size_in_bytes()) as u64;
        self.traffic.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(rows)
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        self.source.form(name, shape, dtype)
    }

    fn gpu_tensor(&self, name: &str, shape: &[usize]) -> Result<GpuTensor> {
        let Some(gpu) = self.memory.gpu() else {
            candle_core::bail!("tensor {name} is in the host's memory, and a GPU asks for it");
        };
        let tensor = self.source.tensor(name, shape, Some(DType::F32), &Device::Cpu)?;
        self.count((4 * tensor.elem_count()) as u64)?;
        Ok(GpuTensor::upload(gpu, &tensor, GpuDtype::F32)?)
    }

    fn gpu_matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<GpuMatrix> {
        let Some(gpu) = self.memory.gpu() else {
            candle_core::bail!("matrix {name} is in the host's memory, and a GPU asks for it");
        };
        let matrix = self.source.matrix(name, shape, dtype, &Device::Cpu)?;
        self.count(matrix.stored_bytes())?;
        Ok(GpuMatrix::upload(gpu, &matrix)?)
    }

    fn gpu_filter(&self, name: &str, shape: &[usize]) -> Result<GpuTensor> {
        let Some(gpu) = self.memory.gpu() else {
            candle_core::bail!("tensor {name} is in the host's memory, and a GPU asks for it");
        };
        let tensor = self.source.tensor(name, shape, Some(DType::F32), &Device::Cpu)?;
        let filter = channels_last(gpu, &GpuTensor::upload(gpu, &tensor, GpuDtype::F32)?)?;
        self.count(filter.bytes() as u64)?;
        Ok(filter)
    }
}
