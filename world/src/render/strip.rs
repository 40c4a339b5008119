//! A whole clip on one page: its frames in a row, when the ball hits and when it sounds, the pitches over time, and the sound's wave.

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_6X12;
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle, Triangle};
use embedded_graphics::text::{Alignment, Text};

use super::{Picture, SECONDS_PER_FRAME, Stage, display, sound};
use crate::detect::{find_impacts, find_onsets, without_hum};
use crate::error::WorldError;
use crate::prompt::Colour;
use crate::space::*;

/// Pixels from frame to frame, and of a cell in a frame's picture.
const FRAME: i32 = 58;
const CELL: usize = 12;
/// The end of the clip's sound: half a frame after the last picture's edge, as the first picture's middle is the beginning.
const END: i32 = LEFT + FRAME * FRAMES as i32 + FRAME / 2;
/// Room on the left for names, on the right and around.
const LEFT: i32 = 74;
const MARGIN: i32 = 12;
/// Rows of the page: title, frames, events, bands, wave, time.
const TITLE: i32 = 22;
const FRAMES_TOP: i32 = MARGIN + TITLE;
const EVENTS: i32 = 46;
const BAND: i32 = 20;
const WAVE: i32 = 64;
const TIME: i32 = 22;
const SPACE: i32 = 8;

/// A wave as high as its row.
const LOUD: f32 = 0.6;

const PAPER: Rgb888 = Rgb888::new(250, 249, 246);
const INK: Rgb888 = Rgb888::new(46, 48, 58);
const GREY: Rgb888 = Rgb888::new(140, 142, 150);
const FAINT: Rgb888 = Rgb888::new(222, 221, 216);
const NIGHT: [f64; 3] = [24.0, 27.0, 40.0];

/// Draws a clip from its latents; what a clip has not is left out.
///
/// # Errors
/// When a latent is none of this world, or there is neither.
pub fn strip(video: Option<&[f32]>, audio: Option<&[f32]>) -> Result<Picture, WorldError> {
    if video.is_none() && audio.is_none() {
        return Err(WorldError::option("strip", "there is neither a video nor an audio latent to draw"));
    }
    let stage = video.map(Stage::new).transpose()?;
    let frame = stage.as_ref().map(|stage| stage.picture(0.0, CELL));
    let frames_height = frame.as_ref().map_or(0, |p| p.height as i32 + SPACE);
    let sound_height = if audio.is_some() { PITCHES as i32 * BAND + SPACE + WAVE } else { 0 };
    let width = END + MARGIN;
    let height = FRAMES_TOP + frames_height + EVENTS + SPACE + sound_height + TIME + MARGIN;
    let mut page = Page(Picture::filled(width as usize, height as usize, [PAPER.r(), PAPER.g(), PAPER.b()]));

    let mut said = Vec::new();
    let events_top = FRAMES_TOP + frames_height;
    let sound_top = events_top + EVENTS + SPACE;
    if let Some(stage) = &stage {
        for i in 0..FRAMES {
            let picture = stage.picture(i as f64, CELL);
            let left = x_of(i as f64) - picture.width as i32 / 2;
            page.0.paste(&picture, left as usize, FRAMES_TOP as usize);
        }
        page.name("frames", FRAMES_TOP + frames_height / 2);
    }
    if let Some(audio) = audio {
        bands(&mut page, audio, sound_top)?;
        wave(&mut page, audio, sound_top + PITCHES as i32 * BAND + SPACE)?;
    }
    let middle = events_top + EVENTS / 2;
    page.line(LEFT, middle, END, middle, FAINT);
    if let Some(video) = video {
        let impacts = find_impacts(video)?;
        let colour = impacts.colour.map_or("no", Colour::name);
        said.push(format!("{colour} ball, {}", plural(impacts.times.len(), "impact")));
        for time in &impacts.times {
            let x = x_of(*time);
            page.line(x, FRAMES_TOP + frames_height - SPACE + 1, x, middle, INK);
            page.triangle(x, middle - 1, -13, impacts.colour.map_or(GREY, colour_of));
        }
        page.name("impacts", middle - 9);
    }
    if let Some(audio) = audio {
        let onsets = find_onsets(audio)?;
        let timbre = onsets.timbre.map_or("no", Colour::name);
        let pitches: Vec<String> = onsets.pitches.iter().map(usize::to_string).collect();
        said.push(format!("{timbre} timbre, {}", plural(onsets.times.len(), "onset")));
        if !pitches.is_empty() {
            said.push(format!("pitches {}", pitches.join(" ")));
        }
        for time in &onsets.times {
            let x = x_of(*time);
            page.line(x, middle, x, sound_top + PITCHES as i32 * BAND - 1, INK);
            page.triangle(x, middle + 1, 13, onsets.timbre.map_or(GREY, colour_of));
        }
        page.name("onsets", middle + 9);
    }
    page.text(&said.join("   "), LEFT, MARGIN + 10, Alignment::Left, INK);
    time_axis(&mut page, height - MARGIN - TIME);
    Ok(page.0)
}

