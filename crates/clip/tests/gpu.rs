//! The tower with its blocks on a GPU: an emulated one, or a real one with `STEADYDANCE_TEST_GPU=1`.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use clip::{Activation, Config, GROUPS, VisionTower, gpu_activation_bytes, manifest};
use offload::{CudaMemory, Network, Placed, Residence};
use testkit::gpu::{TestGpu, relative_error};
use weights::{RandomWeights, Resident};

fn on_host(config: &Config) -> VisionTower {
    let source = Resident::new(Arc::new(RandomWeights::new(5)), Device::Cpu, Some(DType::F16));
    VisionTower::new(config, Arc::new(source)).unwrap()
}

fn on_gpu(config: &Config, residence: Residence, test: &TestGpu) -> VisionTower {
    let manifest = manifest(config).unwrap();
    let source = Arc::new(RandomWeights::new(5));
    let network = Network { source, manifest: &manifest, groups: GROUPS, dtype: Some(DType::F16) };
    let placed = Placed::new(network, residence, Arc::new(CudaMemory::new(test.gpu.clone()))).unwrap();
    VisionTower::new(config, Arc::new(placed)).unwrap().on_gpu(test.gpu.clone())
}

/// Heads of 80 channels, as in the published tower.
fn config() -> Config {
    Config { image_size: 168, dim: 160, num_heads: 2, num_layers: 3, ..Config::vit_h_14() }
}

fn pixels(config: &Config, batch: usize) -> Tensor {
    let side = config.image_size;
    let values: Vec<f32> = (0..batch * 3 * side * side).map(|i| ((i * 7919 % 1009) as f32 / 504.5) - 1.0).collect();
    Tensor::from_vec(values, (batch, 3, side, side), &Device::Cpu).unwrap()
}

#[test]
fn blocks_on_a_gpu_compute_what_the_host_does() {
    let Some(test) = TestGpu::open() else { return };
    let quick = Config { activation: Activation::QuickGelu, num_heads: 10, ..config() };
    for (config, batch) in [(config(), 1), (quick, 2)] {
        assert!(config.gpu_problem().is_none());
        let pixels = pixels(&config, batch);
        let want = on_host(&config).forward(&pixels).unwrap();
        let got = on_gpu(&config, Residence::WHOLE, &test).forward(&pixels).unwrap();
        assert_eq!(got.dims(), want.dims());
        let error = relative_error(&got, &want).unwrap();
        println!("{:?}: {error:e}", config.activation);
        assert!(error > 0.0 && error < 0.01, "{error:e}");
    }
}

#[test]
fn neither_residence_nor_pictures_beside_it_change_a_bit() {
    let Some(test) = TestGpu::open() else { return };
    let config = config();
    let bits = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let two = pixels(&config, 2);
    let want = bits(on_gpu(&config, Residence::WHOLE, &test).forward(&two).unwrap());
    let by_matrix = Residence { by_matrix: true, ..Residence::STREAMED };
    for residence in [Residence::STREAMED, Residence { ring: 1, ahead: false, ..by_matrix }] {
        let net = on_gpu(&config, residence, &test);
        for picture in 0..2 {
            let got = bits(net.forward(&two.narrow(0, picture, 1).unwrap()).unwrap());
            assert!(got == want[picture * got.len()..][..got.len()], "{residence:?}, picture {picture}");
        }
    }
}

#[test]
fn towers_that_kernels_are_not_for_say_so() {
    assert!(Config::vit_h_14().gpu_problem().is_none());
    let problem = Config::tiny().gpu_problem().unwrap_or_default();
    assert!(problem.contains("heads of 12") && !problem.contains('\n'), "{problem}");
}

#[test]
fn predictions_of_memory_hold_and_are_not_wasteful() {
    for (mlp_ratio, images) in [(4, 1), (2, 2)] {
        // With a pool of its own, whose peak is this pass's.
        let Some(test) = TestGpu::open() else { return };
        let config = Config { num_layers: 2, mlp_ratio, ..config() };
        on_gpu(&config, Residence::WHOLE, &test).forward(&pixels(&config, images)).unwrap();
        let weights = manifest(&config).unwrap();
        let block = weights.tensors().filter(|t| t.name.starts_with("transformer."));
        let block: u64 = block.map(|t| (t.elements() * if t.matrix { 2 } else { 4 }) as u64).sum();
        let measured = test.gpu.pool().counts().peak_bytes - block;
        let predicted = gpu_activation_bytes(&config, images);
        println!("{mlp_ratio} {images}: measured {measured}, predicted {predicted}");
        assert!(predicted >= measured && predicted <= measured + measured / 2 + (1 << 17), "{measured} {predicted}");
    }
}
