//! A video latent as pictures.
//!
//! The four channels are turned into four amounts of colour (the colours are an orthonormal basis), enlarged smoothly, and shown: what is
//! strong as a ball of that colour, with light from the upper left; what is weak as a tint of the dark wall. The floor is drawn where a
//! ball that hits it is; it is decoration, everything else is the latent's.

use super::track::Track;
use super::{PICTURES, PICTURES_PER_SECOND, Picture, SECONDS_PER_FRAME, display};
use crate::detect::find_impacts;
use crate::error::WorldError;
use crate::prompt::Colour;
use crate::space::*;

/// Pixels of a cell in [`pictures`].
const PIXELS: usize = 32;
/// What a picture shows, in cells: some more than the latent has.
const LEFT: f64 = -0.75;
const RIGHT: f64 = 3.75;
const TOP: f64 = -1.0;
const BOTTOM: f64 = 8.25;
/// The wall, the floor and its edge.
const WALL: [f64; 3] = [24.0, 27.0, 40.0];
const GROUND: [f64; 3] = [52.0, 57.0, 78.0];
const EDGE: [f64; 3] = [104.0, 112.0, 146.0];
/// Amounts of a colour between which the edge of a ball is.
const RIM: (f64, f64) = (1.9, 2.5);
/// How far from a ball's centre its rim is, in cells: where a true ball falls to the middle of [`RIM`].
const RADIUS: f64 = 1.09;
/// Width of the curve by which cells are enlarged and how many cells it reaches; less blur would show the cells.
const BLUR: f64 = 0.6;
const REACH: isize = 2;
/// Makes up for what the blur takes from a ball's amplitude.
const SHARPEN: f64 = (SIGMA * SIGMA + BLUR * BLUR) / (SIGMA * SIGMA);
/// Levels by which an amount of 1 of a colour tints the wall.
const TINT: f64 = 52.0;
/// Most of a colour that is taken for the wall: three deviations of its texture and some.
const MOST_WALL: f64 = 0.9;

/// The pictures of a clip, 25 a second, from a video latent `[VIDEO_CHANNELS, FRAMES, ROWS, COLUMNS]`.
///
/// # Errors
/// When the latent is none of this world.
pub fn pictures(video: &[f32]) -> Result<Vec<Picture>, WorldError> {
    let stage = Stage::new(video)?;
    let frame = |i: usize| i as f64 / (PICTURES_PER_SECOND as f64 * SECONDS_PER_FRAME);
    Ok((0..PICTURES).map(|i| stage.picture(frame(i), PIXELS)).collect())
}

/// One cell's amounts of the four colours.
type Amounts = [f64; COLOURS];

/// A video latent, ready to be shown at any time and size.
pub struct Stage {
    /// The wall, `[ROWS][COLUMNS]`: what is weak and does not move.
    wall: Vec<Amounts>,
    /// The ball: the rest of every frame, `[FRAMES][ROWS][COLUMNS]`.
    ball: Vec<Amounts>,
    track: Track,
}

impl Stage {
    /// Takes a latent apart.
    ///
    /// # Errors
    /// When it is none of this world.
    pub fn new(video: &[f32]) -> Result<Self, WorldError> {
        let track = Track::new(&find_impacts(video)?);
        const CELLS: usize = ROWS * COLUMNS;
        let mut ball: Vec<Amounts> = (0..FRAMES * CELLS)
            .map(|cell| {
                let channel = |c| f64::from(video[c * FRAMES * CELLS + cell]);
                let channels: [f64; VIDEO_CHANNELS] = std::array::from_fn(channel);
                COLOUR.map(|colour| dot(&colour, &channels))
            })
            .collect();
        let still = |cell: usize, k: usize| {
            let mut over_time: Vec<f64> = (0..FRAMES).map(|f| ball[f * CELLS + cell][k]).collect();
            over_time.sort_by(f64::total_cmp);
            // A low one, as a ball only adds. A ball that stands still is more than a wall can be, and stays a ball.
            over_time[FRAMES / 8].clamp(-MOST_WALL, MOST_WALL)
        };
        let wall: Vec<Amounts> = (0..CELLS).map(|cell| std::array::from_fn(|k| still(cell, k))).collect();
        for (i, amounts) in ball.iter_mut().enumerate() {
            amounts.iter_mut().zip(wall[i % CELLS]).for_each(|(a, w)| *a -= w);
        }
        Ok(Self { wall, ball, track })
    }

    /// The picture at a time in frames, with so many pixels to a cell.
    pub fn picture(&self, time: f64, pixels: usize) -> Picture {
        let (width, height) = size(pixels);
        let before = (time.max(0.0) as usize).min(FRAMES - 1);
        let after = (before + 1).min(FRAMES - 1);
        let part = (time - before as f64).clamp(0.0, 1.0);
        // How far the ball of a frame is moved to be where it is now.
        let now = self.track.at(time);
        let shift = |frame: usize| match (now, self.track.in_frame(frame)) {
            (Some([h, x]), Some([h0, x0])) => (h0 - h, x - x0),
            _ => (0.0, 0.0),
        };
        let view = View { width, height, pixels };
        let mut wall = vec![[0.0; COLOURS]; width * height];
        view.add(&mut wall, &self.wall, 1.0, (0.0, 0.0), true);
        let mut ball = vec![[0.0; COLOURS]; width * height];
        for (frame, weight) in [(before, 1.0 - part), (after, part)] {
            let cells = &self.ball[frame * ROWS * COLUMNS..(frame + 1) * ROWS * COLUMNS];
            view.add(&mut ball, cells, weight * SHARPEN, shift(frame), false);
        }
        let colour = |pixel| view.shade(&wall, &ball, pixel).map(|c| c.round().clamp(0.0, 255.0) as u8);
        let rgb = (0..width * height).flat_map(colour).collect();
        Picture { width, height, rgb }
    }
}

