use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use testkit::video::{psnr, smooth};
use weights::{Manifest, RandomWeights, Weights};

use crate::stack::Whole;
use crate::{Config, Decoder, Encoder, Tile, Tiles, Vae, clamp_pixels, layers, manifest};

fn random() -> Weights {
    Weights::new(Arc::new(RandomWeights::new(7)), Device::Cpu, None)
}

fn tiny() -> Vae {
    Vae::new(&Config::tiny(), &random()).unwrap()
}

/// Values in [−1, 1] that differ everywhere.
fn waves(dims: [usize; 5]) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin() * (i as f32 * 0.0113).cos()).collect();
    Tensor::from_vec(values, &dims, &Device::Cpu).unwrap()
}

fn chunks(x: &Tensor, sizes: &[usize]) -> Vec<Tensor> {
    let mut start = 0;
    let mut take = |n: usize| {
        start += n;
        x.narrow(2, start - n, n).unwrap()
    };
    sizes.iter().map(|n| take(*n)).collect()
}

fn assert_same(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let difference = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(difference, 0.0);
}

#[test]
fn the_released_network_has_the_known_number_of_parameters() {
    let all = manifest(&Config::wan21()).unwrap();
    assert_eq!((all.parameters(), all.tensors().len()), (126_892_531, 194));
    assert_eq!(all.under("encoder.").parameters(), 53_595_872);
    assert_eq!(all.under("decoder.").parameters(), 73_295_331);
    assert_eq!((all.under("conv1.").parameters(), all.under("conv2.").parameters()), (1_056, 272));
    let shape = |name: &str| all.get(name).unwrap().shape.clone();
    assert_eq!(shape("decoder.upsamples.3.time_conv.weight"), [768, 384, 3, 1, 1]);
    assert_eq!(shape("decoder.upsamples.4.shortcut.weight"), [384, 192, 1, 1, 1]);
    assert_eq!(shape("encoder.downsamples.8.resample.1.weight"), [384, 384, 3, 3]);
    assert_eq!(shape("encoder.middle.1.norm.gamma"), [384, 1, 1]);
}

#[test]
fn the_configuration_is_read_off_either_half() {
    let halves: [fn(&Config) -> Result<Manifest>; 3] =
        [manifest, |c| Manifest::record(|w| Encoder::new(c, w)), |c| Manifest::record(|w| Decoder::new(c, w))];
    let wide =
        Config { dim_mult: vec![1, 3, 4], temporal_downsample: vec![true, false], num_res_blocks: 3, ..Config::tiny() };
    for config in [Config::wan21(), Config::tiny(), wide] {
        for half in halves {
            let tensors = half(&config).unwrap();
            let detected = Config::detect(|name| tensors.get(name).map(|t| t.shape.clone())).unwrap();
            assert_eq!(detected, config);
        }
    }
    let message = Config::detect(|_| None).unwrap_err().to_string();
    assert!(message.contains("not a Wan 2.1 VAE"), "{message}");
    let other = manifest(&Config { z_dim: 48, mean: vec![0.0; 48], std: vec![1.0; 48], ..Config::tiny() }).unwrap();
    assert!(Config::detect(|name| other.get(name).map(|t| t.shape.clone())).is_err());
}

#[test]
fn encoding_in_any_chunks_is_the_whole_bit_for_bit() {
    let encoder = tiny().encoder;
    let video = waves([1, 3, 17, 24, 32]);
    let by_layer = || Whole::new(&layers::encoder(&Config::tiny()), &random()).unwrap();
    let whole = encoder.normalised(&by_layer().push(&video).unwrap().unwrap()).unwrap();
    assert_eq!(whole.dims(), [1, 16, 5, 3, 4]);
    assert_same(&encoder.encode(&video).unwrap(), &whole);
    for sizes in [&[1, 4, 4, 4, 4][..], &[1, 8, 8], &[1, 16], &[17], &[2, 3, 5, 7]] {
        let parts = chunks(&video, sizes).into_iter().map(Ok);
        assert_same(&encoder.encode_frames(parts).unwrap(), &whole);
    }
    // Layer by layer over several frames at a time, with what the layers remember in between.
    for sizes in [[1, 4, 12], [9, 4, 4], [5, 8, 4]] {
        let mut stack = by_layer();
        let parts: Vec<Tensor> = chunks(&video, &sizes).iter().map(|c| stack.push(c).unwrap().unwrap()).collect();
        assert_same(&encoder.normalised(&Tensor::cat(&parts, 2).unwrap()).unwrap(), &whole);
    }
}

