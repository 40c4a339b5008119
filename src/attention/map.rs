//! The attention of one clip as a picture.

use std::fmt::Write;

use ccl_world::Clip;
use ccl_world::space::*;

use super::{Attention, Region, audio_regions, video_regions};

/// Size of a latent's cell, and the room between frames.
const CELL: f64 = 7.0;
const SPACE: f64 = 6.0;
/// Left edge of the drawings.
const LEFT: f64 = 96.0;

/// A clip's frames, the share of each token's attention that lies on context tokens, block by block, and the same over the audio.
pub fn svg(attention: &Attention, clip: &Clip) -> String {
    let frame_width = COLUMNS as f64 * CELL + SPACE;
    let width = LEFT + FRAMES as f64 * frame_width + 10.0;
    let mut body = String::new();
    let mut top = 22.0;
    let say = |body: &mut String, y: f64, text: &str| {
        let _ = writeln!(body, "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0);
    };
    // The ball as it is, without noise.
    say(&mut body, top + 4.0 * CELL, "clip");
    let colour = &COLOUR[clip.truth.prompt.colour.index()];
    for (frame, row, column) in cells() {
        let at = |c: usize| f64::from(clip.video[((c * FRAMES + frame) * ROWS + row) * COLUMNS + column]);
        let ball = (0..VIDEO_CHANNELS).map(|c| colour[c] * at(c)).sum::<f64>() / BALL;
        let grey = (235.0 - 200.0 * ball.clamp(0.0, 1.0)) as u8;
        square(&mut body, frame, row as f64, column as f64, top, CELL, &format!("#{grey:02x}{grey:02x}{grey:02x}"), "");
    }
    for t in &clip.truth.impacts {
        let x = LEFT + (t + 0.5) * frame_width - SPACE / 2.0;
        let _ = writeln!(body, "<path d=\"M{x:.1} {:.1}l-4 -7h8z\" fill=\"#d55e00\"/>", top - 3.0);
    }
    top += ROWS as f64 * CELL + 16.0;
    let regions = video_regions(clip);
    let (rows, columns) = (ROWS / 2, COLUMNS / 2);
    for (n, block) in named(&attention.video) {
        say(&mut body, top + 4.0 * CELL, &n);
        for (i, share) in block.iter().enumerate() {
            let (frame, row, column) = (i / (rows * columns), i / columns % rows, i % columns);
            let region = regions.get(i).map_or("", |r| r.name());
            let title = format!("frame {frame}, {region}: {share:.2}");
            square(&mut body, frame, 2.0 * row as f64, 2.0 * column as f64, top, 2.0 * CELL, &shade(*share), &title);
        }
        top += ROWS as f64 * CELL + 8.0;
    }
    top += 14.0;
    let _ = writeln!(body, "<text x=\"{LEFT}\" y=\"{:.1}\">audio tokens; bursts are marked below</text>", top - 4.0);
    let step = (FRAMES as f64 * frame_width - SPACE) / attention.look.rate as f64;
    for (n, block) in named(&attention.audio) {
        say(&mut body, top + 14.0, &n);
        for (i, share) in block.iter().enumerate() {
            let x = LEFT + i as f64 * step;
            let _ = writeln!(
                body,
                "<rect x=\"{x:.2}\" y=\"{top:.1}\" width=\"{:.2}\" height=\"18\" fill=\"{}\"><title>token {i}: {share:.2}</title></rect>",
                step + 0.1,
                shade(*share)
            );
        }
        top += 24.0;
    }
    for (i, _) in audio_regions(clip, attention.look.rate).iter().enumerate().filter(|(_, r)| **r == Region::Burst) {
        let x = LEFT + i as f64 * step;
        let _ = writeln!(
            body,
            "<rect x=\"{x:.2}\" y=\"{top:.1}\" width=\"{:.2}\" height=\"4\" fill=\"#d55e00\"/>",
            step + 0.1
        );
    }
    top += 26.0;
    let _ = writeln!(body, "<text x=\"{LEFT}\" y=\"{:.1}\">share on context tokens:  0</text>", top + 9.0);
    for i in 0..50 {
        let share = f64::from(i) / 49.0;
        let _ = writeln!(
            body,
            "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"3.1\" height=\"10\" fill=\"{}\"/>",
            LEFT + 168.0 + 3.0 * f64::from(i),
            shade(share)
        );
    }
    let _ = writeln!(body, "<text x=\"{:.1}\" y=\"{:.1}\">1</text>", LEFT + 326.0, top + 9.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        top + 22.0
    )
}

/// The mean over the blocks, then each block, with names.
fn named(blocks: &[Vec<f64>]) -> Vec<(String, Vec<f64>)> {
    let tokens = blocks.first().map_or(0, Vec::len);
    let mean = (0..tokens).map(|i| blocks.iter().map(|b| b[i]).sum::<f64>() / blocks.len() as f64).collect();
    let each = blocks.iter().enumerate().map(|(n, b)| (format!("block {n}"), b.clone()));
    std::iter::once(("all blocks".to_owned(), mean)).chain(each).collect()
}

fn cells() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..FRAMES).flat_map(|f| (0..ROWS).flat_map(move |r| (0..COLUMNS).map(move |c| (f, r, c))))
}

#[expect(clippy::too_many_arguments)]
fn square(body: &mut String, frame: usize, row: f64, column: f64, top: f64, size: f64, fill: &str, title: &str) {
    let x = LEFT + frame as f64 * (COLUMNS as f64 * CELL + SPACE) + column * CELL;
    let y = top + row * CELL;
    let title = if title.is_empty() { String::new() } else { format!("<title>{title}</title>") };
    let _ = writeln!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{size}\" height=\"{size}\" fill=\"{fill}\">{title}</rect>"
    );
}

/// Colour of a share, light for 0 and dark for 1, told apart with most kinds of sight.
fn shade(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)) as u8;
    format!("#{:02x}{:02x}{:02x}", mix(247.0, 8.0), mix(244.0, 48.0), mix(225.0, 107.0))
}