/// The pitches over time, the highest on top, in the colour of the timbre that sounds with them.
fn bands(page: &mut Page, audio: &[f32], top: i32) -> Result<(), WorldError> {
    let tokens = without_hum(audio)?;
    let shown: Vec<[f64; COLOURS]> =
        tokens.iter().map(|x| std::array::from_fn(|k| dot(x, timbre(k)).max(0.0))).collect();
    for (token, x) in tokens.iter().enumerate() {
        let edge = |t: usize| x_of(t as f64 * FRAMES as f64 / tokens.len() as f64);
        let total: f64 = shown[token].iter().sum();
        let mut colour = [170.0; 3];
        if total > 0.0 {
            colour = [0.0; 3];
            for (share, timbre) in shown[token].iter().zip(Colour::ALL) {
                (0..3).for_each(|c| colour[c] += share / total * f64::from(display(timbre)[c]));
            }
        }
        for k in 0..PITCHES {
            // Without the faint noise of latents that a model made.
            let loud = ((dot(x, pitch(k)) / BURST - 0.08) / 0.92).clamp(0.0, 1.0).powf(0.7);
            let mixed: [u8; 3] = std::array::from_fn(|c| (NIGHT[c] + loud * (colour[c] - NIGHT[c])) as u8);
            let (left, right) = (edge(token), edge(token + 1));
            let band = top + (PITCHES - 1 - k) as i32 * BAND;
            page.fill(left, band, right - left, BAND - 1, Rgb888::new(mixed[0], mixed[1], mixed[2]));
        }
    }
    for k in 0..PITCHES {
        page.name(&format!("pitch {k}"), top + (PITCHES - 1 - k) as i32 * BAND + BAND / 2);
    }
    Ok(())
}

/// The sound's wave.
fn wave(page: &mut Page, audio: &[f32], top: i32) -> Result<(), WorldError> {
    let sound = sound(audio)?;
    let middle = top + WAVE / 2;
    page.line(LEFT, middle, END, middle, FAINT);
    for column in 0..FRAME * FRAMES as i32 {
        let at = |c: i32| (c as usize * sound.len()) / (FRAME as usize * FRAMES);
        let part = &sound[at(column)..at(column + 1).min(sound.len())];
        let (low, high) = part.iter().fold((0.0f32, 0.0f32), |(l, h), &x| (l.min(x), h.max(x)));
        let y = |x: f32| middle - ((x / LOUD).clamp(-1.0, 1.0) * (WAVE / 2) as f32).round() as i32;
        let x = x_of(0.0) + column;
        page.line(x, y(high), x, y(low), INK);
    }
    page.name("sound", middle);
    Ok(())
}

fn time_axis(page: &mut Page, top: i32) {
    let seconds = FRAMES as f64 * SECONDS_PER_FRAME;
    let mut time = 0.0;
    while time < seconds {
        let x = x_of(time / SECONDS_PER_FRAME);
        page.line(x, top, x, top + 4, GREY);
        page.text(&format!("{time:.1} s"), x, top + 15, Alignment::Center, GREY);
        time += 0.5;
    }
}

/// Where a time in frames is: frame 0 in the middle of the first picture.
fn x_of(time: f64) -> i32 {
    LEFT + ((time + 0.5) * f64::from(FRAME)).round() as i32
}

fn colour_of(colour: Colour) -> Rgb888 {
    let [r, g, b] = display(colour);
    Rgb888::new(r, g, b)
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A picture that can be drawn on; what lies outside is not drawn.
struct Page(Picture);

impl Page {
    fn line(&mut self, x0: i32, y0: i32, x1: i32, y1: i32, colour: Rgb888) {
        let line = Line::new(Point::new(x0, y0), Point::new(x1, y1));
        let Ok(()) = line.into_styled(PrimitiveStyle::with_stroke(colour, 1)).draw(self);
    }

    fn fill(&mut self, left: i32, top: i32, width: i32, height: i32, colour: Rgb888) {
        let size = Size::new(width.max(0) as u32, height.max(0) as u32);
        let Ok(()) = self.fill_solid(&Rectangle::new(Point::new(left, top), size), colour);
    }

    /// A triangle with its tip at a point, and its base `reach` rows below.
    fn triangle(&mut self, x: i32, y: i32, reach: i32, colour: Rgb888) {
        let half = reach.abs() / 2;
        let base = [Point::new(x - half, y + reach), Point::new(x + half, y + reach)];
        let triangle = Triangle::new(Point::new(x, y), base[0], base[1]);
        let Ok(()) = triangle.into_styled(PrimitiveStyle::with_fill(colour)).draw(self);
        let Ok(()) = triangle.into_styled(PrimitiveStyle::with_stroke(INK, 1)).draw(self);
    }

    fn text(&mut self, text: &str, x: i32, y: i32, alignment: Alignment, colour: Rgb888) {
        let style = MonoTextStyle::new(&FONT_6X12, colour);
        let Ok(_) = Text::with_alignment(text, Point::new(x, y), style, alignment).draw(self);
    }

    /// The name of a row, left of it.
    fn name(&mut self, name: &str, middle: i32) {
        self.text(name, LEFT - 10, middle + 3, Alignment::Right, GREY);
    }
}

impl OriginDimensions for Page {
    fn size(&self) -> Size {
        Size::new(self.0.width as u32, self.0.height as u32)
    }
}

impl DrawTarget for Page {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        let Picture { width, height, rgb } = &mut self.0;
        for Pixel(Point { x, y }, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y))
                && x < *width
                && y < *height
            {
                let at = (y * *width + x) * 3;
                rgb[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}
