//! What products take beside their argument and their result is what `workspace_bytes` says, or less.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use kernels::Compute;
use kernels::linear::{Matrix, linear, workspace_bytes};
use kernels::quant::{Encoding, QuantMatrix, Scales};

/// Counts what is held, and the most that was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        MOST.fetch_max(held, Ordering::SeqCst);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn no_product_takes_more_than_it_says() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let shapes: [(usize, usize, usize); 8] = [
        (1, 512, 300),
        (600, 13824, 40),
        (90, 4096, 40),
        (4, 5120, 512),
        (77, 1536, 256),
        (512, 1024, 300),
        (1300, 256, 400),
        (2100, 4096, 64),
    ];
    for (rows, inner, out) in shapes {
        for (encoding, rotation) in [
            (Encoding::BF16, None),
            (Encoding::Q8_0, None),
            (Encoding::I8, None),
            (Encoding::I8, Some(256)),
            (Encoding::I8, Some(4096)),
        ] {
            if rotation.is_some_and(|group| !inner.is_multiple_of(group)) {
                continue;
            }
            let bytes = vec![0; encoding.row_bytes(inner).unwrap() * out];
            let scales = if encoding == Encoding::I8 { Scales::Rows(vec![1.0; out]) } else { Scales::None };
            let matrix = QuantMatrix::new(encoding, [out, inner], bytes.into(), scales, rotation).unwrap();
            let x = Tensor::zeros((rows, inner), DType::F32, &Device::Cpu).unwrap();
            for compute in [Compute::F32, Compute::Bf16, Compute::Int8] {
                let weight = Matrix::from(matrix.clone()).with_compute(compute);
                pool.install(|| {
                    // Threads make what they keep.
                    linear(&x, &weight, None).unwrap();
                    let before = HELD.load(Ordering::SeqCst);
                    MOST.store(before, Ordering::SeqCst);
                    linear(&x, &weight, None).unwrap();
                    let taken = (MOST.load(Ordering::SeqCst) - before - 4 * rows * out) as u64;
                    let said = workspace_bytes(rows, [out, inner], compute);
                    let job = format!("{rows} x {inner} x {out} {encoding} {rotation:?} {compute:?}");
                    assert!(taken <= said, "{job}: takes {taken}, said {said}");
                });
            }
        }
    }
}
