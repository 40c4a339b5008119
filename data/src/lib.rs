//! Datasets: latents, features and whatever else belongs to a clip, in safetensors shards with an index.
//!
//! # On disk
//!
//! A dataset is a directory:
//!
//! ```text
//! index.json
//! shard-00000.safetensors
//! shard-00001.safetensors
//! ```
//!
//! Samples are numbered from 0 through all shards, in the order in which the index names them. Tensor `video` of sample 17 is called
//! `00000017.video` in its shard ([`index::tensor_name`]). Every sample has the same tensors with the same types and shapes; the
//! index says which ([`Schema`]), how many samples each shard holds, its size and the BLAKE3 of its bytes:
//!
//! ```json
//! {
//!   "format": "ccl-dataset",
//!   "version": 1,
//!   "samples": 3,
//!   "tensors": {
//!     "audio": { "dtype": "F32", "shape": [8, 128] },
//!     "text":  { "dtype": "F32", "shape": [4, 32] },
//!     "video": { "dtype": "BF16", "shape": [4, 16, 8, 4] }
//!   },
//!   "shards": [
//!     { "file": "shard-00000.safetensors", "samples": 3, "bytes": 27496, "blake3": "..." }
//!   ],
//!   "about": { "made_by": "..." }
//! }
//! ```
//!
//! `text [N, D]` is there always, and `video [C, T, H, W]`, `audio [C, L]` or both; `image [N, D]` may be. Other names are free, for
//! small tensors such as what is known of a clip (`truth.impacts`). `about` is kept and shown, never interpreted.
//!
//! # In use
//!
//! ```no_run
//! use std::sync::Arc;
//! use ccl_data::{Batches, BatchOptions, Dataset};
//!
//! # fn main() -> Result<(), ccl_data::DataError> {
//! let data = Arc::new(Dataset::open("clips".as_ref())?);
//! let options = BatchOptions { tensors: vec!["video".into(), "audio".into(), "text".into()], ..BatchOptions::new(16, 7) };
//! for batch in Batches::new(data, options)? {
//!     let batch = batch?;                         // endless: epoch after epoch, each in an order of its own
//!     let video = &batch.tensors["video"];        // [16, C, T, H, W], f32
//!     let resume_here = batch.end();              // a plain number: BatchOptions::position of the next run
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Writer`] makes a dataset, [`Dataset`] opens one, [`check()`] names everything that is wrong with one, [`Batches`] streams any
//! [`Source`]. This crate reads and writes files through `ccl-runtime` (headers that are not trusted, conversion that lets no NaN in,
//! writing whole or not at all) and knows no models.
#![deny(missing_docs)]

pub mod batches;
pub mod check;
pub mod dataset;
pub mod error;
pub mod index;
pub mod order;
pub mod schema;
pub mod source;
pub mod writer;

pub use batches::{Batch, BatchOptions, Batches};
pub use check::{Problem, Report, check};
pub use dataset::Dataset;
pub use error::DataError;
pub use index::Index;
pub use order::Order;
pub use schema::{Schema, TensorSpec};
pub use source::{Sample, Source};
pub use writer::{Writer, WriterOptions};
