//! Memory, streams and copies.

use candle_core::{DType, Device, Tensor};
use kernels::cuda::ops::convert;
use kernels::cuda::{CudaError, Driver, Gpu, GpuDtype, GpuOptions, GpuTensor, NoGpu, SharedBuffer};

use crate::{Bench, OPTIONS, Random};

fn same(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let values = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values(got) == values(want));
}

#[test]
fn numbers_come_back_as_they_were() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for shape in [vec![], vec![0, 3], vec![1], vec![7, 5], vec![2, 3, 4]] {
        for (dtype, host) in [(GpuDtype::F32, DType::F32), (GpuDtype::Bf16, DType::BF16), (GpuDtype::F16, DType::F16)] {
            let x = random.normal(&shape, host);
            let there = bench.upload(&x, dtype);
            assert_eq!((there.shape(), there.dtype(), there.elements()), (shape.as_slice(), dtype, x.elem_count()));
            let back = there.download(&bench.gpu).unwrap();
            assert_eq!(back.dtype(), host);
            same(&back, &x);
        }
    }
    let bytes: Vec<u8> = (0..=255).collect();
    let there = GpuTensor::upload_bytes(&bench.gpu, &bytes, &[16, 16], GpuDtype::I8).unwrap();
    let back = there.narrow(3, 2).unwrap().download(&bench.gpu).unwrap();
    assert_eq!(back.flatten_all().unwrap().to_vec1::<u8>().unwrap(), bytes[48..80]);
    assert!(GpuTensor::upload_bytes(&bench.gpu, &bytes, &[15], GpuDtype::U8).is_err());
    // A view of the host's, in pieces of which the last is short.
    let x = random.normal(&[3, (16 << 20) / 4 - 5], DType::F32);
    let x = x.narrow(0, 1, 2).unwrap();
    same(&bench.download(&bench.upload(&x, GpuDtype::F32)), &x);
    let zeros = GpuTensor::zeros(&bench.gpu, &[33], GpuDtype::Bf16).unwrap();
    same(&bench.download(&zeros), &Tensor::zeros(33, DType::F32, &Device::Cpu).unwrap());
}

#[test]
fn parts_of_tensors() {
    let Some(bench) = Bench::open() else { return };
    let x = Tensor::arange(0f32, 24., &Device::Cpu).unwrap().reshape((6, 4)).unwrap();
    let there = bench.upload(&x, GpuDtype::F32);
    same(&bench.download(&there.narrow(2, 3).unwrap()), &x.narrow(0, 2, 3).unwrap());
    same(&bench.download(&there.narrow(6, 0).unwrap()), &x.narrow(0, 6, 0).unwrap());
    same(&bench.download(&there.reshape(&[2, 12]).unwrap()), &x.reshape((2, 12)).unwrap());
    for wrong in [there.narrow(4, 3), there.narrow(usize::MAX, 2), there.reshape(&[5, 5])] {
        assert!(matches!(wrong, Err(CudaError::Arguments { .. })), "{wrong:?}");
    }
    let all = GpuTensor::zeros(&bench.gpu, &[9, 4], GpuDtype::F32).unwrap();
    there.copy_to_rows(&bench.gpu, &all, 3).unwrap();
    let want = Tensor::cat(&[&Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap(), &x], 0).unwrap();
    same(&bench.download(&all), &want);
    assert!(there.copy_to_rows(&bench.gpu, &all, 4).is_err());
    assert!(all.narrow(0, 4).unwrap().copy_to_rows(&bench.gpu, &all, 2).is_err());
    let buffer = bench.gpu.pool().alloc(100).unwrap();
    let (sender, given) = std::sync::mpsc::channel();
    let shared = SharedBuffer::new(buffer, move |buffer| sender.send(buffer.len()).unwrap());
    let part = GpuTensor::within(shared.clone(), 60, &[10], GpuDtype::F32).unwrap();
    assert!(GpuTensor::within(shared.clone(), 61, &[2], GpuDtype::F32).is_err());
    assert!(GpuTensor::within(shared, 64, &[10], GpuDtype::F32).is_err());
    assert!(given.try_recv().is_err());
    drop(part);
    assert_eq!(given.try_recv(), Ok(100));
}

#[test]
fn memory_is_used_again_and_given_back() {
    let budget = 64 << 20;
    let Some(bench) = Bench::with(GpuOptions { budget_bytes: Some(budget), ..OPTIONS }) else { return };
    let pool = bench.gpu.pool();
    let (a, b) = (pool.alloc(20 << 20).unwrap(), pool.alloc(40 << 20).unwrap());
    let counts = pool.counts();
    assert_eq!((counts.used_bytes, counts.reserved_bytes), (60 << 20, 60 << 20));
    let refused = pool.alloc(5 << 20).unwrap_err();
    assert_eq!(refused, CudaError::OutOfMemory { asked_bytes: 5 << 20, used_bytes: 60 << 20, budget_bytes: budget });
    drop(a);
    // There is room, but for no segment of this size before the free one is given back.
    let c = pool.alloc(24 << 20).unwrap();
    assert_eq!(pool.counts().reserved_bytes, 64 << 20);
    drop((b, c));
    assert_eq!((pool.counts().used_bytes, pool.counts().peak_bytes), (0, 64 << 20));
    pool.trim().unwrap();
    assert_eq!(pool.counts().reserved_bytes, 0);
    pool.refuse_after(1);
    let fine = pool.alloc(1);
    assert!(fine.is_ok() && pool.alloc(1).is_err() && pool.alloc(1).is_ok());
    assert!(pool.alloc(usize::MAX).is_err());
    pool.set_budget(0);
    assert!(pool.alloc(1).is_err());
}

