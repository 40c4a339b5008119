//! Windows against the formulas of SPEC 3, written out token by token, and the drift of the paper's centre.

use ccl_ir::partition::Edge;
use ccl_model::tarp::{audio_windows, drift, nearest_frame};
use ccl_model::{Clip, Config, Grid, WindowCenter};

/// For each frame the audio tokens that it sees and whether each is there.
fn by_hand(config: &Config, frames: i64, length: i64) -> Vec<(Vec<usize>, Vec<bool>)> {
    let c = (length / frames).max(1);
    let size = config.window_frames as i64 * c;
    let row = |i: i64| {
        let center = match config.window_center {
            WindowCenter::Paper => c / 2 + c * i,
            WindowCenter::Proportional => ((2 * i + 1) * length) / (2 * frames),
        };
        let start = center - size / 2;
        if config.window_edge == Edge::Shift {
            let size = size.min(length);
            let start = start.max(0).min(length - size);
            return ((start..start + size).map(|j| j as usize).collect(), vec![true; size as usize]);
        }
        let inside = |j: i64| j >= 0 && j < length;
        let index = (start..start + size).map(|j| j.max(0).min(length - 1) as usize).collect();
        let valid = (start..start + size).map(|j| inside(j) || config.window_edge == Edge::Replicate).collect();
        (index, valid)
    };
    (0..frames).map(row).collect()
}

#[test]
fn windows_follow_the_formulas() {
    let mut config = crate::common::config();
    for window_center in [WindowCenter::Paper, WindowCenter::Proportional] {
        for window_edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
            for window_frames in 1..5 {
                config = Config { window_center, window_edge, window_frames, ..config };
                for frames in 1..9 {
                    for length in 1..40 {
                        let grid = Grid { frames, rows: 2, columns: 3, length };
                        let got = audio_windows(&config, &grid);
                        got.check().unwrap();
                        let want = by_hand(&config, frames as i64, length as i64);
                        assert_eq!(got.rows(), want, "{window_center:?} {window_edge:?} {frames} {length}");
                        assert_eq!((got.queries(), got.keys()), (frames * 6, length));
                    }
                }
            }
        }
    }
}

#[test]
fn audio_sees_the_nearest_frame() {
    for frames in 1..9 {
        for length in 1..40 {
            let got = nearest_frame(&Grid { frames, rows: 2, columns: 1, length }).rows();
            let want = |j: usize| vec![2 * (j * frames / length), 2 * (j * frames / length) + 1];
            assert_eq!(got, (0..length).map(|j| (want(j), vec![true; 2])).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_papers_centre_drifts() {
    let paper = crate::common::config();
    let clip: Clip = "21x44x80@158".parse().unwrap();
    let found = drift(&paper, &clip).unwrap();
    assert!((found.milliseconds - 373.0).abs() < 1.0, "{found:?}");
    assert!((found.tokens - 11.24).abs() < 0.01, "{found:?}");
    let text = found.to_string();
    assert!(text.contains("11.2 tokens (373 ms)") && text.contains("window_center = \"proportional\""), "{text}");
    assert!(!text.contains('\n'));

    assert_eq!(drift(&Config { window_center: WindowCenter::Proportional, ..paper.clone() }, &clip), None);
    for whole in ["21x44x80@147", "21x44x80@168"] {
        assert_eq!(drift(&paper, &whole.parse().unwrap()), None, "{whole}");
    }
    // Fewer tokens than frames: windows run ahead of their frames.
    assert!(drift(&paper, &"21x44x80@7".parse().unwrap()).is_some());
    // A clip that the model cannot take has no drift to speak of.
    assert_eq!(drift(&paper, &"21x45x80@158".parse().unwrap()), None);
}
