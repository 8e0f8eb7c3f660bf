//! What is in a checkpoint (safetensors, an index of them, or a PyTorch file), and which network it is. Reads headers only.
//!
//! `cargo run --example inspect_checkpoint -- models/demo/dit.safetensors`

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        anyhow::bail!("usage: inspect_checkpoint FILE");
    };
    let found = steadydance::inspect(Path::new(&path))?;
    println!("{}: {}, {} numbers in {} bytes", found.path.display(), found.format, found.elements, found.total_bytes);
    for (dtype, share) in &found.dtypes {
        println!("  {dtype}: {} tensors, {} numbers, {} bytes", share.tensors, share.elements, share.bytes);
    }
    match &found.network {
        None => println!("no network that is known here"),
        Some(network) => {
            println!("{} ({}), {} parameters", network.label, network.component, network.parameters);
            println!("{:#}", network.config);
            match &network.deviations {
                None => println!("every tensor fits"),
                Some(deviations) => println!("does not fit: {deviations}"),
            }
        }
    }
    let mut largest: Vec<_> = found.tensors.iter().collect();
    largest.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes));
    println!("largest of {} tensors:", largest.len());
    for tensor in largest.iter().take(8) {
        println!("  {:<60} {:<6} {:?}", tensor.name, tensor.dtype, tensor.shape);
    }
    Ok(())
}
