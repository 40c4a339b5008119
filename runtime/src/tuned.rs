//! Tiles that were measured best on a device: one file a device, written by `ccl bench tune` and read when the device is opened.
//!
//! A file names the device, the day, and for each problem every tile that was tried with the seconds that it took, so that a choice can be doubted.
//! It lies in the user's directory for what can be made again (`CCL_CACHE_DIR`, else `~/.cache/ccl`), as `tuned/<device>.json`, and for wgpu, whose
//! kernels are others on the same device, as `tuned/<device>-wgpu.json`. Where the user has none, and for what it does not name,
//! one that comes with the program is taken, for the device or one like it. What does not fit the target is left
//! out: a file can make kernels slow, not wrong.

use std::path::{Path, PathBuf};

use ccl_codegen::gpu::Target;
use ccl_codegen::gpu::tiles::{Choices, ProblemTile};
use serde::{Deserialize, Serialize};

use crate::error::{RuntimeError, one_line};
use crate::write;

/// The layout of the files.
const FORMAT: u32 = 1;
/// What the kernels of wgpu are compiled for: the driver knows.
const WGPU: &str = "wgpu";
/// Largest file that is read, in bytes.
const MOST: u64 = 16 << 20;
/// Devices that the program comes with a file for.
const SHIPPED: [&str; 1] = [include_str!("../tuned/nvidia-h200.json")];

/// Devices that have the multiprocessors of one that has a file, and as many.
const ALIKE: [(&str, &str); 1] = [("NVIDIA H100 80GB HBM3", "NVIDIA H200")];

/// What was measured on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    format: u32,
    /// What the device calls itself.
    pub device: String,
    /// What its kernels are compiled for: `sm_90a`, `wgpu`.
    pub architecture: String,
    /// The day, `2026-11-26`; `not measured` where nothing was.
    pub date: String,
    /// Version of the program that measured.
    pub compiler: String,
    /// The library that products were measured with besides, e.g. `cuBLASLt 13.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// The problems.
    pub problems: Vec<Tried>,
}

/// A problem and its tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// Name of the problem, as the code generator gives it.
    pub problem: String,
    /// Name of the operator, and the place in a model, of a call that has it.
    pub op: String,
    /// See [`Tried::op`].
    pub at: String,
    /// Seconds of the call with the tile that is taken where nothing was measured.
    pub expected_s: Option<f64>,
    /// The tiles, the fastest first, those that do not run last.
    pub tiles: Vec<TriedTile>,
}

/// A tile that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriedTile {
    /// The tile.
    pub tile: ProblemTile,
    /// Median seconds of the call; `None` where it does not run.
    pub seconds: Option<f64>,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Tuned {
    /// A file about a device without anything measured yet.
    pub fn new(device: &str, target: &Target, date: &str, compiler: &str) -> Self {
        Self {
            format: FORMAT,
            device: device.into(),
            architecture: architecture(target),
            date: date.into(),
            compiler: compiler.into(),
            library: None,
            problems: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no such file.
    pub fn load(path: &Path) -> Result<Self, RuntimeError> {
        let wrong = |problem: String| RuntimeError::file(path, problem);
        let size = std::fs::metadata(path).map_err(|e| wrong(format!("cannot read: {e}")))?.len();
        if size > MOST {
            return Err(wrong(format!("has {size} bytes; this is no file of `ccl bench tune`")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot read: {e}")))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |e: serde_json::Error| format!("is no file of `ccl bench tune`: {}", one_line(&e.to_string()));
        let tuned: Self = serde_json::from_str(text).map_err(wrong)?;
        if tuned.format != FORMAT {
            return Err(format!("is of format {}, this program reads {FORMAT}: tune again", tuned.format));
        }
        Ok(tuned)
    }

    /// Writes the file, whole or not at all, and the directory that it lies in.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), RuntimeError> {
        let problem = |e: &dyn std::fmt::Display| RuntimeError::file(path, format!("cannot write: {e}"));
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| problem(&e))?;
        }
        let mut text = serde_json::to_string_pretty(self).map_err(|e| problem(&e))?;
        text.push('\n');
        write::write_atomic(path, text.as_bytes())
    }

    /// Takes over what another file says of problems that this one does not name.
    pub fn keep(&mut self, old: Self) {
        let new: Vec<String> = self.problems.iter().map(|p| p.problem.clone()).collect();
        self.problems.extend(old.problems.into_iter().filter(|p| !new.contains(&p.problem)));
    }

    /// The fastest tile of each problem, and how many do not fit the target and are left out. Where the library is fastest, it is chosen beside the
    /// tile.
    pub fn choices(&self, target: &Target) -> (Choices, usize) {
        let mut choices = Choices::default();
        for tried in &self.problems {
            let ran = || tried.tiles.iter().filter(|t| t.seconds.is_some()).map(|t| t.tile);
            if ran().next() == Some(ProblemTile::Library) {
                choices.library.insert(tried.problem.clone());
            }
            if let Some(best) = ran().find(|tile| *tile != ProblemTile::Library) {
                choices.tiles.insert(tried.problem.clone(), best);
            }
        }
        let fastest = choices.tiles.len();
        choices.keep_known(target);
        let left_out = fastest - choices.tiles.len();
        (choices, left_out)
    }

    /// Names of the problems.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(|p| p.problem.as_str())
    }

    /// Whether it was measured with kernels for such a target.
    pub fn is_for(&self, target: &Target) -> bool {
        self.architecture == architecture(target)
    }
}

/// What a target's kernels are compiled for.
fn architecture(target: &Target) -> String {
    target.architecture().unwrap_or_else(|| WGPU.into())
}

/// The choices that a plan carries for the target that its kernels were made for.
pub(crate) fn carried(choices: &serde_json::Value, target: &Target) -> Choices {
    if choices.is_null() {
        return Choices::default();
    }
    match serde_json::from_value::<Choices>(choices.clone()) {
        Ok(mut choices) => {
            choices.keep_known(target);
            choices
        }
        Err(e) => {
            tracing::warn!("the plan's choice of tiles is not understood: {}", one_line(&e.to_string()));
            Choices::default()
        }
    }
}

/// The user's directory for what can be made again: `CCL_CACHE_DIR`, else the system's own place for it.
pub fn user_directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let ours = || {
        let cache =
            set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("ccl"))
    };
    set("CCL_CACHE_DIR").or_else(ours)
}

