//! The life of a plugin: pushed, checked, activated, tried, rolled back, and served by every process.
