//! What is rendered can be decoded again, lasts as long as it should, and shows and sounds what happens.

use std::io::Cursor;

use ccl_world::render::{
    PICTURES, PICTURES_PER_SECOND, Picture, SAMPLE_RATE, SAMPLES, SECONDS_PER_FRAME, Stage, display, gif, pictures,
    png, sound, strip, wav,
};
use ccl_world::space::{EVEN_RATE, FRAMES, ODD_RATE, VIDEO_SIZE};
use ccl_world::{Clip, Colour, World, find_impacts, find_onsets};

fn clip(number: usize, rate: usize) -> Clip {
    World::new(11, rate, 64).unwrap().clip(number)
}

/// A GIF's pictures: delay in hundredths of a second, and colours of the whole picture.
fn read_gif(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(bytes).unwrap();
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let palette = decoder.global_palette().unwrap().to_vec();
    let mut screen = vec![0u8; width * height];
    let mut all = Vec::new();
    while let Some(frame) = decoder.read_next_frame().unwrap() {
        for row in 0..usize::from(frame.height) {
            let to = (usize::from(frame.top) + row) * width + usize::from(frame.left);
            let from = row * usize::from(frame.width);
            let wide = usize::from(frame.width);
            screen[to..to + wide].copy_from_slice(&frame.buffer[from..from + wide]);
        }
        let rgb = screen.iter().flat_map(|&i| &palette[usize::from(i) * 3..usize::from(i) * 3 + 3]).copied().collect();
        all.push((frame.delay, rgb));
    }
    all
}

#[test]
fn picture_and_sound_end_together() {
    let clip = clip(1, ODD_RATE);
    let pictures = pictures(&clip.video).unwrap();
    let sound = sound(&clip.audio).unwrap();
    assert_eq!((pictures.len(), sound.len()), (PICTURES, SAMPLES));
    let seconds = pictures.len() as f64 / PICTURES_PER_SECOND as f64;
    assert_eq!((seconds, sound.len() as f64 / SAMPLE_RATE as f64), (4.0, 4.0));

    let read = read_gif(&gif(&pictures).unwrap());
    assert_eq!(read.len(), PICTURES);
    assert_eq!(read.iter().map(|(delay, _)| usize::from(*delay)).sum::<usize>(), 400, "hundredths of a second");
    // The same pictures, but for 256 colours.
    for (i, ((_, rgb), picture)) in read.iter().zip(&pictures).enumerate() {
        assert_eq!(rgb.len(), picture.rgb.len());
        let off: f64 = rgb.iter().zip(&picture.rgb).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let mean = off / rgb.len() as f64;
        assert!(mean < 4.0, "picture {i} is off by {mean} levels");
    }

    let wav = wav(&sound).unwrap();
    let reader = hound::WavReader::new(Cursor::new(wav)).unwrap();
    assert_eq!(
        (reader.spec().sample_rate as usize, reader.spec().channels, reader.duration() as usize),
        (16_000, 1, SAMPLES)
    );
    for (a, b) in reader.into_samples::<i16>().zip(&sound) {
        assert!((f32::from(a.unwrap()) / 32_767.0 - b).abs() < 1e-4);
    }
}

