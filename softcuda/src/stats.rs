//! What a launch cost, counted rather than timed.

use crate::op::{CLASSES, Class};

/// Counts of one launch. Instructions are counted per lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub(crate) classes: [u64; CLASSES],
    /// Instructions that warps issued, whatever number of lanes took part.
    pub issued: u64,
    /// Multiply-adds of matrix instructions.
    pub matrix_ops: u64,
    /// Bytes that lanes loaded from global memory.
    pub global_load_bytes: u64,
    /// Bytes that lanes stored to global memory.
    pub global_store_bytes: u64,
    /// 32-byte sectors that global accesses touched, warp by warp.
    pub sectors: u64,
    /// Sectors that the same bytes would need if they lay side by side.
    pub sectors_needed: u64,
    /// Accesses of shared memory by warps.
    pub shared_accesses: u64,
    /// Wavefronts above one per access: bank conflicts.
    pub bank_conflicts: u64,
    /// Barriers that blocks passed.
    pub barriers: u64,
}

const NAMES: [&str; CLASSES] = [
    "move", "integer", "float", "special", "convert", "control", "global", "shared", "other", "warp", "barrier",
    "matrix", "copy",
];

impl Stats {
    pub(crate) fn count(&mut self, class: Class, lanes: u32) {
        self.classes[class as usize] += u64::from(lanes);
        self.issued += 1;
    }

    /// Adds the counts of other blocks.
    pub(crate) fn add(&mut self, other: &Stats) {
        for (sum, more) in self.classes.iter_mut().zip(&other.classes) {
            *sum += more;
        }
        self.issued += other.issued;
        self.matrix_ops += other.matrix_ops;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.sectors += other.sectors;
        self.sectors_needed += other.sectors_needed;
        self.shared_accesses += other.shared_accesses;
        self.bank_conflicts += other.bank_conflicts;
        self.barriers += other.barriers;
    }

    /// Lane-instructions of a class by its name: `move`, `integer`, `float`, `special`, `convert`, `control`, `global`,
    /// `shared`, `other`, `warp`, `barrier`, `matrix` or `copy`.
    pub fn class(&self, name: &str) -> Option<u64> {
        NAMES.iter().position(|n| *n == name).map(|i| self.classes[i])
    }

    /// All lane-instructions.
    pub fn instructions(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// One JSON object without line breaks. `early`: the kernel was launched so that it might begin while earlier ones ran.
    pub fn json(&self, kernel: &str, cubes: [u32; 3], units: [u32; 3], early: bool) -> String {
        let classes: Vec<String> = NAMES.iter().zip(self.classes).map(|(n, c)| format!("\"{n}\":{c}")).collect();
        format!(
            "{{\"kernel\":{kernel:?},\"cubes\":{cubes:?},\"units\":{units:?},\"early\":{early},\"instructions\":{},\"issued\":{},\
             \"classes\":{{{}}},\"matrix_ops\":{},\"global_load_bytes\":{},\"global_store_bytes\":{},\"sectors\":{},\
             \"sectors_needed\":{},\"shared_accesses\":{},\"bank_conflicts\":{},\"barriers\":{}}}",
            self.instructions(),
            self.issued,
            classes.join(","),
            self.matrix_ops,
            self.global_load_bytes,
            self.global_store_bytes,
            self.sectors,
            self.sectors_needed,
            self.shared_accesses,
            self.bank_conflicts,
            self.barriers,
        )
    }
}