/// Width and height of a picture; even, as video codecs want it.
fn size(pixels: usize) -> (usize, usize) {
    let even = |cells: f64| ((cells * pixels as f64) as usize).next_multiple_of(2);
    (even(RIGHT - LEFT), even(BOTTOM - TOP))
}

/// Which pixels there are, and where.
struct View {
    width: usize,
    height: usize,
    /// Pixels of a cell.
    pixels: usize,
}

impl View {
    /// The place of a row of pixels in cells, and of a column.
    fn y(&self, row: usize) -> f64 {
        TOP + (row as f64 + 0.5) / self.pixels as f64
    }

    fn x(&self, column: usize) -> f64 {
        LEFT + (column as f64 + 0.5) / self.pixels as f64
    }

    /// Adds cells, enlarged and moved down and to the right. Beyond their edge there is the edge again, or nothing.
    fn add(&self, to: &mut [Amounts], cells: &[Amounts], weight: f64, (down, right): (f64, f64), edge: bool) {
        if weight == 0.0 {
            return;
        }
        let columns: Vec<_> = (0..self.width).map(|column| taps(self.x(column) - right, COLUMNS, edge)).collect();
        let wide: Vec<Vec<Amounts>> = cells
            .chunks_exact(COLUMNS)
            .map(|row| columns.iter().map(|taps| mix(taps, |c| &row[c])).collect())
            .collect();
        for (row, out) in to.chunks_exact_mut(self.width).enumerate() {
            let taps = taps(self.y(row) - down, ROWS, edge);
            for (column, out) in out.iter_mut().enumerate() {
                let amounts = mix(&taps, |r| &wide[r][column]);
                out.iter_mut().zip(amounts).for_each(|(o, a)| *o += weight * a);
            }
        }
    }

    /// The colour of a pixel from the amounts at it and around it.
    fn shade(&self, wall: &[Amounts], ball: &[Amounts], pixel: usize) -> [f64; 3] {
        let Self { width, height, pixels } = *self;
        let y = self.y(pixel / width);
        let here = &ball[pixel];
        let mut colour = WALL;
        for (k, amount) in wall[pixel].iter().zip(here).map(|(w, b)| w + b).enumerate() {
            let tint = display(Colour::ALL[k]).map(|c| f64::from(c) / 255.0);
            (0..3).for_each(|c| colour[c] += TINT * amount.clamp(-1.0, 1.0) * (tint[c] - 0.35));
        }
        let floor = FLOOR + RADIUS;
        let ground = ((y - floor) * pixels as f64).clamp(0.0, 1.0);
        let edge = if y < floor + 0.06 { EDGE } else { GROUND };
        (0..3).for_each(|c| colour[c] += ground * (edge[c] + 0.4 * (colour[c] - WALL[c]) - colour[c]));

        // Light from the upper left: an amount that grows away from the light faces it.
        let step = (pixels / 4).max(1);
        let (row, column) = (pixel / width, pixel % width);
        let to = (row + step).min(height - 1) * width + (column + step).min(width - 1);
        let from = row.saturating_sub(step) * width + column.saturating_sub(step);
        let (mut cover, mut lit) = (0.0f64, [0.0; 3]);
        let mut total = 0.0;
        for (k, amount) in here.iter().enumerate() {
            let alpha = smooth((amount - RIM.0) / (RIM.1 - RIM.0));
            if alpha == 0.0 {
                continue;
            }
            let light = (ball[to][k] - ball[from][k]) / 2.0;
            let shine = smooth((amount - 2.6) / 1.4) * smooth((light - 0.1) / 0.8);
            let base = display(Colour::ALL[k]).map(f64::from);
            for (l, base) in lit.iter_mut().zip(base) {
                let front = base * (0.86 + 0.16 * light.clamp(-2.0, 1.0));
                *l += alpha * (front + 0.55 * shine * (255.0 - front));
            }
            cover = cover.max(alpha);
            total += alpha;
        }
        if total > 0.0 {
            (0..3).for_each(|c| colour[c] += cover * (lit[c] / total - colour[c]));
        }
        colour
    }
}

/// The cells around a place on one axis, with their weights: a bell curve, which keeps a round ball round.
fn taps(at: f64, cells: usize, edge: bool) -> Vec<(usize, f64)> {
    let first = at.round() as isize - REACH;
    let all: Vec<(isize, f64)> = (first..=first + 2 * REACH)
        .map(|cell| (cell, (-(cell as f64 - at).powi(2) / (2.0 * BLUR * BLUR)).exp()))
        .collect();
    let sum: f64 = all.iter().map(|(_, w)| w).sum();
    let last = cells as isize - 1;
    let inside = all.into_iter().filter(|(cell, _)| edge || (0..=last).contains(cell));
    inside.map(|(cell, w)| (cell.clamp(0, last) as usize, w / sum)).collect()
}

/// The weighted sum of amounts.
fn mix<'a>(taps: &[(usize, f64)], of: impl Fn(usize) -> &'a Amounts) -> Amounts {
    let mut out = [0.0; COLOURS];
    for (i, weight) in taps {
        out.iter_mut().zip(of(*i)).for_each(|(o, a)| *o += weight * a);
    }
    out
}

/// From 0 to 1 without a corner.
pub(super) fn smooth(x: f64) -> f64 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}
