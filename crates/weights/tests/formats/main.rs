//! Every packaging of quantised checkpoints, written by others (`tests/reference/make_formats.py`).

mod faults;
mod flavours;
mod folders;
mod full_size;
mod pickles;
mod rows;
mod support;
