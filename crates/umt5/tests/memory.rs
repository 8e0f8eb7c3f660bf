//! Predicted activation memory against what is really allocated. Alone in its binary, because it counts all of it.

use std::alloc::System;
use std::sync::Arc;

use candle_core::{DType, Device};
use cap::Cap;
use kernels::Compute;
use testkit::peak;
use umt5::{Config, Encoder, activation_bytes};
use weights::{RandomWeights, Resident};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

#[test]
fn predictions_hold_and_are_not_wasteful() {
    let middle = Config { vocab: 1000, dim: 256, dim_attn: 256, dim_ffn: 640, num_heads: 4, ..Config::tiny() };
    let wide = Config { dim_ffn: 4096, ..middle.clone() };
    let mut wrong = Vec::new();
    for (config, prompts, tokens) in [(&middle, 2, 512), (&middle, 1, 300), (&wide, 2, 512), (&wide, 3, 200)] {
        let source = Resident::new(Arc::new(RandomWeights::new(1)), Device::Cpu, Some(DType::BF16));
        let encoder = Encoder::new(config, Arc::new(source)).unwrap();
        let ids: Vec<u32> = (0..tokens as u32).collect();
        let all = vec![ids.as_slice(); prompts];
        let run = || drop(encoder.encode_all(&all, &mut |_, _| Ok(())).unwrap());
        // The first use reads the weights and makes the threads' scratch. The source makes all of the table anew.
        run();
        let table = (config.vocab * config.dim) as u64 * 2;
        let (measured, predicted) = (peak(&ALLOCATOR, run), activation_bytes(config, prompts, tokens, Compute::F32));
        let ratio = predicted as f64 / measured as f64;
        println!("{prompts} x {tokens}: measured {measured}, predicted {predicted} ({ratio:.3}), table {table}");
        if !(1.0..=1.25).contains(&ratio) {
            wrong.push(format!("{prompts} x {tokens} of {config:?}: {ratio:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
