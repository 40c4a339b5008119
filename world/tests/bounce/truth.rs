//! On true clips the detectors find everything, and nothing else.

use ccl_world::space::{COLOUR, EVEN_RATE, ODD_RATE, PITCHES, pitch, timbre};
use ccl_world::{Clip, Prompt, World, find_impacts, find_onsets, measure, sync};

const CLIPS: usize = 512;

fn clips(seed: u64, rate: usize) -> Vec<Clip> {
    let world = World::new(seed, rate, CLIPS).unwrap();
    (0..CLIPS).map(|i| world.clip(i)).collect()
}

#[test]
fn everything_is_found_at_both_rates() {
    for (seed, rate) in [(5, EVEN_RATE), (5, ODD_RATE), (6, EVEN_RATE), (6, ODD_RATE)] {
        let clips = clips(seed, rate);
        let stack = |part: fn(&Clip) -> &Vec<f32>| -> Vec<f32> { clips.iter().flat_map(part).copied().collect() };
        let prompts: Vec<Prompt> = clips.iter().map(|c| c.truth.prompt).collect();
        let m = measure(&stack(|c| &c.video), &stack(|c| &c.audio), &prompts).unwrap();
        println!("{rate}: {m:#?}");
        assert_eq!(m.clips, CLIPS);
        for share in [m.sync.recall, m.sync.precision, m.sync.f1] {
            assert_eq!((share.one, share.half), (Some(1.0), Some(1.0)), "{rate}: {m:?}");
        }
        assert_eq!((m.timbre_match, m.colour_ok), (1.0, Some(1.0)), "{rate}");
        assert_eq!((m.pitch_error, m.pitch_unlisted), (Some(0.0), Some(0.0)), "{rate}");
        assert!((m.sync.impacts - 3.0).abs() < 0.15, "{rate}: {m:?}");
        assert_eq!(m.sync.impacts, m.sync.onsets, "{rate}");
        let offset = m.sync.offset.unwrap();
        assert!((0.055..0.068).contains(&offset), "{rate}: offset {offset}");
        // What the prototype saw: about .47 within a frame and .28 within half a frame.
        let (one, half) = (m.chance.recall.one.unwrap(), m.chance.recall.half.unwrap());
        assert!((0.42..0.52).contains(&one) && (0.22..0.32).contains(&half), "{rate}: chance {one} {half}");
        let p = m.chance.precision.one.unwrap();
        assert!((0.42..0.52).contains(&p), "{rate}: chance precision {p}");
    }
}

#[test]
fn what_is_found_is_what_happened() {
    for rate in [EVEN_RATE, ODD_RATE] {
        let clips = clips(7, rate);
        let found: Vec<_> =
            clips.iter().map(|c| (find_impacts(&c.video).unwrap(), find_onsets(&c.audio).unwrap())).collect();
        let impacts = sync(clips.iter().zip(&found).map(|(c, f)| (&c.truth.impacts[..], &f.0.times[..])));
        let onsets = sync(clips.iter().zip(&found).map(|(c, f)| (&c.truth.impacts[..], &f.1.times[..])));
        for (what, s) in [("impacts", impacts), ("onsets", onsets)] {
            assert_eq!((s.f1.one, s.f1.half), (Some(1.0), Some(1.0)), "{rate}, {what}: {s:?}");
            assert!(s.offset.unwrap() < 0.08, "{rate}, {what}: {s:?}");
        }
        for (clip, (v, a)) in clips.iter().zip(&found) {
            let prompt = clip.truth.prompt;
            assert_eq!((v.colour, a.timbre), (Some(prompt.colour), Some(prompt.colour)));
            assert!(a.pitches.iter().enumerate().all(|(k, p)| *p == prompt.pitch(k)), "{:?}", clip.truth);
        }
    }
}

#[test]
fn directions_are_orthonormal() {
    let audio: Vec<Vec<f64>> = (0..PITCHES).flat_map(|k| [pitch(k).to_vec(), timbre(k).to_vec()]).collect();
    let video: Vec<Vec<f64>> = COLOUR.iter().map(|c| c.to_vec()).collect();
    for basis in [audio, video] {
        for (i, a) in basis.iter().enumerate() {
            for (j, b) in basis.iter().enumerate() {
                let product: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((product - want).abs() < 1e-14, "{i} {j}: {product}");
            }
        }
    }
}
