//! The emulator against answers that are known, and against kernels that are wrong on purpose.

mod driver;

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use driver::{Buffer, Gpu, call, normal, random};
use rand::RngExt;

#[repr(C)]
#[derive(Clone, Copy)]
struct SelfTest {
    x: u64,
    y: u64,
    n: i32,
    mode: i32,
}

fn run(gpu: &Gpu, name: &str, [blocks, threads]: [u32; 2], x: &[f32], mode: i32) -> Result<Vec<f32>, String> {
    let (from, to) = (gpu.upload(x), gpu.empty::<f32>(x.len()));
    let params = SelfTest { x: from.pointer, y: to.pointer, n: x.len() as i32, mode };
    gpu.launch(name, [blocks, 1, 1], threads, 16 * threads, &params)?;
    Ok(gpu.download(to))
}

#[test]
fn a_barrier_orders_shared_memory() {
    let (gpu, x) = (Gpu::new(), normal(&mut random(), 3 * 96));
    let expected: Vec<f32> = x.chunks(96).flat_map(|block| block.iter().rev().copied()).collect();
    assert_eq!(run(&gpu, "sd_emulated_reverse", [3, 96], &x, 0), Ok(expected));
}

#[test]
fn a_barrier_that_is_missing_shows() {
    let (gpu, x) = (Gpu::new(), normal(&mut random(), 3 * 96));
    let y = run(&gpu, "sd_emulated_reverse", [3, 96], &x, 1).expect("runs");
    assert!(y.iter().any(|v| v.is_nan()));
}

#[test]
fn shuffles_and_votes_go_across_a_warp() {
    let (gpu, x) = (Gpu::new(), (0..128).map(|i| i as f32).collect::<Vec<_>>());
    let expected: Vec<f32> = x.chunks(32).flat_map(|warp| [warp.iter().sum::<f32>(); 32]).collect();
    assert_eq!(run(&gpu, "sd_emulated_sum", [2, 64], &x, 0), Ok(expected));
}

#[test]
fn lanes_that_stay_away_are_reported() {
    let (gpu, x) = (Gpu::new(), vec![1.0; 32]);
    let away = run(&gpu, "sd_emulated_sum", [1, 32], &x, 1).expect_err("half a warp");
    assert!(away.contains("sd_emulated_sum, block (0, 0, 0)") && away.contains("has ended"), "{away}");
    let elsewhere = run(&gpu, "sd_emulated_sum", [1, 32], &x, 2).expect_err("two collectives");
    assert!(elsewhere.contains("while other lanes are at"), "{elsewhere}");
}

#[test]
fn a_deadlock_is_reported_and_not_waited_for() {
    let gpu = Gpu::new();
    let found = run(&gpu, "sd_emulated_deadlock", [1, 64], &[0.0; 64], 0).expect_err("a deadlock");
    assert!(
        found.contains("deadlock") && found.contains("threads 0..31: barrier 1; threads 32..63: __syncthreads"),
        "{found}"
    );
}

#[test]
fn asynchronous_copies_arrive_at_the_wait() {
    let (gpu, x) = (Gpu::new(), normal(&mut random(), 4 * 64));
    assert_eq!(run(&gpu, "sd_emulated_copy", [1, 64], &x, 0), Ok(x.clone()));
    let early = run(&gpu, "sd_emulated_copy", [1, 64], &x, 1).expect("runs");
    assert!(early.iter().all(|v| v.is_nan()));
    let outside = run(&gpu, "sd_emulated_copy", [1, 64], &x, 2).expect_err("outside");
    assert!(outside.contains("is not shared memory"), "{outside}");
}

