//! Clips of the bounce world as files to watch and to hear.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ccl_runtime::RuntimeError;
use ccl_runtime::write::{check_writable, write_atomic};
use ccl_world::WorldError;
use ccl_world::render::{PICTURES_PER_SECOND, Picture, gif, pictures, png, sound, strip, wav};

use crate::error::Error;

/// The program that makes video files.
const FFMPEG: &str = "ffmpeg";
/// How many times larger a video file is than the GIF: players show it at its size.
const LARGER: usize = 3;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The files.
    pub files: Vec<PathBuf>,
    /// What is missing and why, to tell the user.
    pub notes: Vec<String>,
}

/// Files that belong to a prefix: `out/clip` and `gif` give `out/clip.gif`.
pub fn with_ending(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(".");
    name.push(ending);
    name.into()
}

/// Checks that files with this prefix can be written, before long work.
///
/// # Errors
/// When they cannot.
pub fn check_prefix(prefix: &Path) -> Result<(), Error> {
    if prefix.file_name().is_none() {
        return Err(Error::Usage(format!("{}: is no beginning of file names, such as out/clip", prefix.display())));
    }
    for ending in ["png", "gif", "wav", "mp4"] {
        check_writable(&with_ending(prefix, ending))?;
    }
    Ok(())
}

/// Writes a clip: `PREFIX.png` (everything on one page), `PREFIX.gif` of a video, `PREFIX.wav` of an audio latent, and of both
/// `PREFIX.mp4` where there is an ffmpeg. Picture and sound end together.
///
/// # Errors
/// When a latent is none of this world (named after `place`), there is none, a file cannot be written or ffmpeg fails.
pub fn write_clip(prefix: &Path, place: &str, video: Option<&[f32]>, audio: Option<&[f32]>) -> Result<Written, Error> {
    let of_place = |source: WorldError| Error::World { place: place.into(), source };
    let mut written = Written::default();
    let mut put = |ending: &str, bytes: &[u8]| -> Result<PathBuf, Error> {
        let path = with_ending(prefix, ending);
        write_atomic(&path, bytes)?;
        written.files.push(path.clone());
        Ok(path)
    };
    put("png", &png(&strip(video, audio).map_err(of_place)?).map_err(of_place)?)?;
    let frames = video.map(pictures).transpose().map_err(of_place)?;
    if let Some(frames) = &frames {
        put("gif", &gif(frames).map_err(of_place)?)?;
    }
    let heard = audio.map(sound).transpose().map_err(of_place)?;
    let wav_bytes = heard.as_deref().map(wav).transpose().map_err(of_place)?;
    if let Some(bytes) = &wav_bytes {
        put("wav", bytes)?;
    }
    if let (Some(frames), Some(sound)) = (&frames, &wav_bytes) {
        match video_file(&with_ending(prefix, "mp4"), frames, sound)? {
            Some(path) => written.files.push(path),
            None => written.notes.push(format!(
                "no {}: there is no {FFMPEG} on the PATH; install it for a video file with sound",
                with_ending(prefix, "mp4").display()
            )),
        }
    }
    Ok(written)
}

/// Writes pictures and a WAV file's bytes as a video file with sound; `None` where there is no ffmpeg.
///
/// # Errors
/// When ffmpeg fails, or a file cannot be written.
fn video_file(path: &Path, frames: &[Picture], sound: &[u8]) -> Result<Option<PathBuf>, Error> {
    let Some(first) = frames.first() else { return Ok(None) };
    let io = |e| RuntimeError::io(path, "write", e);
    let place = tempfile::tempdir().map_err(io)?;
    let (wav, out) = (place.path().join("sound.wav"), place.path().join("video.mp4"));
    std::fs::write(&wav, sound).map_err(io)?;
    let size = format!("{}x{}", first.width, first.height);
    let scale = format!("scale=iw*{LARGER}:ih*{LARGER}:flags=lanczos");
    let mut command = Command::new(FFMPEG);
    command.args(["-y", "-nostdin", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r"]);
    command.arg(PICTURES_PER_SECOND.to_string()).args(["-i", "pipe:0", "-i"]).arg(&wav);
    // Nothing is cut to the shorter of the two: they are equally long. Formats that every player knows.
    command.args(["-map", "0:v", "-map", "1:a", "-vf", &scale, "-pix_fmt", "yuv420p", "-movflags", "+faststart"]);
    command.args(["-f", "mp4"]).arg(&out);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::Failed(format!("{FFMPEG}: cannot be started: {e}")))?,
    };
    // Where ffmpeg stops early it says why itself; the broken pipe says nothing.
    if let Some(mut pipe) = child.stdin.take() {
        let _ = frames.iter().try_for_each(|frame| pipe.write_all(&frame.rgb));
    }
    let output = child.wait_with_output().map_err(|e| Error::Failed(format!("{FFMPEG}: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or("no reason given").to_string();
        return Err(Error::Failed(format!("{}: {FFMPEG} failed: {said}", path.display())));
    }
    let bytes = std::fs::read(&out).map_err(io)?;
    write_atomic(path, &bytes)?;
    Ok(Some(path.into()))
}
