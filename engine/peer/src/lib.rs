//! Placeholder until its first module lands.
#![no_std]
#![forbid(unsafe_code)]
