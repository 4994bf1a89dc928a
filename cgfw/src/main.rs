//! See the library for the map of the program.

fn main() {}
