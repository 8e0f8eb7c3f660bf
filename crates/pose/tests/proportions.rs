//! Scales against puppets whose proportions are known.

mod puppet;

use pose::{Alignment, Aspects, OpenPose, ScaleGuard, Scales, Size};
use puppet::{Bones, HEIGHT, Puppet, Random, WIDTH, limb};

const SIZE: Size = Size::new(WIDTH, HEIGHT);
const ASPECTS: Aspects = Aspects { drive: WIDTH as f64 / HEIGHT as f64, canvas: WIDTH as f64 / HEIGHT as f64 };

fn pose(random: &mut Random, puppet: &Puppet, noise: f64) -> OpenPose {
    OpenPose::from_whole_body(&random.noisy(&puppet.keypoints(), noise), SIZE, 0.35)
}

fn values(s: &Scales) -> [f64; 9] {
    [s.neck, s.shoulder, s.body, s.arm_upper, s.arm_lower, s.leg_upper, s.leg_lower, s.face_left, s.face_right]
}

/// What the scales should be.
fn truth(reference: &Puppet, drive: &Puppet) -> [f64; 9] {
    let lengths = |p: &Puppet| {
        let b = p.bones;
        [b.neck, b.shoulder, b.torso, b.arm_upper, b.arm_lower, b.leg_upper, b.leg_lower, 1.0, 1.0]
            .map(|v| v * p.height)
    };
    let (to, from) = (lengths(reference), lengths(drive));
    std::array::from_fn(|i| to[i] / from[i])
}

/// Largest and mean error of scales, as factors less 1.
fn error(scales: &Scales, truth: &[f64; 9]) -> [f64; 2] {
    let off = values(scales).iter().zip(truth).map(|(a, b)| (a / b).max(b / a) - 1.0).collect::<Vec<_>>();
    [off.iter().copied().fold(0.0, f64::max), off.iter().sum::<f64>() / 9.0]
}

/// How the person stands in the measured frame.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Standing,
    ArmsAtCamera,
    OneArmAtCamera,
    HeadLowered,
    Turned,
    Sitting,
}

impl Start {
    fn of(self, mut puppet: Puppet) -> Puppet {
        match self {
            Start::Standing => {}
            Start::ArmsAtCamera => puppet.arms = [[limb(true, 0.3, 1.35); 2], [limb(false, 0.3, 1.35); 2]],
            Start::OneArmAtCamera => puppet.arms[0] = [limb(true, 0.3, 1.35); 2],
            Start::HeadLowered => puppet.nod = 1.3,
            Start::Turned => puppet.yaw = 1.25,
            Start::Sitting => {
                for (leg, left) in puppet.legs.iter_mut().zip([true, false]) {
                    leg[0] = limb(left, 0.3, 1.3);
                }
            }
        }
        puppet
    }
}

/// Mean over 20 pairs of people of the errors upstream, with the guard over one frame, and with the guard over the clip.
fn errors(start: Start, noise: f64) -> [[f64; 2]; 3] {
    let mut sums = [[0.0; 2]; 3];
    const PAIRS: usize = 20;
    for seed in 0..PAIRS as u64 {
        let mut random = Random::new(seed);
        let mut reference = Puppet::standing(random.between(300.0, 600.0), [600.0, 120.0]);
        reference.bones = Bones::random(&mut random);
        let mut drive = Puppet::standing(random.between(300.0, 600.0), [640.0, 140.0]);
        drive.bones = Bones::random(&mut random);
        let still = pose(&mut random, &reference, noise);
        // The person also comes nearer by a quarter.
        let dancing = |t: usize| {
            let near = Puppet { height: drive.height * (1.0 + 0.25 * t as f64 / 80.0), ..drive };
            near.dancing(t as f64 / 16.0, 1.0)
        };
        let motion: Vec<Option<OpenPose>> = (0..81)
            .map(|t| Some(pose(&mut random, &if t == 0 { start.of(drive) } else { dancing(t) }, noise)))
            .collect();
        let first = motion[0].as_ref().unwrap();
        let robust = ScaleGuard::default();
        let found = [
            Alignment::measure(&still, first, ASPECTS, ScaleGuard::Upstream).0,
            Alignment::measure(&still, first, ASPECTS, robust).0,
            Alignment::measure_clip(&still, &motion, 0, ASPECTS, robust).unwrap().0,
        ];
        for (sum, alignment) in sums.iter_mut().zip(found) {
            let found = error(alignment.scales(), &truth(&reference, &drive));
            sum.iter_mut().zip(found).for_each(|(a, b)| *a += b / PAIRS as f64);
        }
    }
    sums
}

