//! Poses of plain videos: networks and their files, the cache, and the search on its own.

mod cache;
mod extract;
mod files;
mod job;
mod networks;
mod settings;

pub(crate) use extract::Wanted;
pub use files::{PoseModelFiles, PoseModelPlaces};
pub use job::{FinderOptions, PoseOutcome, PoseRequest, find_poses};
pub(crate) use job::{Search, lossy, title};
pub use settings::{PoseRecipe, PoseSettings};
