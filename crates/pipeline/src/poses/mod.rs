//! Poses of plain videos: networks and their files, the cache, and the search on its own.

mod cache;
mod extract;
mod files;
mod job;
mod networks;
mod settings;

pub(crate) use cache::{hash_of_bytes, hex};
pub(crate) use extract::Wanted;
pub use files::{EmbeddedPoses, PoseModelFiles, PoseModelPlaces, PoseModels};
pub use job::{FinderOptions, PoseOutcome, PoseRequest, find_poses};
pub(crate) use job::{Search, lossy, title};
pub(crate) use networks::open;
pub(crate) use settings::{CANVAS_WANTED, canvas_fits};
pub use settings::{PoseRecipe, PoseSettings};
