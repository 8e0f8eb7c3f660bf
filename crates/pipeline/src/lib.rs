//! A request becomes a video, step by step.
