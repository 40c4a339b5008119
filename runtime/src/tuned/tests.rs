//! Files of tiles: what is read, what is left out, what is refused.

use ccl_codegen::gpu::tiles::{AttentionProblem, Problem, ProductProblem, Work};

use super::*;

fn target() -> Target {
    Target::cuda("cuda:sm_90a", 90)
}

/// A file with a product and an attention, the second tile of each the fastest.
fn file() -> Tuned {
    let mut tuned = Tuned::new("NVIDIA H200", &target(), "2026-11-26", "ccl");
    let product = ProductProblem { batches: 1, m: 640, n: 512, k: 256, along: [true, true], bulk: true };
    let attention = AttentionProblem { dim: 128, queries: 640, keys: 512, cubes: 40 };
    let problems = [Work::Product(product), Work::Attention(attention)].map(Problem::tensor);
    for problem in problems {
        let tried = |i: usize, seconds| TriedTile { tile: problem.tiles(&target())[i], seconds, problem: None };
        tuned.problems.push(Tried {
            problem: problem.key(),
            op: "linear".into(),
            at: "video".into(),
            expected_s: Some(2e-3),
            tiles: vec![tried(1, Some(1e-3)), tried(0, Some(2e-3)), tried(2, None)],
        });
    }
    tuned
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/nvidia-h200.json");
    file().save(&path).unwrap();
    let read = Tuned::load(&path).unwrap();
    assert_eq!(read, file());
    let (choices, left_out) = read.choices(&target());
    assert_eq!((choices.tiles.len(), left_out), (2, 0));
    assert_eq!(carried(&serde_json::to_value(&choices).unwrap(), &target()), choices);
    let first = &file().problems[0];
    assert_eq!(choices.tiles.get(&first.problem), Some(&first.tiles[0].tile));
}

#[test]
fn what_a_target_lacks_is_left_out() {
    // A device without `wgmma`, whose tiles are among those tried.
    let (choices, left_out) = file().choices(&Target::cuda("cuda:sm_80", 80));
    assert_eq!((choices.tiles.len(), left_out), (0, 2));
    let mut strange = file();
    for tried in &mut strange.problems {
        match &mut tried.tiles[0].tile {
            ProblemTile::Product(tile) => tile.warps = [0, 0],
            ProblemTile::Attention(tile) => tile.keys = 7,
            _ => {}
        }
    }
    assert_eq!(strange.choices(&target()).1, 2);
}

#[test]
fn the_library_is_chosen_beside_a_tile() {
    let mut file = file();
    let tile = file.problems[0].tiles[0].tile;
    let tried = |seconds| TriedTile { tile: ProblemTile::Library, seconds, problem: None };
    file.problems[0].tiles.insert(0, tried(Some(5e-4)));
    let again: Tuned = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
    let (choices, left_out) = again.choices(&target());
    let key = &file.problems[0].problem;
    assert_eq!((choices.library.contains(key), left_out), (true, 0));
    assert_eq!(choices.tiles.get(key), Some(&tile));
    // Slower, or not there.
    for seconds in [Some(5e-3), None] {
        file.problems[0].tiles.remove(0);
        file.problems[0].tiles.insert(1, tried(seconds));
        assert!(file.choices(&target()).0.library.is_empty());
        file.problems[0].tiles.swap(0, 1);
    }
}

/// On one device kernels of wgpu are others than those of CUDA: neither takes what was measured with the other's.
#[test]
fn wgpu_has_files_of_its_own() {
    let (cuda, wgpu) = (target(), Target::wgpu());
    assert_ne!(path_of("NVIDIA H200", &cuda), path_of("NVIDIA H200", &wgpu));
    assert!(file().is_for(&cuda) && !file().is_for(&wgpu) && !file().is_for(&Target::cuda("cuda", 80)));
    assert!(Tuned::new("NVIDIA H200", &wgpu, "2026-11-26", "ccl").is_for(&wgpu));
    assert!(shipped("NVIDIA H200", &wgpu).is_none());
    let shipped = taken("this program", &shipped("NVIDIA H200", &cuda).unwrap(), "NVIDIA H200", &cuda);
    assert!(!shipped.tiles.is_empty());
}

/// Names that no problem has, with sizes that no kernel can have, and tiles of another kind.
#[test]
fn strange_problems_are_left_out() {
    let tiles = file().problems[0].tiles.clone();
    let of = |problem: &str| Tried { problem: problem.into(), tiles: tiles.clone(), ..file().problems[0].clone() };
    let names = [
        "",
        "x",
        "plain ",
        "1x1x1 tn",
        "1x1x1x1x1",
        "1x1x1x1 xy",
        "-1x1x1x1",
        "40x99999999999999999999x1x1",
        "plain 1x1x1x0",
        "plain 1x1x1x0 dq",
        "plain 1x1x1x4294967295 dkv",
        "plain 1x1x1x99999999999 dc",
        "1x1x1x4294967295",
        "1x1x1x0 dkv-windows",
        "plain 0x0x0x0 tn",
        "plain 1x18446744073709551615x18446744073709551615x128",
        "1x18446744073709551615x18446744073709551615x128 dq",
    ];
    let strange = Tuned { problems: names.into_iter().map(of).collect(), ..file() };
    for target in [target(), Target::wgpu(), Target::cuda("cuda", 75)] {
        assert_eq!(strange.choices(&target), (Choices::default(), names.len()), "{}", target.name);
        let mut all = Choices::default();
        all.tiles.extend(names.iter().map(|name| ((*name).to_owned(), tiles[0].tile)));
        assert_eq!(carried(&serde_json::to_value(&all).unwrap(), &target), Choices::default());
    }
}

#[test]
fn damaged_files_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.json");
    let whole = serde_json::to_string(&file()).unwrap();
    let strange = whole.replace("\"format\":1", "\"format\":9");
    for text in ["", "{", "[]", &whole[..whole.len() / 2], &whole.replace("seconds", "years"), &strange] {
        std::fs::write(&path, text).unwrap();
        let error = Tuned::load(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn newer_times_replace_older_ones() {
    let (mut new, mut old) = (file(), file());
    new.problems.remove(0);
    old.problems[1].at = "old".into();
    new.keep(old);
    let at: Vec<&str> = new.problems.iter().map(|p| p.at.as_str()).collect();
    assert_eq!(at, ["video", "video"]);
    assert_ne!(new.problems[0].problem, new.problems[1].problem);
}

#[test]
fn shipped_files_are_read() {
    for text in SHIPPED {
        assert!(Tuned::parse(text).is_ok(), "{text}");
    }
    let (shipped, alike) = (|name| shipped(name, &target()), |name| alike(name, &target()));
    assert!(shipped("NVIDIA H200").is_some() && shipped("another").is_none());
    assert!(
        ALIKE.iter().all(|(name, _)| shipped(name).is_none() && alike(name).is_some()) && alike("another").is_none()
    );
    assert_eq!(slug("NVIDIA H200"), "nvidia-h200");
    assert_eq!(slug("softcuda (an interpreter)"), "softcuda-an-interpreter");
}

#[test]
fn days_are_those_of_the_calendar() {
    let days = [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_783, "2026-11-26")];
    days.iter().for_each(|(n, want)| assert_eq!(day(*n), *want));
}
