//! Pose networks of toy size in files, made on the spot: the right names, shapes and interfaces, invented weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use pose::net::{DwPoseConfig, YoloxConfig, dwpose_manifest, yolox_manifest};
use weights::{Manifest, save_safetensors};

use crate::support::Sandbox;

/// What the networks say.
#[derive(Clone, Copy)]
pub enum Sight {
    /// People of about half the picture's width, and keypoints at places that depend on the picture.
    People,
    /// No box, and no keypoint with a score to speak of.
    Nobody,
}

/// Writes a detector and an estimator, which take pictures of the released ones' sizes, and gives their paths.
pub fn write(sandbox: &Sandbox, sight: Sight) -> [PathBuf; 2] {
    write_for(sandbox, sight, 640, [384, 288])
}

/// The same for squares of `side` and crops of this height and width.
pub fn write_for(sandbox: &Sandbox, sight: Sight, side: usize, crop: [usize; 2]) -> [PathBuf; 2] {
    let detector = YoloxConfig { classes: 2, input_size: [side; 2], ..YoloxConfig::tiny() };
    let estimator = DwPoseConfig { keypoints: 133, input_size: crop, hidden: 16, ..DwPoseConfig::tiny() };
    let paths = ["detector.safetensors", "estimator.safetensors"].map(|name| sandbox.work(name));
    let told = BTreeMap::from([("input_size".to_owned(), format!("{side}x{side}"))]);
    save(&paths[0], &yolox_manifest(&detector).unwrap(), sight, &told);
    save(&paths[1], &dwpose_manifest(&estimator).unwrap(), sight, &BTreeMap::new());
    paths
}

fn save(path: &Path, manifest: &Manifest, sight: Sight, metadata: &BTreeMap<String, String>) {
    let tensors: BTreeMap<String, Tensor> = manifest
        .tensors()
        .enumerate()
        .map(|(seed, spec)| {
            let count = spec.elements();
            let noise = |scale: f32| (0..count).map(|i| scale * ((i * 7 + seed * 13) as f32 * 1.7).sin()).collect();
            let values: Vec<f32> = match (spec.name.as_str(), sight) {
                (name, _) if name.ends_with("running_var") || name.ends_with("bn.weight") => vec![1.0; count],
                (name, _) if name.ends_with(".g") || name.ends_with("scale") => vec![1.0; count],
                // Only the coarsest level sees people, and in squares of 640 pixels of the letterbox.
                ("bbox_head.multi_level_conv_obj.2.bias", Sight::People) => vec![4.0; count],
                (name, _) if name.contains("conv_obj") && name.ends_with("bias") => vec![-12.0; count],
                (name, _) if name.contains("conv_cls") && name.ends_with("bias") => vec![4.0, -4.0],
                (name, _) if name.contains("conv_reg") && name.ends_with("bias") => vec![0.0, 0.0, 3.0, 3.0],
                (name, Sight::People) if name.starts_with("head.cls_") => noise(2.0),
                (name, Sight::Nobody) if name.starts_with("head.cls_") => noise(1e-4),
                _ => noise(0.4),
            };
            let tensor = Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu).unwrap();
            (spec.name.clone(), tensor)
        })
        .collect();
    save_safetensors(path, &tensors, metadata).unwrap();
}
