//! One place for all weights: the cache of the Hugging Face hub, and downloads into it.
//!
//! - [`Cache`] finds, checks and removes files that are there; it never uses the network;
//! - [`Hub`] asks the hub what is to be had ([`Hub::list`], [`Hub::plan`]) and gets it ([`PullPlan::run`]);
//! - [`Settings`] are what `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` and their kin say.
//!
//! The folder's layout, names of locks and meaning of variables are those of Python's `huggingface_hub` (its guide
//! "Understand caching" and its `constants.py`), so that a model that either has fetched is there for both:
//! ```text
//! <cache>/models--org--name/refs/main                    the commit that `main` was
//!                          /blobs/<etag>                 content under its SHA-256 or git name
//!                          /blobs/<etag>.incomplete      a download that can be resumed
//!                          /snapshots/<commit>/a/b.bin   links into blobs
//! <cache>/.locks/models--org--name/<etag>.lock           held while a blob is written
//! ```
//! A file comes over one connection: its unfinished bytes are then a prefix, which Python's library can go on with as
//! well, and which needs no record of what is there. Several files come at the same time.
//!
//! The client is our own because none of the crates fits: `hf-hub` 1.0 brings tokio and 167 crates, and 0.5 neither
//! checks hashes nor knows `HF_HUB_OFFLINE`.

mod cache;
mod checksum;
mod client;
mod download;
mod error;
mod events;
mod names;
mod plan;
mod settings;
mod upkeep;

pub use cache::{Cache, Found};

pub(crate) use checksum::hexadecimal;
pub use client::Listing;
pub use error::{Bytes, HubError, HubErrorKind};
pub use events::{PullEvent, PullObserver};
pub use plan::{FreeSpace, Hub, PlannedFile, PullPlan, Wanted, WantedFile, free_space};
pub use settings::{Settings, Token};
pub use upkeep::{Checked, Damage, Removed};

/// The revision that is meant when none is named.
pub const MAIN: &str = "main";
