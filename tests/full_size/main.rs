//! One block of SteadyDancer-14B at its full size: random weights are written as a sharded bf16 checkpoint under the
//! original names, opened as a user's would be, and run, once resident and once streamed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use dit::{Config, Dit, Inputs, PoseInputs, manifest, no_tap};
use offload::{Network, Placed, Residence, VirtualDevice};
use scheduler::noise;
use weights::{Checkpoint, CheckpointSource, RandomWeights, TensorSource, save_sharded};

#[test]
fn a_full_size_block_loads_from_shards_and_runs() {
    let config = Config { num_layers: 1, ..Config::steadydancer_14b() };
    let manifest = manifest(&config).unwrap();
    let block = manifest.under("blocks.0.");
    assert_eq!(block.parameters(), 403_838_464);

    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    {
        let random = RandomWeights::new(7);
        let make = |name: &str, shape: &[usize]| random.tensor(name, shape, Some(DType::BF16), &Device::Cpu).unwrap();
        let tensors: BTreeMap<String, Tensor> =
            manifest.tensors().map(|t| (t.name.clone(), make(&t.name, &t.shape))).collect();
        save_sharded(folder.path(), "diffusion_pytorch_model", &tensors, 2).unwrap();
    }
    println!("{:.1} s to make and write {} parameters", started.elapsed().as_secs_f64(), manifest.parameters());

    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    manifest.check(&checkpoint, "one block of SteadyDancer-14B", |_| false).unwrap();
    let detected = Config::detect(|name| checkpoint.shape(name)).unwrap();
    assert_eq!(detected, config);

    let draw = |shape: &[usize], stream| noise(shape.to_vec(), 3, stream, &Device::Cpu).unwrap();
    let inputs = Inputs {
        text_embeds: Some(draw(&[12, 4096], 1)),
        ref_image_embeds: Some(draw(&[1, 257, 1280], 2)),
        image_latents: Some(draw(&[20, 2, 8, 8], 3)),
        pose: Some(PoseInputs {
            pose_latents: draw(&[16, 2, 8, 8], 4),
            ref_latents: draw(&[36, 1, 8, 8], 5),
            pose_ref_latents: draw(&[16, 1, 8, 8], 6),
            pose_image_embeds: draw(&[1, 257, 1280], 7),
        }),
        vace: None,
    };
    let latents = draw(&[16, 2, 8, 8], 8);
    let run = |residence| {
        let source = Arc::new(CheckpointSource(checkpoint.clone()));
        let network = Network { source, manifest: &manifest, groups: dit::GROUPS, dtype: None };
        let memory = Arc::new(VirtualDevice::host(u64::MAX));
        let placed = Arc::new(Placed::new(network, residence, memory).unwrap());
        let traffic = placed.traffic().clone();
        let started = Instant::now();
        let net = Dit::new(&config, placed).unwrap();
        let conditions = net.prepare(&inputs, &mut no_tap).unwrap();
        let mut outputs = Vec::new();
        for _ in 0..2 {
            let velocity = net.forward(&latents, 999.0, &conditions, &mut no_tap).unwrap();
            assert_eq!(velocity.dims(), latents.dims());
            outputs.push(velocity.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        println!("{residence:?}: {:.1} s for loading and two forwards", started.elapsed().as_secs_f64());
        (outputs, traffic.bytes())
    };
    let (resident, read_once) = run(Residence::WHOLE);
    assert!(resident[0].iter().all(|v| v.is_finite()));
    assert_eq!(resident[0], resident[1]);
    let (streamed, read_twice) = run(Residence::STREAMED);
    assert_eq!(resident, streamed, "placement never changes a bit");
    // A network of one block has it in the ring for the second forward.
    assert_eq!(read_twice, read_once);
    println!("peak resident size {:.2} GiB", offload::peak_rss_bytes().unwrap_or(0) as f64 / f64::from(1 << 30));
}