#[test]
fn a_driver_that_has_less_than_the_budget_refuses() {
    let Some(bench) = Bench::open() else { return };
    if bench.tell("sdEmulatedSetMemory", 48 << 20).is_none() {
        return;
    }
    let pool = bench.gpu.pool();
    let a = pool.alloc(40 << 20).unwrap();
    let refused = pool.alloc(9 << 20).unwrap_err();
    assert!(matches!(refused, CudaError::OutOfMemory { .. }), "{refused}");
    // A segment that is only as large as it must be.
    let b = pool.alloc(3 << 20).unwrap();
    drop(a);
    let c = pool.alloc(42 << 20).unwrap();
    drop((b, c));
    bench.tell("sdEmulatedSetMemory", 4 << 30);
}

#[test]
fn nothing_is_left_when_a_gpu_is_dropped() {
    let Some(bench) = Bench::open() else { return };
    let x = bench.upload(&Random::new().normal(&[1000], DType::F32), GpuDtype::F32);
    let download = x.start_download(&bench.gpu).unwrap();
    drop(x);
    drop(download);
    let Bench { gpu, emulated, .. } = bench;
    drop(gpu);
    if let Some(library) = emulated {
        for name in ["sdEmulatedLiveBytes", "sdEmulatedPinnedBytes"] {
            // SAFETY: they take nothing and give a number.
            let live = unsafe { library.get::<unsafe extern "C" fn() -> usize>(name.as_bytes()).unwrap()() };
            assert_eq!(live, 0, "{name}");
        }
    }
}

#[test]
fn what_is_pinned_stays_below_the_ceiling() {
    let Some(bench) = Bench::with(GpuOptions { pinned_bytes: 1 << 20, ..OPTIONS }) else { return };
    let pinned = bench.gpu.pinned();
    let mut a = pinned.alloc(700 << 10).unwrap();
    a.fill(7);
    assert!(matches!(pinned.alloc(400 << 10), Err(CudaError::Pinned { used_bytes: 716_800, .. })));
    drop(a);
    let b = pinned.alloc(1 << 20).unwrap();
    assert_eq!((b.len(), pinned.used_bytes()), (1 << 20, (1 << 20, 1 << 20)));
    drop(b);
    assert_eq!(pinned.used_bytes().0, 0);
    // Uploads wait for each other rather than fail.
    let x = Random::new().normal(&[200 << 10], DType::F32);
    let there: Vec<_> = (0..4).map(|_| bench.upload(&x, GpuDtype::F32)).collect();
    there.iter().for_each(|there| same(&bench.download(there), &x));
}

#[test]
fn a_buffer_that_another_stream_uses_is_waited_for() {
    let Some(bench) = Bench::with(GpuOptions { budget_bytes: Some(4 << 20), ..OPTIONS }) else { return };
    let x = Random::new().normal(&[512 << 10], DType::F32);
    for _ in 0..4 {
        // All of the budget: the next has the same memory.
        let there = bench.upload(&x, GpuDtype::F32);
        let download = there.start_download(&bench.gpu).unwrap();
        drop(there);
        same(&download.finish().unwrap(), &x);
    }
    bench.gpu.synchronise().unwrap();
}

#[test]
fn events_tell_times_and_ends() {
    let Some(bench) = Bench::open() else { return };
    let (start, end) = (bench.gpu.compute().record_time().unwrap(), bench.gpu.compute().record_time().unwrap());
    end.synchronise().unwrap();
    assert!(start.is_done().unwrap() && end.is_done().unwrap());
    assert!(start.seconds_to(&end).unwrap() >= 0.0);
}

#[test]
fn gpus_that_are_not_there() {
    let Some(bench) = Bench::open() else { return };
    assert!(!bench.gpu.facts().name.is_empty() && bench.gpu.facts().memory_bytes > 0);
    let (free, total) = bench.gpu.memory().unwrap();
    assert!(free <= total);
    if bench.is_emulated() {
        let driver = Driver::load_from(emulated_gpu::library().unwrap()).unwrap();
        let error = Gpu::open_with(&driver, &GpuOptions { ordinal: 7, ..OPTIONS }).unwrap_err();
        assert!(matches!(error, NoGpu::NoSuchDevice { asked: 7, .. }), "{error}");
    }
    let missing = bench.gpu.kernel("sd_no_such_kernel").unwrap_err();
    assert!(missing.to_string().contains("sd_no_such_kernel is not there"), "{missing}");
}

#[test]
fn calls_of_kernels_are_timed_where_it_is_asked() {
    let Some(bench) = Bench::open() else { return };
    let x = GpuTensor::zeros(&bench.gpu, &[4, 64], GpuDtype::F32).unwrap();
    let call = || convert(&bench.gpu, &x, GpuDtype::Bf16).unwrap();
    call();
    bench.gpu.start_profile();
    call();
    call();
    convert(&bench.gpu, &x, GpuDtype::F32).unwrap();
    let mut told = bench.gpu.end_profile().unwrap();
    assert!(told.iter().all(|k| k.seconds >= 0.0 && k.seconds < 60.0), "{told:?}");
    told.sort_by_key(|k| k.kernel);
    let calls: Vec<_> = told.iter().map(|k| (k.kernel, k.calls)).collect();
    assert_eq!(calls, [("sd_map_f32_bf16", 2), ("sd_map_f32_f32", 1)]);
    call();
    assert_eq!(bench.gpu.end_profile().unwrap(), []);
}
