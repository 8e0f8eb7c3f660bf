//! Weights that follow the plan: what is resident is kept, what is streamed is read when its turn comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Result, Tensor};
use weights::{Matrix, Resident, TensorSource, WeightSource, Weights};

use crate::Placement;

/// What has been read so far.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    groups: AtomicU64,
}

impl Traffic {
    /// Bytes of tensors read, in the form they are held in.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many times a group was asked for.
    pub fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }
}

/// A [`WeightSource`] with a [`Placement`]: the root group is always resident, named groups are resident or read anew
/// each time. What a network computes does not depend on which.
pub struct Placed {
    resident: Resident,
    streamed: Option<Weights>,
    traffic: Arc<Traffic>,
}

impl Placed {
    /// Weights of `source` on `device`, matrices as `matrix_dtype` (or as stored).
    pub fn new(
        source: Arc<dyn TensorSource>,
        placement: Placement,
        device: &Device,
        matrix_dtype: Option<DType>,
    ) -> Self {
        let traffic = Arc::new(Traffic::default());
        let counted: Arc<dyn TensorSource> = Arc::new(Counted { source, traffic: traffic.clone() });
        let streamed =
            (placement == Placement::Streamed).then(|| Weights::new(counted.clone(), device.clone(), matrix_dtype));
        Self { resident: Resident::new(counted, device.clone(), matrix_dtype), streamed, traffic }
    }

    /// What has been read so far.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }
}

impl WeightSource for Placed {
    fn group(&self, group: &str) -> Result<Weights> {
        self.traffic.groups.fetch_add(1, Ordering::Relaxed);
        match &self.streamed {
            Some(streamed) if !group.is_empty() => Ok(streamed.pp(group)),
            _ => self.resident.group(group),
        }
    }
}

struct Counted {
    source: Arc<dyn TensorSource>,
    traffic: Arc<Traffic>,
}

impl TensorSource for Counted {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let tensor = self.source.tensor(name, shape, dtype, device)?;
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.traffic.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(tensor)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        let matrix = self.source.matrix(name, shape, dtype, device)?;
        self.traffic.bytes.fetch_add(matrix.stored_bytes(), Ordering::Relaxed);
        Ok(matrix)
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let rows = self.source.rows(name, shape, ids, dtype, device)?;
        self.traffic.bytes.fetch_add((rows.elem_count() * rows.dtype().size_in_bytes()) as u64, Ordering::Relaxed);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weights::RandomWeights;

    #[test]
    fn streamed_and_resident_weights_are_the_same_and_only_streamed_ones_are_read_again() {
        let make = |placement| Placed::new(Arc::new(RandomWeights::new(3)), placement, &Device::Cpu, None);
        let (resident, streamed) = (make(Placement::Resident), make(Placement::Streamed));
        let read = |p: &Placed| p.group("blocks.0").unwrap().matrix((4, 8), "w.weight").unwrap();
        for _ in 0..3 {
            let same = read(&resident).to_tensor(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(read(&streamed).to_tensor(DType::F32).unwrap().to_vec2::<f32>().unwrap(), same);
        }
        assert_eq!(resident.traffic().bytes(), 4 * 8 * 2);
        assert_eq!(streamed.traffic().bytes(), 3 * 4 * 8 * 2);
    }

    #[test]
    fn of_rows_only_these_are_counted() {
        let placed = Placed::new(Arc::new(RandomWeights::new(3)), Placement::Resident, &Device::Cpu, None);
        let root = placed.group("").unwrap();
        let rows = root.rows((40, 8), "table.weight", &[7, 0, 7]).unwrap();
        assert_eq!(placed.traffic().bytes(), 3 * 8 * 4);
        let table = root.matrix((40, 8), "table.weight").unwrap();
        let same = |t: Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(same(rows.clone()), same(table.select(&[7, 0, 7]).unwrap()));
        // What is kept is not read again.
        assert_eq!(same(root.rows((40, 8), "table.weight", &[7, 0, 7]).unwrap()), same(rows));
        assert_eq!(placed.traffic().bytes(), 3 * 8 * 4 + 40 * 8 * 2);
    }
}
