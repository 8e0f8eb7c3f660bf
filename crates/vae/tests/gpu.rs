//! The VAE on a GPU: an emulated one, or a real one with `STEADYDANCE_TEST_GPU=1`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use kernels::cuda::{Code, Driver, Gpu, GpuOptions};
use libloading::Library;
use offload::{CudaMemory, Network, Placed, Residence};
use testkit::video::{psnr, smooth};
use vae::{Config, Decoder, Encoder, Tile, Vae, VaeError, gpu_decode_bytes, gpu_encode_bytes, manifest};
use weights::{Matrix, RandomWeights, TensorSource, WeightSource, Weights};

/// The emulated GPU's settings are of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `None` where there is none, not even an emulated one. That one does nothing before it is waited for, so that whatever is not
/// waited for shows.
fn gpu() -> Option<(Gpu, MutexGuard<'static, ()>)> {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let options = GpuOptions { budget_bytes: Some(1 << 30), ..GpuOptions::default() };
    if std::env::var("STEADYDANCE_TEST_GPU").is_ok_and(|v| v == "1") {
        return Some((Gpu::open(&options).unwrap(), alone));
    }
    let path = emulated_gpu::library()?;
    let options = GpuOptions { code: Code::Images(&[b"emulated"]), ..options };
    let gpu = Gpu::open_with(&Driver::load_from(path).unwrap(), &options).unwrap();
    tell("sdEmulatedLazyStreams", 1);
    tell("sdEmulatedIdleKernels", 0);
    Some((gpu, alone))
}

/// Calls one of the emulated GPU's own functions.
fn tell(function: &str, value: usize) {
    let Some(path) = emulated_gpu::library() else { return };
    // SAFETY: it is loaded already, and the function takes and gives an integer.
    unsafe {
        let library = Library::new(path).unwrap();
        library.get::<unsafe extern "C" fn(usize) -> usize>(function.as_bytes()).unwrap()(value);
    }
}

fn source() -> Arc<dyn TensorSource> {
    Arc::new(RandomWeights::new(7))
}

fn on_host(config: &Config) -> Vae {
    Vae::new(config, &Weights::new(source(), Device::Cpu, None)).unwrap()
}

fn placed(config: &Config, source: Arc<dyn TensorSource>, gpu: &Gpu) -> Weights {
    let manifest = manifest(config).unwrap();
    let network = Network { source, manifest: &manifest, groups: &[], dtype: None };
    let memory = Arc::new(CudaMemory::new(gpu.clone()));
    Placed::new(network, Residence::WHOLE, memory).unwrap().group("").unwrap()
}