/// How far two colours are apart.
fn apart(a: &[u8], b: [u8; 3]) -> u32 {
    a.iter().zip(b).map(|(&a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
}

#[test]
fn the_ball_has_its_colour_and_is_where_it_should_be() {
    let mut seen = [0; 4];
    for i in 0..24 {
        let clip = clip(i, EVEN_RATE);
        let colour = clip.truth.prompt.colour;
        seen[colour.index()] += 1;
        let track = find_impacts(&clip.video).unwrap().track;
        let stage = Stage::new(&clip.video).unwrap();
        for (frame, place) in track.iter().enumerate() {
            let [height, column] = place.unwrap();
            let picture = stage.picture(frame as f64, 16);
            let x = ((column + 0.75) * 16.0) as usize;
            let y = ((6.3 - height + 1.0) * 16.0) as usize;
            let at = (y * picture.width + x) * 3;
            let pixel = &picture.rgb[at..at + 3];
            let nearest = Colour::ALL.into_iter().min_by_key(|c| apart(pixel, display(*c))).unwrap();
            assert_eq!(nearest, colour, "clip {i}, frame {frame}: {pixel:?}");
            // No ball far from it.
            let far = if height > 3.0 { 7.0 } else { 0.0 };
            let at = (((far + 1.0) * 16.0) as usize * picture.width + x) * 3;
            let wall = &picture.rgb[at..at + 3];
            assert!(
                Colour::ALL.into_iter().all(|c| apart(wall, display(c)) > 8000),
                "clip {i}, frame {frame}: {wall:?}"
            );
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
}

/// How strong a frequency is in some samples.
fn strength(samples: &[f32], frequency: f64) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    for (n, &x) in samples.iter().enumerate() {
        let phase = std::f64::consts::TAU * frequency * n as f64 / SAMPLE_RATE as f64;
        re += f64::from(x) * phase.cos();
        im += f64::from(x) * phase.sin();
    }
    re.hypot(im)
}

#[test]
fn every_onset_sounds_at_its_pitch() {
    for i in 0..24 {
        let clip = clip(i, if i % 2 == 0 { EVEN_RATE } else { ODD_RATE });
        let heard = sound(&clip.audio).unwrap();
        let onsets = find_onsets(&clip.audio).unwrap();
        let sample = |frames: f64| (frames * SECONDS_PER_FRAME * SAMPLE_RATE as f64) as usize;
        for (time, pitch) in onsets.times.iter().zip(&onsets.pitches) {
            let after = &heard[sample(*time + 0.15)..sample(*time + 0.75)];
            let strengths = [261.63, 329.63, 392.0, 523.25].map(|f| strength(after, f));
            let loudest = (0..4).max_by(|&a, &b| strengths[a].total_cmp(&strengths[b])).unwrap();
            assert_eq!(loudest, *pitch, "clip {i} at {time}: {strengths:?}");
        }
        // Nearly nothing before the first, loud after it, never beyond the limits.
        let size = |part: &[f32]| part.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let first = onsets.times[0];
        assert!(size(&heard[..sample(first - 0.2)]) < 0.05, "clip {i}");
        assert!(size(&heard[sample(first)..sample(first + 1.0)]) > 0.2, "clip {i}");
        assert!(size(&heard) <= 1.0 && heard[SAMPLES - 1].abs() < 0.01);
    }
}

#[test]
fn what_does_not_move_is_shown_once() {
    let still = vec![Picture::filled(6, 4, [10, 20, 30]); 3];
    let read = read_gif(&gif(&still).unwrap());
    assert_eq!(read.len(), 3);
    assert!(read.iter().all(|(delay, rgb)| *delay == 4 && apart(&rgb[..3], [10, 20, 30]) < 30));
    assert!(gif(&[]).is_err());
    assert!(gif(&[still[0].clone(), Picture::filled(4, 4, [0; 3])]).is_err());
    assert!(gif(&[Picture::filled(70_000, 1, [0; 3])]).is_err());
}

/// Also what a model makes early in its training: nothing, or noise far too large.
#[test]
fn everything_can_be_rendered() {
    let noise: Vec<f32> = (0..VIDEO_SIZE).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 50.0 - 10.0).collect();
    for (video, audio) in [(vec![0.0; VIDEO_SIZE], vec![0.0; 8 * FRAMES]), (noise.clone(), noise[..968].to_vec())] {
        assert_eq!(pictures(&video).unwrap().len(), PICTURES);
        assert!(sound(&audio).unwrap().iter().all(|x| x.is_finite() && x.abs() <= 1.0));
        for (v, a) in [(Some(&video[..]), None), (None, Some(&audio[..])), (Some(&video[..]), Some(&audio[..]))] {
            let page = strip(v, a).unwrap();
            let bytes = png(&page).unwrap();
            let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
            let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut rgb).unwrap();
            assert_eq!((info.width as usize, info.height as usize), (page.width, page.height));
            assert!(rgb == page.rgb);
        }
    }
    assert!(strip(None, None).is_err());
    assert!(pictures(&[0.0; 3]).is_err() && sound(&[]).is_err());
}