/// The user's file for kernels for a target on a device; `None` where the system has no place for it.
pub fn path_of(device: &str, target: &Target) -> Option<PathBuf> {
    let kind = if target.capability().is_some() { String::new() } else { format!("-{WGPU}") };
    Some(user_directory()?.join("tuned").join(format!("{}{kind}.json", slug(device))))
}

/// A device's name as part of a file's: `nvidia-h200`.
pub fn slug(device: &str) -> String {
    let words = device.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// The tiles for a device: by the user's file, else, problem by problem, by one that comes with the program for it or for one like it. A file that is
/// damaged is warned of and not used.
pub fn of_device(device: &str, target: &Target) -> Choices {
    let mut choices = Choices::default();
    if let Some(tuned) = shipped(device, target).or_else(|| alike(device, target)) {
        choices = taken("this program", &tuned, device, target);
    }
    if let Some(path) = path_of(device, target).filter(|path| path.exists()) {
        match Tuned::load(&path) {
            Ok(tuned) => choices.replace(taken(&path.display().to_string(), &tuned, device, target)),
            Err(e) => tracing::warn!("{e}; going on without it"),
        }
    }
    choices
}

/// What a file chooses for a device, told.
fn taken(from: &str, tuned: &Tuned, device: &str, target: &Target) -> Choices {
    let (choices, left_out) = tuned.choices(target);
    let count = choices.tiles.len();
    if left_out > 0 {
        tracing::warn!("{from}: {left_out} tiles do not fit {device} and are not used: run `ccl bench tune` again");
    }
    if count > 0 {
        tracing::info!("tiles of {count} problems as measured on {} on {} ({from})", tuned.device, tuned.date);
    }
    choices
}

/// The files that come with the program.
fn all_shipped() -> impl Iterator<Item = Tuned> {
    SHIPPED.iter().filter_map(|text| Tuned::parse(text).ok())
}

/// The file for kernels for a target on a device that comes with the program.
fn shipped(device: &str, target: &Target) -> Option<Tuned> {
    all_shipped().find(|t| t.device == device && t.is_for(target))
}

/// That of a device with the same multiprocessors, and as many.
fn alike(device: &str, target: &Target) -> Option<Tuned> {
    let (_, other) = ALIKE.iter().find(|(name, _)| *name == device)?;
    shipped(other, target)
}

/// A day as `2026-11-26`, of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
fn day(days: i64) -> String {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (year_of_era + era * 400, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month:02}-{day:02}", year + i64::from(month <= 2))
}

/// Today in UTC, as files write it.
pub fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    day((now.as_secs() / 86_400) as i64)
}

#[cfg(test)]
mod tests;