#[test]
fn foreshortened_limbs_are_seen_through() {
    for (start, largest) in [
        (Start::ArmsAtCamera, 0.15),
        (Start::OneArmAtCamera, 0.15),
        (Start::HeadLowered, 0.2),
        (Start::Turned, 0.3),
        (Start::Sitting, 0.15),
    ] {
        let [upstream, frame, clip] = errors(start, 1.0);
        eprintln!("{start:?}: largest, mean error: upstream {upstream:.3?}, one frame {frame:.3?}, clip {clip:.3?}");
        assert!(upstream[0] > 0.4 && clip[0] < 0.5 * upstream[0] && clip[0] < largest, "{start:?}");
        assert!(clip[1] < upstream[1] && clip[1] < 0.08, "{start:?}");
    }
}

#[test]
fn who_stands_well_is_measured_as_upstream() {
    let [upstream, frame, clip] = errors(Start::Standing, 0.0);
    assert_eq!(upstream, frame);
    assert_eq!(upstream, clip, "to the bit");
    assert!(upstream[0] < 1e-9);
    // With noise the clip must not make it worse.
    let [upstream, _, clip] = errors(Start::Standing, 1.0);
    eprintln!("Standing, 1 px noise: upstream {upstream:.3?}, clip {clip:.3?}");
    assert!(clip[0] <= 1.1 * upstream[0] + 0.01, "{upstream:?} {clip:?}");
}

#[test]
fn hidden_limbs_do_not_count() {
    let mut random = Random::new(1);
    let reference = Puppet::standing(500.0, [600.0, 120.0]);
    let drive = Puppet::standing(400.0, [640.0, 140.0]);
    let still = pose(&mut random, &reference, 0.0);
    let mut first = drive.keypoints();
    // The left forearm is somewhere, and the detector knows that it does not know.
    (first.points[9], first.scores[9]) = ([100.0, 100.0], 0.1);
    let first = OpenPose::from_whole_body(&first, SIZE, 0.35);
    let (alignment, found) = Alignment::measure(&still, &first, ASPECTS, ScaleGuard::default());
    assert!((alignment.scales().arm_lower - 1.25).abs() < 1e-9);
    assert_eq!(found.iter().map(|d| d.part).collect::<Vec<_>>(), ["arm_lower"]);
    let (upstream, found) = Alignment::measure(&still, &first, ASPECTS, ScaleGuard::Upstream);
    assert!((upstream.scales().arm_lower - 1.25).abs() > 0.1);
    assert_eq!(found.len(), 1, "upstream uses it and says so");
    assert_eq!(found[0].measured, found[0].used);
}

#[test]
fn a_foreshortened_reference_is_compared_with_its_like() {
    // Both are turned alike in the measured frame; later the driving person faces the camera.
    let mut random = Random::new(2);
    let mut reference = Puppet::standing(500.0, [600.0, 120.0]);
    reference.yaw = 1.0;
    let drive = Puppet::standing(400.0, [640.0, 140.0]);
    let still = pose(&mut random, &reference, 0.0);
    let turned = Puppet { yaw: 1.0, ..drive };
    let motion: Vec<Option<OpenPose>> = (0..81)
        .map(|t| Some(pose(&mut random, &if t == 0 { turned } else { drive.dancing(t as f64 / 16.0, 1.0) }, 0.0)))
        .collect();
    let (alignment, _) = Alignment::measure_clip(&still, &motion, 0, ASPECTS, ScaleGuard::default()).unwrap();
    assert!((alignment.scales().shoulder - 1.25).abs() < 0.05, "{:?}", alignment.scales());
}

#[test]
fn a_large_head_is_kept() {
    // A drawn figure: a neck and head two and a half times as long, in both frames upright.
    let mut random = Random::new(4);
    let mut reference = Puppet::standing(500.0, [600.0, 160.0]);
    reference.bones.neck = 2.5;
    let drive = Puppet::standing(500.0, [640.0, 140.0]);
    let still = pose(&mut random, &reference, 0.0);
    let motion: Vec<Option<OpenPose>> = (0..40)
        .map(|t| Some(pose(&mut random, &if t == 0 { drive } else { drive.dancing(t as f64 / 16.0, 1.0) }, 0.0)))
        .collect();
    let (alignment, found) = Alignment::measure_clip(&still, &motion, 0, ASPECTS, ScaleGuard::default()).unwrap();
    assert!((alignment.scales().neck - 2.5).abs() < 1e-9 && found.is_empty(), "{found:?}");
}
