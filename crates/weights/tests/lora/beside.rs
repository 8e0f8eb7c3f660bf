//! LoRAs of quantised weights: beside them, and nowhere else.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::linear::{Difference, linear};
use kernels::quant::{Encoding, QuantMatrix, encode};
use weights::lora::{Merged, Stack};
use weights::{Manifest, Matrix, MatrixForm, Resident, TensorSource, WeightSource};

use crate::support::{bits, fit_to, randn};

const NAME: &str = "blocks.1.self_attn.q.weight";
const SHAPE: [usize; 2] = [12, 32];

/// One quantised matrix under every name.
struct Quantised(QuantMatrix);

impl TensorSource for Quantised {
    fn tensor(&self, _: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let floats = Matrix::from(self.0.clone()).to_tensor(dtype.unwrap_or(DType::F32))?;
        floats.reshape(shape)?.to_device(device)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        match dtype {
            None => Ok(self.0.clone().into()),
            dtype => Ok(self.tensor(name, shape, dtype, device)?.into()),
        }
    }

    fn form(&self, _: &str, _: &[usize], _: Option<DType>) -> Result<MatrixForm> {
        Ok(MatrixForm::Made(self.0.encoding()))
    }
}

fn source(loras: Vec<Vec<(&str, Tensor)>>) -> (Merged, QuantMatrix) {
    let values: Vec<f32> = randn(&SHAPE, 1).flatten_all().unwrap().to_vec1().unwrap();
    let matrix = encode(&values, SHAPE, Encoding::Q8_0.into()).unwrap();
    let manifest = Manifest::record(|w| w.matrix((SHAPE[0], SHAPE[1]), NAME)).unwrap();
    let loras = loras.iter().enumerate().map(|(i, lora)| (fit_to(lora, &manifest).unwrap(), 0.5 + i as f64));
    (Merged::new(Arc::new(Quantised(matrix.clone())), Arc::new(Stack::new(loras.collect()))), matrix)
}

fn pair(seed: u64) -> Vec<(&'static str, Tensor)> {
    vec![
        ("blocks.1.self_attn.q.lora_down.weight", randn(&[3, 32], seed).to_dtype(DType::BF16).unwrap()),
        ("blocks.1.self_attn.q.lora_up.weight", randn(&[12, 3], seed + 1)),
        ("blocks.1.self_attn.q.alpha", Tensor::new(1.5f32, &Device::Cpu).unwrap()),
    ]
}

fn blocks() -> Vec<(&'static str, Tensor)> {
    vec![
        ("blocks.1.self_attn.q.lora_down.weight", randn(&[4, 32], 30)),
        ("blocks.1.self_attn.q.lora_up.blocks.0.weight", randn(&[5, 2], 31)),
        ("blocks.1.self_attn.q.lora_up.blocks.1.weight", randn(&[7, 2], 32)),
    ]
}

fn whole() -> Vec<(&'static str, Tensor)> {
    vec![("blocks.1.self_attn.q.diff", randn(&SHAPE, 40))]
}

fn read(source: &Merged) -> Matrix {
    source.matrix(NAME, &SHAPE, None, &Device::Cpu).unwrap()
}

#[test]
fn a_quantised_matrix_keeps_its_bytes_and_gives_what_the_merged_floats_give() {
    let (source, stored) = source(vec![pair(10), blocks(), whole()]);
    let matrix = read(&source);
    assert!(matrix.quantised().unwrap().bytes() == stored.bytes());
    assert_eq!(matrix.differences().len(), 4);
    assert!(matches!(&matrix.differences()[0], Difference::LowRank { down, .. } if down.dtype() == DType::BF16));
    let merged = source.tensor(NAME, &SHAPE, Some(DType::F32), &Device::Cpu).unwrap();
    for rows in [1, 7] {
        let x = randn(&[rows, 32], 50);
        let (beside, inside) = (linear(&x, &matrix, None).unwrap(), linear(&x, &merged.clone().into(), None).unwrap());
        let error = (beside - inside).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 2e-5, "{error}");
    }
    // Asked for as floats, it is the merged tensor.
    let floats = source.matrix(NAME, &SHAPE, Some(DType::BF16), &Device::Cpu).unwrap();
    let wanted = source.tensor(NAME, &SHAPE, Some(DType::BF16), &Device::Cpu).unwrap();
    assert_eq!(bits(floats.float().unwrap()), bits(&wanted));
}

#[test]
fn what_is_held_beside_is_counted() {
    let loras = || vec![pair(10), blocks(), whole()];
    let (source, stored) = source(loras());
    let manifest = Manifest::record(|w| w.matrix((SHAPE[0], SHAPE[1]), NAME)).unwrap();
    let stack = Stack::new(loras().iter().map(|lora| (fit_to(lora, &manifest).unwrap(), 1.0)).collect());
    assert_eq!(read(&source).stored_bytes(), stored.stored_bytes() + stack.beside_bytes(NAME));
    assert_eq!(stack.beside_bytes("another"), 0);
}

#[test]
fn without_loras_the_stored_bytes_are_back() {
    let (with, stored) = source(vec![pair(10)]);
    let (without, _) = source(vec![]);
    assert!(read(&with).quantised().unwrap().bytes() == stored.bytes());
    let matrix = read(&without);
    assert!(matrix.differences().is_empty() && matrix.quantised().unwrap().bytes() == stored.bytes());
    // Nothing is copied on the way.
    let kept = Resident::new(Arc::new(without), Device::Cpu, None);
    let get = || kept.group("blocks.1").unwrap().matrix(&SHAPE, "self_attn.q.weight").unwrap();
    let (first, second) = (get(), get());
    let at = |m: &Matrix| m.quantised().unwrap().bytes().as_ptr();
    assert_eq!(at(&first), at(&second));
    assert_eq!(at(&first), at(&matrix));
}