#[test]
fn decoding_in_any_chunks_is_the_whole_bit_for_bit() {
    let decoder = tiny().decoder;
    let latents = waves([1, 16, 5, 3, 4]);
    let mut by_layer = Whole::new(&layers::decoder(&Config::tiny()), &random()).unwrap();
    let whole = by_layer.push(&decoder.denormalised(&latents).unwrap()).unwrap().unwrap();
    assert_eq!(whole.dims(), [1, 3, 17, 24, 32]);
    assert_same(&decoder.decode_all(&latents).unwrap(), &whole);
    for sizes in [&[1, 1, 1, 1, 1][..], &[1, 4], &[5], &[2, 3]] {
        let mut stream = decoder.stream();
        let parts: Vec<Tensor> = chunks(&latents, sizes).iter().map(|c| stream.push(c).unwrap()).collect();
        assert_same(&Tensor::cat(&parts, 2).unwrap(), &whole);
    }
    let lengths: Vec<usize> = decoder.decode(&latents).unwrap().map(|c| c.unwrap().dim(2).unwrap()).collect();
    assert_eq!(lengths, [1, 4, 4, 4, 4]);
}

#[test]
fn no_frame_sees_a_later_one() {
    let vae = tiny();
    let video = waves([1, 3, 9, 16, 24]);
    let latents = vae.encode(&video).unwrap();
    let image = vae.encode(&video.narrow(2, 0, 1).unwrap()).unwrap();
    assert_same(&image, &latents.narrow(2, 0, 1).unwrap());
    let shorter = vae.encode(&video.narrow(2, 0, 5).unwrap()).unwrap();
    assert_same(&shorter, &latents.narrow(2, 0, 2).unwrap());
    let pixels = vae.decoder.decode_all(&latents).unwrap();
    let first = vae.decoder.decode_all(&latents.narrow(2, 0, 1).unwrap()).unwrap();
    assert_same(&first, &pixels.narrow(2, 0, 1).unwrap());
}

#[test]
fn a_batch_is_its_members() {
    let vae = tiny();
    let video = waves([2, 3, 5, 16, 16]);
    let both = vae.encode(&video).unwrap();
    let pixels = vae.decoder.decode_all(&both).unwrap();
    for b in 0..2 {
        assert_same(&vae.encode(&video.narrow(0, b, 1).unwrap()).unwrap(), &both.narrow(0, b, 1).unwrap());
        let one = vae.decoder.decode_all(&both.narrow(0, b, 1).unwrap()).unwrap();
        assert_same(&one, &pixels.narrow(0, b, 1).unwrap());
    }
}

#[test]
fn shapes_go_round() {
    let vae = tiny();
    for (frames, height, width) in [(1, 8, 8), (5, 8, 24), (9, 40, 16)] {
        let video = waves([1, 3, frames, height, width]);
        let latents = vae.encode(&video).unwrap();
        assert_eq!(latents.dims(), [1, 16, (frames - 1) / 4 + 1, height / 8, width / 8]);
        let pixels = vae.decoder.decode_all(&latents).unwrap();
        assert_eq!(pixels.dims(), video.dims());
        let clamped = clamp_pixels(&(pixels * 100.0).unwrap()).unwrap();
        assert_eq!(clamped.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 1.0);
    }
}

