//! Clips, tasks, guidance, and how tasks answer routes.

use ccl_model::{Clip, Grid, Guidance, Mode, Prompt, Stream, Task, answers};

#[test]
fn clips() {
    let clip: Clip = "21x44x80@158".parse().unwrap();
    assert_eq!(clip, Clip { frames: 21, height: 44, width: 80, audio: 158 });
    assert_eq!(clip.to_string(), "21x44x80@158");
    assert_eq!(serde_json::to_string(&clip).unwrap(), "\"21x44x80@158\"");
    assert_eq!(serde_json::from_str::<Clip>("\"21x44x80@158\"").unwrap(), clip);
    let grid = clip.grid(&crate::common::config()).unwrap();
    assert_eq!(grid, Grid { frames: 21, rows: 22, columns: 40, length: 158 });
    assert_eq!((grid.tokens(Stream::Video), grid.tokens_per_frame()), (18_480, 880));
}

#[test]
fn what_is_no_clip() {
    for text in ["", "21", "21x44@158", "21x44x80", "21x44x80x2@158", "21x44x80@", "a x44x80@1", "1x-2x2@3", "+1x2x2@3"]
    {
        let message = text.parse::<Clip>().unwrap_err().to_string();
        assert!(message.contains("TxHxW@L") && message.contains("21x44x80@158"), "{message}");
        assert!(message.contains(&format!("`{text}`")), "{message}");
    }
    let message = "1x2\n@3".parse::<Clip>().unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn clips_beyond_reason() {
    for (text, part) in [
        ("0x44x80@158", "frames must be 1 to 1048576, is 0"),
        ("1x0x80@158", "rows"),
        ("1x2x0@158", "columns"),
        ("1x2x2@0", "audio latents"),
        ("1x2x2@1048577", "audio latents must be 1 to 1048576, is 1048577"),
        ("1048576x1048576x1048576@1", "latent video positions"),
        ("1048576x2x2@1048576", "pairs of a frame and an audio latent"),
    ] {
        let message = text.parse::<Clip>().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn clips_that_do_not_fit_the_patches() {
    let mut config = crate::common::config();
    config.audio.patch = vec![2];
    for (text, part) in [
        ("3x5x6@4", "rows (5) must be a multiple of the video patch (2)"),
        ("3x4x7@4", "columns (7) must be a multiple of the video patch (2)"),
        ("3x4x6@5", "audio latents (5) must be a multiple of the audio patch (2)"),
    ] {
        let message = text.parse::<Clip>().unwrap().grid(&config).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(text), "{message}");
    }
}

#[test]
fn names() {
    for task in Task::ALL {
        assert_eq!(task.to_string().parse::<Task>().unwrap(), task);
        assert_eq!(serde_json::to_string(&task).unwrap(), format!("\"{task}\""));
    }
    for guidance in Guidance::ALL {
        assert_eq!(guidance.to_string().parse::<Guidance>().unwrap(), guidance);
        assert_eq!(serde_json::to_string(&guidance).unwrap(), format!("\"{guidance}\""));
    }
    let message = "v2v".parse::<Task>().unwrap_err().to_string();
    assert_eq!(message, "there is no task `v2v`: use one of t2v t2a t2av a2v v2a joint");
    let message = "Text".parse::<Guidance>().unwrap_err().to_string();
    assert_eq!(message, "there is no guidance `Text`: use one of none text two-pass three-pass modality-drop");
}

/// SPEC 5: task, video, audio, video sees audio, audio sees video, reference.
const ROUTES: [(Task, bool, bool, bool, bool, Option<Stream>); 6] = [
    (Task::T2v, true, false, false, false, None),
    (Task::T2a, false, true, false, false, None),
    (Task::T2av, true, true, false, false, None),
    (Task::A2v, true, false, true, false, Some(Stream::Audio)),
    (Task::V2a, false, true, false, true, Some(Stream::Video)),
    (Task::Joint, true, true, true, true, None),
];

#[test]
fn answers_are_the_table_of_the_specification() {
    for (task, video, audio, video_sees, audio_sees, reference) in ROUTES {
        assert_eq!((task.produces_video(), task.produces_audio(), task.reference()), (video, audio, reference));
        assert_eq!(task.computes(Stream::Video), video || audio_sees);
        assert_eq!(task.computes(Stream::Audio), audio || video_sees);
        let none = [
            ("video", video),
            ("audio", audio),
            ("cond.video_sees_audio", video_sees),
            ("cond.audio_sees_video", audio_sees),
            ("cond.cross", true),
        ];
        check(task, Guidance::None, &none);
        let pass = |name: &str, video: bool, audio: bool, cross: bool| {
            [("video_sees_audio", video), ("audio_sees_video", audio), ("cross", cross)]
                .map(|(flag, yes)| (format!("{name}.{flag}"), yes))
        };
        for (guidance, rest) in [
            (Guidance::Text, pass("uncond", video_sees, audio_sees, true).to_vec()),
            (Guidance::TwoPass, pass("uncond", false, false, true).to_vec()),
            (Guidance::ModalityDrop, pass("uncond", false, false, false).to_vec()),
        ] {
            let rest: Vec<_> = rest.iter().map(|(k, v)| (k.as_str(), *v)).collect();
            check(task, guidance, &[&none[..], &rest].concat());
        }
        let three = [
            pass("uncond", false, false, true),
            pass("text", false, false, true),
            pass("modal", video_sees, audio_sees, true),
        ]
        .concat();
        let three: Vec<_> = three.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        check(task, Guidance::ThreePass, &[&none[..2], &three].concat());
    }
}

fn check(task: Task, guidance: Guidance, want: &[(&str, bool)]) {
    let want = want.iter().map(|(k, v)| (k.to_string(), *v)).collect();
    assert_eq!(answers(task, guidance), want, "{task} {guidance}");
}

#[test]
fn passes_and_scales() {
    let three = Guidance::ThreePass.passes();
    let of = |i: usize| (three[i].name, three[i].prompt, three[i].mode);
    assert_eq!(of(0), ("uncond", Prompt::Negative, Mode::Context));
    assert_eq!(of(1), ("text", Prompt::Positive, Mode::Context));
    assert_eq!(of(2), ("modal", Prompt::Negative, Mode::Cond));
    let scales = |g: Guidance| g.scale_inputs().into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
    assert!(scales(Guidance::None).is_empty());
    assert_eq!(scales(Guidance::TwoPass), ["scale.video=4", "scale.audio=3"]);
    assert_eq!(
        scales(Guidance::ThreePass),
        ["scale.video=2.5", "scale.audio=2.5", "text_scale.video=4", "text_scale.audio=3"]
    );
}
