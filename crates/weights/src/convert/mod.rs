//! From any checkpoint to any form: tensor by tensor, with a journal beside the unfinished file.
//!
//! The table of the output, with every byte's place, is decided before anything is read ([`ConvertPlan`]). Tensors are then read,
//! encoded and written one after another; memory is that of the largest of them. What is written is put on the disk from time
//! to time and noted, so that an interrupted conversion goes on where it was. The file gets its name when it is complete.

mod compare;
mod error;
mod form;
mod header;
mod journal;
mod plan;
mod run;

pub use compare::{Comparison, TensorDifference, compare};
pub use error::ConvertError;
pub use form::Form;
pub use plan::ConvertPlan;
pub use run::{ConvertProgress, Converted, convert};
