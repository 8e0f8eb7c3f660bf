//! The negative prompts that Wan's command line takes when none is given (data of the Wan 2.1 release, in Chinese;
//! image-to-video models name camera shake first, first-and-last-frame models a cut before that).

macro_rules! negative_prompt {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，",
            "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，",
            "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
        )
    };
}

/// Default negative prompt of text-to-video and VACE models.
pub const DEFAULT_NEGATIVE_PROMPT_T2V: &str = negative_prompt!("");

/// Default negative prompt of image-to-video models and of SteadyDancer.
pub const DEFAULT_NEGATIVE_PROMPT_I2V: &str = negative_prompt!("镜头晃动，");

/// Default negative prompt of first-and-last-frame models.
pub const DEFAULT_NEGATIVE_PROMPT_FLF2V: &str = negative_prompt!("镜头切换，镜头晃动，");
