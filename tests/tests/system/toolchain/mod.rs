//! imgtool with the real tools: what it builds, what others say of it, what is left
//! when it is stopped, and what it says when it is given something wrong.

mod agree;
mod bench;
mod build_input;
mod disk_input;
mod flash_input;
mod replace;
mod reproducible;
mod stops;
