//! The ball's path between frames.
//!
//! Frames are far apart for a ball that bounces: fading from one to the next would show two balls. What moves is shifted along a path
//! instead. It goes through the ball's centre in every frame and through the floor at every impact that the detector found, as parabolas
//! in between, so that an impact which is counted is one that can be seen.

use crate::detect::Impacts;
use crate::space::{FRAMES, ROWS};

/// An impact this close to a frame, in frames, takes its place.
const SAME: f64 = 0.12;

/// Height above the floor and column of the ball's centre over time.
pub struct Track {
    /// Time and height, in order, of each arc; an impact ends one and begins the next.
    arcs: Vec<Vec<(f64, f64)>>,
    frames: Vec<Option<[f64; 2]>>,
}

impl Track {
    /// The path of a detected ball.
    pub fn new(impacts: &Impacts) -> Self {
        let mut arcs = vec![Vec::new()];
        let mut next = impacts.times.iter().copied().peekable();
        let mut push = |arcs: &mut Vec<Vec<(f64, f64)>>, until: f64| {
            while let Some(time) = next.next_if(|t| *t <= until) {
                arcs.iter_mut().last().into_iter().for_each(|arc| arc.push((time, 0.0)));
                arcs.push(vec![(time, 0.0)]);
            }
        };
        for (frame, place) in impacts.track.iter().enumerate() {
            let time = frame as f64;
            push(&mut arcs, time);
            let taken = impacts.times.iter().any(|t| (t - time).abs() < SAME);
            if let (Some([height, _]), false, Some(arc)) = (place, taken, arcs.last_mut()) {
                arc.push((time, *height));
            }
        }
        push(&mut arcs, f64::INFINITY);
        Self { arcs, frames: impacts.track.clone() }
    }

    /// The ball's centre in a frame, where there is a ball.
    pub fn in_frame(&self, frame: usize) -> Option<[f64; 2]> {
        self.frames[frame.min(FRAMES - 1)]
    }

    /// The ball's centre at a time from which it can be told: where there is a ball in the frame before and in the one after.
    pub fn at(&self, time: f64) -> Option<[f64; 2]> {
        let before = (time.max(0.0) as usize).min(FRAMES - 1);
        let after = (before + 1).min(FRAMES - 1);
        let ([_, left], [_, right]) = (self.in_frame(before)?, self.in_frame(after)?);
        let column = left + (right - left) * (time - before as f64).clamp(0.0, 1.0);
        let arc = self.arcs.iter().rev().find(|arc| arc.first().is_some_and(|(t, _)| *t <= time))?;
        Some([height(arc, time).clamp(0.0, ROWS as f64), column])
    }
}

/// The height at a time on an arc: a cubic between two places whose slopes are those of the parabolas through three. A parabola
/// comes out as it is.
fn height(arc: &[(f64, f64)], time: f64) -> f64 {
    let [first, .., last] = arc else { return arc.first().map_or(0.0, |p| p.1) };
    if time <= first.0 {
        return first.1;
    }
    let to = arc.partition_point(|p| p.0 <= time);
    if to == arc.len() {
        // Beyond the last frame: on along the parabola.
        let since = time - last.0;
        return last.1 + since * (slope(arc, arc.len() - 1) + since * bend(arc) / 2.0);
    }
    let ((t0, y0), (t1, y1)) = (arc[to - 1], arc[to]);
    let (width, s) = (t1 - t0, (time - t0) / (t1 - t0));
    let (m0, m1) = (slope(arc, to - 1) * width, slope(arc, to) * width);
    let (s2, s3) = (s * s, s * s * s);
    y0 * (2.0 * s3 - 3.0 * s2 + 1.0) + m0 * (s3 - 2.0 * s2 + s) + y1 * (3.0 * s2 - 2.0 * s3) + m1 * (s3 - s2)
}

/// The slope at a place of an arc with two places or more: that of the parabola through it and its neighbours.
fn slope(arc: &[(f64, f64)], at: usize) -> f64 {
    let rise = |i: usize| (arc[i + 1].1 - arc[i].1) / (arc[i + 1].0 - arc[i].0);
    if arc.len() == 2 {
        return rise(0);
    }
    let middle = at.clamp(1, arc.len() - 2);
    let (before, after) = (rise(middle - 1), rise(middle));
    let (left, right) = (arc[middle].0 - arc[middle - 1].0, arc[middle + 1].0 - arc[middle].0);
    let here = (before * right + after * left) / (left + right);
    here + (arc[at].0 - arc[middle].0) * 2.0 * (after - before) / (left + right)
}

/// Twice the curvature of the parabola through the last three places, 0 for fewer.
fn bend(arc: &[(f64, f64)]) -> f64 {
    let [.., a, b, c] = arc else { return 0.0 };
    2.0 * ((c.1 - b.1) / (c.0 - b.0) - (b.1 - a.1) / (b.0 - a.0)) / (c.0 - a.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;
    use crate::detect::find_impacts;

    #[test]
    fn a_parabola_comes_out_as_it_is() {
        let y = |t: f64| 1.0 + 3.0 * t - 0.7 * t * t;
        let arc: Vec<(f64, f64)> = [0.3, 1.0, 2.0, 3.0, 3.4].map(|t| (t, y(t))).to_vec();
        for t in [0.3, 0.5, 1.0, 1.7, 2.9, 3.3, 3.4, 4.1] {
            assert!((height(&arc, t) - y(t)).abs() < 1e-12, "{t}: {} {}", height(&arc, t), y(t));
        }
    }

    #[test]
    fn the_ball_touches_the_floor_at_impacts_and_is_where_the_frames_show_it() {
        let world = World::new(3, 128, 40).unwrap();
        for i in 0..40 {
            let impacts = find_impacts(&world.clip(i).video).unwrap();
            let track = Track::new(&impacts);
            for t in &impacts.times {
                assert!(track.at(*t).unwrap()[0] < 0.02, "clip {i} at {t}");
            }
            for frame in 0..FRAMES - 1 {
                let near = impacts.times.iter().any(|t| (t - frame as f64).abs() < SAME);
                let (shown, path) = (track.in_frame(frame).unwrap(), track.at(frame as f64).unwrap());
                // Below the floor the path does not go.
                assert!(
                    near || (shown[0].max(0.0) - path[0]).abs() < 1e-9,
                    "clip {i}, frame {frame}: {shown:?} {path:?}"
                );
            }
        }
    }
}
