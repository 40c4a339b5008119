//! Plans as bytes, for `.cclp` files.
//!
//! | bytes    | meaning                                                   |
//! |----------|-----------------------------------------------------------|
//! | 0..8     | [`MAGIC`]                                                 |
//! | 8..12    | format version, `u32` little endian, [`VERSION`]          |
//! | 12..20   | length of the body in bytes, `u64` little endian          |
//! | 20..52   | BLAKE3 hash of the body                                   |
//! | 52..     | the body: the [`Plan`] as JSON, keys in a fixed order     |
//!
//! Equal plans give equal bytes, and reading gives back an equal plan: numbers keep every bit. What is read has
//! passed [`Plan::check`], and so has what is written. Every kind of damage has its own one-line message, and
//! nothing is allocated by what a header claims.

use super::Plan;
use super::check::one_line;
use crate::error::{IrError, Problem};

/// What a plan file starts with.
pub const MAGIC: [u8; 8] = *b"CCLPLAN\0";

/// Version of the layout and of the meaning of plans. A program reads its own version only.
pub const VERSION: u32 = 1;

const VERSION_AT: usize = MAGIC.len();
const LENGTH_AT: usize = VERSION_AT + size_of::<u32>();
const HASH_AT: usize = LENGTH_AT + size_of::<u64>();
const HEADER: usize = HASH_AT + blake3::OUT_LEN;

impl Plan {
    /// The plan as bytes, the same for equal plans.
    ///
    /// # Errors
    /// When [`Plan::check`] refuses the plan.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IrError> {
        self.check()?;
        let mut out = vec![0; HEADER];
        serde_json::to_writer(&mut out, self).map_err(|e| refuse(format!("cannot be written: {e}")))?;
        let body = &out[HEADER..];
        let (length, hash) = (body.len() as u64, blake3::hash(body));
        out[..VERSION_AT].copy_from_slice(&MAGIC);
        out[VERSION_AT..LENGTH_AT].copy_from_slice(&VERSION.to_le_bytes());
        out[LENGTH_AT..HASH_AT].copy_from_slice(&length.to_le_bytes());
        out[HASH_AT..HEADER].copy_from_slice(hash.as_bytes());
        Ok(out)
    }

    /// Reads what [`Plan::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are no plan, are damaged, are of another version, or hold a plan that [`Plan::check`]
    /// refuses.
    pub fn from_bytes(bytes: &[u8]) -> Result<Plan, IrError> {
        let body = body(bytes).map_err(IrError::Plan)?;
        let plan: Plan =
            serde_json::from_slice(body).map_err(|e| refuse(format!("the contents describe no plan: {e}")))?;
        plan.check()?;
        Ok(plan)
    }
}

fn refuse(text: String) -> IrError {
    IrError::Plan(Problem(one_line(&text)))
}

/// The body behind an undamaged header.
fn body(bytes: &[u8]) -> Result<&[u8], Problem> {
    let (magic, rest) = bytes.split_at(bytes.len().min(MAGIC.len()));
    crate::ensure!(MAGIC.starts_with(magic), "the file is no plan: it does not start with `CCLPLAN`");
    let too_short = || Problem(format!("the file is cut off: {} bytes, the header alone has {HEADER}", bytes.len()));
    let (version, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
    let version = u32::from_le_bytes(*version);
    crate::ensure!(
        version == VERSION,
        "made by plan format {version}, this program reads {VERSION}: compile the plan again"
    );
    let (length, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
    let (hash, body) = rest.split_first_chunk::<{ blake3::OUT_LEN }>().ok_or_else(too_short)?;
    let (want, have) = (u64::from_le_bytes(*length), body.len() as u64);
    crate::ensure!(have >= want, "the file is cut off: {have} of {want} bytes are there after the header");
    crate::ensure!(have == want, "the file has {} bytes too many after the plan's end", have - want);
    crate::ensure!(blake3::hash(body) == *hash, "the file is damaged (its hash differs): compile or copy it again");
    Ok(body)
}
