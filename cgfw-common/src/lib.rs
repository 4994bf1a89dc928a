//! Records and map values shared by cgfw and its eBPF programs.
#![no_std]
