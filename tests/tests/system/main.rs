//! The whole system, with the real tools, machines in QEMU, Docker and networks: one program, so that its tests run beside each
//! other to the end. Most of them wait most of the time.

mod boot;
mod disk;
mod loss;
mod nodes;
mod own_packages;
mod pacman_repo;
mod power_cut;
mod toolchain;
mod vm;
