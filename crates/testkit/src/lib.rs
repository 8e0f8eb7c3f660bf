//! For tests: fixture reader, closeness, tiny configs.
