/// The embedded demo model: every component at toy size, in the file formats of the real ones.
pub struct DemoModel {
    /// Diffusion transformer, safetensors under the original names.
    pub dit: &'static [u8],
    /// VAE, safetensors under the original names.
    pub vae: &'static [u8],
    /// Text encoder, safetensors under the original names.
    pub text_encoder: &'static [u8],
    /// Image encoder, safetensors under the original names.
    pub image_encoder: &'static [u8],
    /// `tokenizer.json` of the text encoder.
    pub tokenizer: &'static [u8],
    /// Network that finds puppets in pictures, safetensors under mmdet's names.
    pub pose_detector: &'static [u8],
    /// Network that finds a puppet's keypoints, safetensors under mmpose's names.
    pub pose_estimator: &'static [u8],
    /// Sizes of all components (`steadydance.json`).
    pub config: &'static str,
    /// Width and height that it is made for, in pixels.
    pub size: [usize; 2],
    /// LoRAs for its transformer.
    pub loras: &'static [EmbeddedLora],
}

/// A LoRA inside the program.
pub struct EmbeddedLora {
    /// By which it is asked for.
    pub name: &'static str,
    /// Safetensors in any spelling.
    pub bytes: &'static [u8],
}

impl DemoModel {
    /// The networks that find poses in plain videos of puppets: the detector and the estimator.
    pub fn pose_networks(&self) -> [&'static [u8]; 2] {
        [self.pose_detector, self.pose_estimator]
    }
}

/// The model that is used when none is named. Its training is in `models/demo/train`, what it can do in `models/demo/README.md`.
pub static DEMO: DemoModel = DemoModel {
    dit: include_bytes!("../demo/dit.safetensors"),
    vae: include_bytes!("../demo/vae.safetensors"),
    text_encoder: include_bytes!("../demo/umt5.safetensors"),
    image_encoder: include_bytes!("../demo/clip.safetensors"),
    tokenizer: include_bytes!("../demo/tokenizer.json"),
    pose_detector: include_bytes!("../demo/pose/detector.safetensors"),
    pose_estimator: include_bytes!("../demo/pose/estimator.safetensors"),
    config: include_str!("../demo/steadydance.json"),
    size: [192, 192],
    loras: &[EmbeddedLora { name: "demo-4step", bytes: include_bytes!("../demo/distill_4step_lora.safetensors") }],
};
