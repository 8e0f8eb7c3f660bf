//! Keypoints, alignment, negative augmentation and skeleton drawing.