#[test]
fn latents_are_normalised_with_the_statistics() {
    let (config, weights) = (Config::tiny(), random());
    let video = waves([1, 3, 1, 16, 16]);
    let raw = Encoder::new(&config.clone().raw_latents(), &weights).unwrap().encode(&video).unwrap();
    let normalised = Encoder::new(&config, &weights).unwrap().encode(&video).unwrap();
    let value =
        |t: &Tensor, c: usize| t.get(0).unwrap().get(c).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
    for c in 0..16 {
        let want = (f64::from(value(&raw, c)) - config.mean[c]) / config.std[c];
        assert!((f64::from(value(&normalised, c)) - want).abs() < 1e-5, "channel {c}");
    }
    let back = Decoder::new(&config.clone().raw_latents(), &weights).unwrap().decode_all(&raw).unwrap();
    let same = Decoder::new(&config, &weights).unwrap().decode_all(&normalised).unwrap();
    let error = (back - same).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(error < 1e-4, "{error}");
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let vae = tiny();
    let message = |dims: &[usize]| {
        let video = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        vae.encode(&video).unwrap_err().to_string()
    };
    assert!(message(&[1, 3, 4, 16, 16]).contains("4 frames; expected 4·n+1, nearest 5"));
    assert!(message(&[1, 3, 5, 20, 16]).contains("multiples of 8"));
    assert!(message(&[1, 4, 5, 16, 16]).contains("expected [B, 3, frames, height, width]"));
    assert!(message(&[3, 5, 16, 16]).contains("has shape"));
    assert!(message(&[1, 3, 0, 16, 16]).contains("has shape"));

    let unfinished = chunks(&waves([1, 3, 6, 16, 16]), &[1, 5]).into_iter().map(Ok);
    assert!(vae.encoder.encode_frames(unfinished).unwrap_err().to_string().contains("6 frames"));
    assert!(vae.encoder.encode_frames([]).unwrap_err().to_string().contains("0 frames"));
    let broken = [Err(candle_core::Error::msg("the file ends here"))];
    assert!(vae.encoder.encode_frames(broken).unwrap_err().to_string().contains("the file ends here"));

    let mut stream = vae.encoder.stream();
    stream.push(&waves([1, 3, 1, 16, 16])).unwrap();
    assert!(stream.push(&waves([1, 3, 1, 16, 24])).unwrap_err().to_string().contains("after chunks of"));
    let mut stream = vae.decoder.stream();
    stream.push(&waves([1, 16, 1, 2, 2])).unwrap();
    assert!(stream.push(&waves([2, 16, 1, 2, 2])).is_err());
    assert!(vae.decode(&waves([1, 4, 1, 2, 2])).is_err());
    assert!(Vae::new(&Config { num_res_blocks: 0, ..Config::tiny() }, &random()).is_err());
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Mean absolute difference of neighbouring columns of the last axis: at each column.
fn steps(x: &Tensor) -> Vec<f64> {
    let width = x.dim(4).unwrap();
    let values = flat(x);
    let mut sums = vec![0.0; width - 1];
    for row in values.chunks_exact(width) {
        for (sum, pair) in sums.iter_mut().zip(row.windows(2)) {
            *sum += f64::from((pair[1] - pair[0]).abs());
        }
    }
    sums.iter().map(|s| s / (values.len() / width) as f64).collect()
}

fn decoded(decoder: &Decoder, latents: &Tensor, tile: Option<Tile>) -> Tensor {
    let chunks: Vec<Tensor> =
        decoder.decode_tiled(latents, tile, &mut |_, _| Ok(())).unwrap().map(Result::unwrap).collect();
    let lengths: Vec<usize> = chunks.iter().map(|c| c.dim(2).unwrap()).collect();
    assert!(lengths[0] == 1 && lengths[1..].iter().all(|n| *n == 4), "{lengths:?}");
    Tensor::cat(&chunks, 2).unwrap()
}

#[test]
fn one_tile_that_covers_the_picture_is_the_whole_bit_for_bit() {
    let vae = tiny();
    let (video, latents) = (waves([1, 3, 5, 48, 64]), waves([1, 16, 2, 6, 8]));
    for tile in [None, Some(Tile::new(64)), Some(Tile { size: 512, overlap: 64 })] {
        assert_same(&vae.encoder.encode_tiled(&video, tile).unwrap(), &vae.encode(&video).unwrap());
        assert_same(&decoded(&vae.decoder, &latents, tile), &vae.decoder.decode_all(&latents).unwrap());
        assert!(vae.decoder.decode_tiled(&latents, tile, &mut |_, _| unreachable!()).unwrap().is_streamed());
    }
}

#[test]
fn tiles_are_near_the_whole_and_leave_no_seams() {
    let vae = tiny();
    let latents = smooth([1, 16, 3, 20, 36]).unwrap();
    let whole = vae.decoder.decode_all(&latents).unwrap();
    let video = clamp_pixels(&smooth([1, 3, 5, 160, 288]).unwrap()).unwrap();
    let whole_latents = vae.encode(&video).unwrap();
    let mut before = 0.0;
    for tile in [Tile { size: 96, overlap: 16 }, Tile { size: 128, overlap: 48 }, Tile { size: 192, overlap: 96 }] {
        let tiled = decoded(&vae.decoder, &latents, Some(tile));
        assert_eq!(tiled.dims(), whole.dims());
        let encoded = vae.encoder.encode_tiled(&video, Some(tile)).unwrap();
        assert_eq!(encoded.dims(), whole_latents.dims());
        let (pixels, codes) = (psnr(&tiled, &whole).unwrap(), psnr(&encoded, &whole_latents).unwrap());
        // Neighbouring columns must not differ more where tiles begin and end than they do elsewhere.
        let tiles = Tiles::new(&Config::tiny(), 160, 288, Some(tile)).unwrap();
        let (all, plain) = (steps(&tiled), steps(&whole));
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let borders: Vec<usize> = (0..tiles.len())
            .flat_map(|i| {
                let columns = Tensor::arange(0u32, 288, &Device::Cpu).unwrap().broadcast_as((160, 288)).unwrap();
                let part = tiles.of_pixels(i, &columns).unwrap().get(0).unwrap().to_vec1::<u32>().unwrap();
                [part[0] as usize, part[part.len() - 1] as usize + 1]
            })
            .filter(|x| *x > 0 && *x < 288)
            .collect();
        let worst = borders.iter().map(|x| all[x - 1] / plain[x - 1].max(mean)).fold(0.0, f64::max);
        println!("{tile:?}, {} tiles: pixels {pixels:.1} dB, latents {codes:.1} dB, borders {worst:.2}", tiles.len());
        assert!(!borders.is_empty() && worst < 2.0, "{worst}");
        assert!(pixels > before && pixels > 15.0 && codes > 15.0, "{pixels} {codes}");
        before = pixels - 1.0;
    }
}

#[test]
fn tiles_tell_how_far_they_are_and_can_be_stopped() {
    let vae = tiny();
    let latents = waves([2, 16, 3, 4, 12]);
    let tile = Some(Tile { size: 32, overlap: 8 });
    let mut seen = Vec::new();
    let video = vae.decoder.decode_tiled(&latents, tile, &mut |done, of| {
        seen.push((done, of));
        Ok(())
    });
    let video = Tensor::cat(&video.unwrap().collect::<Result<Vec<_>>>().unwrap(), 2).unwrap();
    assert_eq!(video.dims(), [2, 3, 9, 32, 96]);
    assert_eq!(seen, (0..=12).map(|done| (done, 12)).collect::<Vec<_>>());
    // A batch is its members.
    let one = decoded(&vae.decoder, &latents.narrow(0, 1, 1).unwrap(), tile);
    assert_same(&one, &video.narrow(0, 1, 1).unwrap());
    let stop = &mut |done, _| if done == 2 { candle_core::bail!("cancelled") } else { Ok(()) };
    assert!(vae.decoder.decode_tiled(&latents, tile, stop).unwrap_err().to_string().contains("cancelled"));
    let error = vae.decoder.decode_tiled(&latents, Some(Tile { size: 30, overlap: 8 }), &mut |_, _| Ok(()));
    assert!(error.unwrap_err().to_string().contains("VAE tiles of 30 pixels"));
}
