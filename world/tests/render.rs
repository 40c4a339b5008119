//! What is rendered can be decoded again, lasts as long as it should, and shows and sounds what happens.

use std::io::Cursor;

use ccl_world::render::{PICTURES, PICTURES_PER_SECOND, SAMPLE_RATE, SAMPLES, gif, pictures, png, sound, strip, wav};
use ccl_world::space::{EVEN_RATE, ODD_RATE};
use ccl_world::{Clip, World};

fn clip(number: usize, rate: usize) -> Clip {
    World::new(11, rate, 64).unwrap().clip(number)
}

#[test]
fn look() {
    let Ok(dir) = std::env::var("LOOK") else { return };
    for i in 0..6 {
        let c = clip(i, if i % 2 == 0 { EVEN_RATE } else { ODD_RATE });
        println!("{i} {:?}", c.truth);
        let p = pictures(&c.video).unwrap();
        std::fs::write(format!("{dir}/{i}.gif"), gif(&p).unwrap()).unwrap();
        std::fs::write(format!("{dir}/{i}.wav"), wav(&sound(&c.audio).unwrap()).unwrap()).unwrap();
        let page = strip(Some(&c.video), Some(&c.audio)).unwrap();
        std::fs::write(format!("{dir}/{i}.png"), png(&page).unwrap()).unwrap();
        let mut sheet = ccl_world::render::Picture::filled(p[0].width * 10, p[0].height * 2, [0; 3]);
        for (k, q) in p.iter().skip(20).take(20).enumerate() {
            sheet.paste(q, (k % 10) * q.width, (k / 10) * q.height);
        }
        std::fs::write(format!("{dir}/{i}-frames.png"), png(&sheet).unwrap()).unwrap();
    }
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