fn on_gpu(config: &Config, gpu: &Gpu) -> Vae {
    let weights = placed(config, source(), gpu);
    let encoder = Encoder::on_gpu(config, &weights, gpu).unwrap();
    Vae { encoder, decoder: Decoder::on_gpu(config, &weights, gpu).unwrap() }
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn both_halves_are_the_hosts_but_for_rounding() {
    let Some((gpu, _alone)) = gpu() else { return };
    // Wider, too: other kernels, and a middle that is no power of two.
    for (config, video) in [
        (Config::tiny(), [1, 3, 5, 16, 24]),
        (
            Config {
                dim: 48,
                dim_mult: vec![1, 2],
                temporal_downsample: vec![true],
                num_res_blocks: 1,
                ..Config::tiny()
            },
            [1, 3, 5, 8, 12],
        ),
    ] {
        let (host, there) = (on_host(&config), on_gpu(&config, &gpu));
        let video = smooth(video).unwrap();
        let latents = host.encode(&video).unwrap();
        let encoded = psnr(&there.encode(&video).unwrap(), &latents).unwrap();
        let pixels = host.decoder.decode_all(&latents).unwrap();
        let decoded = psnr(&there.decoder.decode_all(&latents).unwrap(), &pixels).unwrap();
        println!("{} channels: latents {encoded:.1} dB, pixels {decoded:.1} dB", config.dim);
        assert!(encoded > 40.0 && decoded > 40.0 && encoded < 90.0 && decoded < 90.0, "{encoded} {decoded}");
    }
}

#[test]
fn neither_chunks_nor_a_tile_that_covers_the_picture_change_a_bit() {
    let Some((gpu, _alone)) = gpu() else { return };
    let config = Config { num_res_blocks: 1, ..Config::tiny() };
    let net = on_gpu(&config, &gpu);
    let video = smooth([1, 3, 9, 8, 16]).unwrap();
    let latents = net.encode(&video).unwrap();
    for sizes in [&[9][..], &[2, 3, 4]] {
        let mut start = 0;
        let chunks = sizes.iter().map(|n| {
            start += n;
            video.narrow(2, start - n, *n)
        });
        assert!(flat(&net.encoder.encode_frames(chunks).unwrap()) == flat(&latents), "{sizes:?}");
    }
    assert!(flat(&net.encoder.encode_tiled(&video, Some(Tile::new(32))).unwrap()) == flat(&latents));
    let pixels = net.decoder.decode_all(&latents).unwrap();
    let lengths: Vec<usize> = net.decode(&latents).unwrap().map(|c| c.unwrap().dim(2).unwrap()).collect();
    assert_eq!((lengths, net.decode(&latents).unwrap().len()), (vec![1, 4, 4], 3));
    let mut stream = net.decoder.stream();
    let parts = [(0, 1), (1, 2)].map(|(first, n)| stream.push(&latents.narrow(2, first, n).unwrap()).unwrap());
    assert!(flat(&Tensor::cat(&parts, 2).unwrap()) == flat(&pixels));
    // No frame sees a later one.
    let one = net.decoder.decode_all(&latents.narrow(2, 0, 1).unwrap()).unwrap();
    assert!(flat(&one) == flat(&pixels.narrow(2, 0, 1).unwrap()));
}

#[test]
fn tiles_are_near_the_hosts() {
    let Some((gpu, _alone)) = gpu() else { return };
    let config = Config { num_res_blocks: 1, ..Config::tiny() };
    let (host, there) = (on_host(&config), on_gpu(&config, &gpu));
    let tile = Some(Tile { size: 16, overlap: 8 });
    let video = smooth([1, 3, 5, 16, 24]).unwrap();
    let latents = host.encoder.encode_tiled(&video, tile).unwrap();
    let encoded = psnr(&there.encoder.encode_tiled(&video, tile).unwrap(), &latents).unwrap();
    let decoded = [&host, &there].map(|net| {
        let chunks = net.decoder.decode_tiled(&latents, tile, &mut |_, _| Ok(())).unwrap();
        Tensor::cat(&chunks.collect::<Result<Vec<_>>>().unwrap(), 2).unwrap()
    });
    let decoded = psnr(&decoded[1], &decoded[0]).unwrap();
    assert!(encoded > 40.0 && decoded > 40.0, "{encoded} {decoded}");
}

#[test]
fn predictions_of_memory_hold_and_are_not_wasteful() {
    let Some((gpu, _alone)) = gpu() else { return };
    // At sizes that matter there is memory to count, not numbers.
    tell("sdEmulatedIdleKernels", 1);
    let config = Config { dim: 32, ..Config::wan21() };
    gpu.pool().set_budget(u64::MAX);
    let net = on_gpu(&config, &gpu);
    gpu.pool().trim().unwrap();
    let weights = gpu.pool().counts();
    for (height, width, tile) in [(480, 832, None), (480, 832, Some(Tile::new(320))), (320, 96, None)] {
        let clip = [13, height, width];
        let video = Tensor::zeros((1, 3, 13, height, width), DType::F32, &Device::Cpu).unwrap();
        let latents = Tensor::zeros((1, 16, 4, height / 8, width / 8), DType::F32, &Device::Cpu).unwrap();
        let encode = || drop(net.encoder.encode_tiled(&video, tile).unwrap());
        let decode = || {
            net.decoder.decode_tiled(&latents, tile, &mut |_, _| Ok(())).unwrap().for_each(|c| drop(c.unwrap()));
        };
        for (what, work, predicted) in [
            ("encode", &encode as &dyn Fn(), gpu_encode_bytes(&config, clip, tile).unwrap().device),
            ("decode", &decode, gpu_decode_bytes(&config, clip, tile).unwrap().device),
        ] {
            // It must be possible with no more than that.
            gpu.pool().trim().unwrap();
            gpu.pool().set_budget(weights.reserved_bytes + predicted);
            gpu.pool().restart_peaks();
            work();
            let most = gpu.pool().counts();
            let (used, reserved) =
                (most.peak_bytes - weights.used_bytes, most.reserved_peak_bytes - weights.reserved_bytes);
            println!("{what} {clip:?} {tile:?}: used {used}, reserved {reserved}, predicted {predicted}");
            assert!(reserved <= predicted && predicted <= used + used / 3 + (64 << 20), "{what} {clip:?} {tile:?}");
        }
    }
}

#[test]
fn a_number_that_is_none_is_found_in_its_frame() {
    let Some((gpu, _alone)) = gpu() else { return };
    /// A layer that adds infinity.
    struct Broken(RandomWeights, &'static str);
    impl TensorSource for Broken {
        fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
            match name == self.1 {
                true => Tensor::full(f32::INFINITY, shape, device),
                false => self.0.tensor(name, shape, dtype, device),
            }
        }
        fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
            self.0.matrix(name, shape, dtype, device)
        }
    }
    let config = Config::tiny();
    let broken = |name| Arc::new(Broken(RandomWeights::new(7), name));
    let late = "decoder.upsamples.12.residual.2.bias";
    let nets = [
        Decoder::on_gpu(&config, &placed(&config, broken(late), &gpu), &gpu).unwrap(),
        Decoder::new(&config, &Weights::new(broken(late), Device::Cpu, None)).unwrap(),
    ];
    for net in nets {
        let error = net.decode_all(&smooth([1, 16, 2, 2, 2]).unwrap()).unwrap_err();
        let found = VaeError::inside(&error).unwrap().to_string();
        assert_eq!(found, "frame 1 of the VAE is not finite, from decoder.upsamples.12 on");
    }
}

#[test]
fn what_a_gpu_cannot_is_an_error() {
    let Some((gpu, _alone)) = gpu() else { return };
    for config in [Config { dim: 12, ..Config::tiny() }, Config { dim: 128, ..Config::tiny() }] {
        let error = config.check_gpu().unwrap_err().to_string();
        assert!(error.contains("--cpu-vae") && !error.contains('\n'), "{error}");
        assert!(Decoder::on_gpu(&config, &placed(&config, source(), &gpu), &gpu).is_err());
    }
    assert_eq!(Config::wan21().check_gpu(), Ok(()));
    let net = on_gpu(&Config::tiny(), &gpu);
    assert!(net.encode(&smooth([2, 3, 1, 16, 16]).unwrap()).unwrap_err().to_string().contains("one after the other"));
    // A GPU that has no room says so.
    gpu.pool().refuse_after(20);
    let error = net.encode(&smooth([1, 3, 5, 16, 16]).unwrap()).unwrap_err();
    assert!(kernels::cuda::CudaError::inside(&error).is_some_and(|e| e.to_string().contains("room")), "{error}");
}
