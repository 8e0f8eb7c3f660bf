//! Finds the poses of a video, fits them to a picture, and says how good they are.
//!
//!     cargo run --release --example find_poses -- dance.mp4 me.png DETECTOR.onnx ESTIMATOR.onnx OUT_FOLDER

use steadydance::{Event, FinderOptions, Motion, Observer, PersonChoice, PoseModelPlaces, PoseRequest, find_poses};

/// Prints how far the networks are.
struct Frames;

impl Observer for Frames {
    fn event(&mut self, event: &Event) {
        if let Event::Progress { phase, done, total } = event {
            eprint!("\r{phase}: {done} of {total} ");
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [video, picture, detector, estimator, output] = &arguments[..] else {
        anyhow::bail!("give a video, a picture, a detector, an estimator and a folder for the result");
    };
    let options = FinderOptions {
        models: PoseModelPlaces {
            detector: Some(detector.into()),
            estimator: Some(estimator.into()),
            ..PoseModelPlaces::default()
        },
        cache: None,
    };
    let mut request = PoseRequest::new(Motion::Video { drive: video.into() }, output);
    request.reference = Some(picture.into());
    request.settings.person = PersonChoice::Center;
    request.settings.smooth = 0.5;

    let outcome = find_poses(&request, &options, &mut Frames)?;
    let quality = &outcome.quality;
    println!("\n{} frames, person found in {:.0} %", outcome.frames, 100.0 * quality.detection_rate);
    for warning in &quality.warnings {
        println!("- {warning}");
    }
    Ok(())
}