#[test]
fn accesses_that_hardware_refuses_fail_the_launch() {
    let gpu = Gpu::new();
    for (mode, message) in [(0, "not aligned"), (1, "outside of the allocations"), (2, "byte 404 of a block")] {
        let n = if mode == 2 { 101 } else { 128 };
        let found = run(&gpu, "sd_emulated_access", [1, 1], &vec![0.0; n], mode).expect_err(message);
        assert!(found.contains(message), "{found}");
        if mode == 2 {
            break; // the padding stays written: nothing may follow
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Mma {
    a: u64,
    b: u64,
    d: u64,
    format: i32,
}

/// One 8- or 16-bit number of a format: 0 bf16, 1 f16, 2 s8, 3 e4m3.
fn number(format: i32, bytes: &[u8], i: usize) -> f64 {
    let half = || u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    match format {
        0 => f64::from(f32::from_bits(u32::from(half()) << 16)),
        1 => {
            let (exponent, mantissa) = (i32::from(half() >> 10 & 31), f64::from(half() & 1023));
            let size = if exponent == 0 {
                mantissa / 1024.0 * 2f64.powi(-14)
            } else {
                (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15)
            };
            if half() & 0x8000 == 0 { size } else { -size }
        }
        2 => f64::from(bytes[i] as i8),
        _ => {
            let (exponent, mantissa) = (i32::from(bytes[i] >> 3 & 15), f64::from(bytes[i] & 7));
            let size = if exponent == 0 {
                mantissa / 8.0 * 2f64.powi(-6)
            } else {
                (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7)
            };
            if bytes[i] & 128 == 0 { size } else { -size }
        }
    }
}

#[test]
fn products_of_a_warp_have_the_layouts_of_the_isa() {
    let (gpu, mut random) = (Gpu::new(), random());
    for format in 0..4 {
        // Bytes of moderate numbers in each format: sign, an exponent near one, any mantissa.
        let mut bytes = |count: usize| -> Vec<u8> {
            match format {
                0 => (0..count / 2)
                    .flat_map(|_| {
                        (random.random_range(0x3f00u16..0x4080) | (random.random::<u16>() & 0x8000)).to_le_bytes()
                    })
                    .collect(),
                1 => (0..count / 2)
                    .flat_map(|_| {
                        (random.random_range(0x3000u16..0x4400) | (random.random::<u16>() & 0x8000)).to_le_bytes()
                    })
                    .collect(),
                2 => (0..count).map(|_| random.random()).collect(),
                _ => (0..count).map(|_| random.random_range(0x00u8..0x48) | (random.random::<u8>() & 0x80)).collect(),
            }
        };
        let (a, b) = (bytes(16 * 32), bytes(8 * 32));
        let (on_a, on_b, d) = (gpu.upload(&a), gpu.upload(&b), gpu.empty::<u32>(128));
        let params = Mma { a: on_a.pointer, b: on_b.pointer, d: d.pointer, format };
        gpu.launch("sd_emulated_mma", [1, 1, 1], 32, 0, &params).expect("runs");
        let k = if format < 2 { 16 } else { 32 };
        for (i, &bits) in gpu.download::<u32>(d).iter().enumerate() {
            let products = (0..k).map(|j| number(format, &a, i / 8 * k + j) * number(format, &b, i % 8 * k + j));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size): (f64, f64), p| (sum + p, size + p.abs()));
            let found = if format == 2 { f64::from(bits as i32) } else { f64::from(f32::from_bits(bits)) };
            assert!((found - sum).abs() <= 1e-6 * size, "format {format}, number {i}: {found}, not {sum}");
        }
    }
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let gpu = Gpu::new();
    let buffer = gpu.upload(&[0f32; 64]);
    let params = SelfTest { x: buffer.pointer, y: buffer.pointer, n: 64, mode: 0 };
    assert!(gpu.launch("sd_emulated_sum", [0, 1, 1], 32, 0, &params).is_err());
    assert!(gpu.launch("sd_emulated_sum", [1, 1, 1], 2048, 0, &params).is_err());
    assert!(gpu.launch("sd_emulated_sum", [1, 70_000, 1], 32, 0, &params).is_err());
    assert!(gpu.function("sd_no_such_kernel").is_none());
}

#[test]
fn lazy_streams_show_an_event_that_nobody_waits_for() {
    let gpu = Gpu::new();
    let (mut pinned, mut copies, mut event): (*mut c_void, *mut c_void, *mut c_void) =
        (null_mut(), null_mut(), null_mut());
    assert_eq!(call!(gpu, cuMemHostAlloc(*mut *mut c_void = &mut pinned, usize = 256, u32 = 0)), 0);
    assert_eq!(call!(gpu, cuStreamCreateWithPriority(*mut *mut c_void = &mut copies, u32 = 1, c_int = 0)), 0);
    assert_eq!(call!(gpu, cuEventCreate(*mut *mut c_void = &mut event, u32 = 2)), 0);
    // SAFETY: 256 bytes of host memory.
    unsafe { pinned.cast::<f32>().copy_from_nonoverlapping([1f32; 64].as_ptr(), 64) };
    let sums = |wait: bool| -> Vec<f32> {
        let (from, to): (Buffer, Buffer) = (gpu.empty::<f32>(64), gpu.empty::<f32>(64));
        call!(gpu, sdEmulatedLazyStreams(c_int = 1));
        let copied = call!(
            gpu,
            cuMemcpyHtoDAsync_v2(u64 = from.pointer, *const c_void = pinned, usize = 256, *mut c_void = copies)
        );
        assert_eq!(copied, 0);
        assert_eq!(call!(gpu, cuEventRecord(*mut c_void = event, *mut c_void = copies)), 0);
        assert_eq!(call!(gpu, cuEventQuery(*mut c_void = event)), 600);
        if wait {
            assert_eq!(call!(gpu, cuStreamWaitEvent(*mut c_void = gpu.stream, *mut c_void = event, u32 = 0)), 0);
        }
        let params = SelfTest { x: from.pointer, y: to.pointer, n: 64, mode: 0 };
        gpu.launch("sd_emulated_sum", [1, 1, 1], 64, 0, &params).expect("runs");
        let sums = gpu.download(to);
        call!(gpu, sdEmulatedLazyStreams(c_int = 0));
        sums
    };
    assert_eq!(sums(true), [32.0; 64]);
    assert!(sums(false).iter().all(|v| v.is_nan()));
}

#[test]
fn memory_ends_at_what_was_set() {
    let gpu = Gpu::new();
    call!(gpu, sdEmulatedSetMemory(usize = 1 << 20));
    let (mut first, mut second) = (0u64, 0u64);
    assert_eq!(call!(gpu, cuMemAlloc_v2(*mut u64 = &mut first, usize = 700 << 10)), 0);
    assert_eq!(call!(gpu, cuMemAlloc_v2(*mut u64 = &mut second, usize = 700 << 10)), 2);
    assert_eq!(call!(gpu, cuMemFree_v2(u64 = first)), 0);
    assert_eq!(call!(gpu, cuMemFree_v2(u64 = first)), 1);
    assert_eq!(call!(gpu, cuMemAlloc_v2(*mut u64 = &mut second, usize = 700 << 10)), 0);
    call!(gpu, sdEmulatedSetMemory(usize = 4 << 30));
}
