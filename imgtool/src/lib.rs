//! imgtool
