//! Pictures and sound as files of the usual kinds, in memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Cursor;

use color_quant::NeuQuant;
use gif::{DisposalMethod, Encoder, Frame, Repeat};

use super::{PICTURES_PER_SECOND, Picture, SAMPLE_RATE};
use crate::error::WorldError;

/// Pictures from which a GIF's colours are chosen: one of so many.
const EVERY: usize = 6;

/// An animated GIF that repeats for ever, [`PICTURES_PER_SECOND`] pictures a second, all of one size.
///
/// # Errors
/// When there is no picture, or one is too large for the format or has another size.
pub fn gif(pictures: &[Picture]) -> Result<Vec<u8>, WorldError> {
    let fail = |e: &dyn std::fmt::Display| WorldError::option("GIF", e.to_string());
    let first = pictures.first().ok_or_else(|| fail(&"there is no picture"))?;
    let side = |n: usize| u16::try_from(n).map_err(|_| fail(&"the picture is too large"));
    let (width, height) = (side(first.width)?, side(first.height)?);
    if pictures.iter().any(|p| (p.width, p.height) != (first.width, first.height)) {
        return Err(fail(&"pictures differ in size"));
    }
    // One palette for all: colours that change from picture to picture would flicker.
    let rgba = |p: &Picture| p.rgb.chunks_exact(3).flat_map(|c| [c[0], c[1], c[2], 255]).collect::<Vec<u8>>();
    let chosen: Vec<u8> = pictures.iter().step_by(EVERY).flat_map(rgba).collect();
    let palette = NeuQuant::new(3, 256, &chosen);
    let mut known: HashMap<[u8; 3], u8> = HashMap::new();

    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, &palette.color_map_rgb()).map_err(|e| fail(&e))?;
    encoder.set_repeat(Repeat::Infinite).map_err(|e| fail(&e))?;
    let mut before: Option<Vec<u8>> = None;
    for picture in pictures {
        let mut index = |c: &[u8]| {
            let rgb = [c[0], c[1], c[2]];
            *known.entry(rgb).or_insert_with(|| palette.index_of(&[c[0], c[1], c[2], 255]) as u8)
        };
        let pixels: Vec<u8> = picture.rgb.chunks_exact(3).map(&mut index).collect();
        let mut frame = changed(before.as_deref(), &pixels, first.width, first.height);
        frame.delay = (100 / PICTURES_PER_SECOND) as u16;
        encoder.write_frame(&frame).map_err(|e| fail(&e))?;
        before = Some(pixels);
    }
    drop(encoder);
    Ok(bytes)
}

/// The smallest rectangle that holds every pixel which is not as before.
fn changed(before: Option<&[u8]>, pixels: &[u8], width: usize, height: usize) -> Frame<'static> {
    let (mut left, mut right, mut top, mut bottom) = (0, width, 0, height);
    if let Some(before) = before {
        // A picture like the one before it still takes its time: one pixel.
        (left, right, top, bottom) = (width - 1, 0, height - 1, 0);
        let moved = pixels.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b);
        for (i, _) in moved {
            (left, right) = (left.min(i % width), right.max(i % width + 1));
            (top, bottom) = (top.min(i / width), bottom.max(i / width + 1));
        }
        (right, bottom) = (right.max(left + 1), bottom.max(top + 1));
    }
    let rows = (top..bottom).flat_map(|row| &pixels[row * width + left..row * width + right]);
    Frame {
        left: left as u16,
        top: top as u16,
        width: (right - left) as u16,
        height: (bottom - top) as u16,
        buffer: Cow::Owned(rows.copied().collect()),
        dispose: DisposalMethod::Keep,
        ..Frame::default()
    }
}

/// A picture as a PNG file.
///
/// # Errors
/// When it is too large for the format, or its pixels are not as many as its size says.
pub fn png(picture: &Picture) -> Result<Vec<u8>, WorldError> {
    let fail = |e: &dyn std::fmt::Display| WorldError::option("PNG", e.to_string());
    let side = |n: usize| u32::try_from(n).map_err(|_| fail(&"the picture is too large"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(picture.width)?, side(picture.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| fail(&e))?;
    writer.write_image_data(&picture.rgb).map_err(|e| fail(&e))?;
    writer.finish().map_err(|e| fail(&e))?;
    Ok(bytes)
}

/// Sound as a WAV file: one channel, 16 bits, [`SAMPLE_RATE`] samples a second.
///
/// # Errors
/// When it is too long for the format.
pub fn wav(sound: &[f32]) -> Result<Vec<u8>, WorldError> {
    let fail = |e: hound::Error| WorldError::option("WAV", e.to_string());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE as u32,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).map_err(fail)?;
    for x in sound {
        writer.write_sample((x.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16).map_err(fail)?;
    }
    writer.finalize().map_err(fail)?;
    Ok(bytes.into_inner())
}
