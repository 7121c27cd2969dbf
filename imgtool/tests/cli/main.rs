//! The command line from outside: exit code, stdout and stderr of the real binary,
//! and other people's tools as judges of what it wrote.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod release;

#[cfg(test)]
mod delta;
#[cfg(test)]
mod diff;
#[cfg(test)]
mod help;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod keygen;
#[cfg(test)]
mod order;
#[cfg(test)]
mod patches;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod secure_boot;
#[cfg(test)]
mod sign;
#[cfg(test)]
mod site;
mod trust;
#[cfg(test)]
mod verify;
