//! What is resident where and when.
