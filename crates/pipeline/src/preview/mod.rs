//! Pictures that show a person in seconds whether poses were found and fitted well.

pub(crate) mod canvas;
mod panels;
mod sheet;
mod write;

pub(crate) use panels::{Panels, Scene};
pub(crate) use sheet::{Cell, Course, sheet, sheet_indices};
pub(crate) use write::*;
