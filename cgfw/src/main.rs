//! See the library for the map of the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    cgfw::main(std::env::args_os())
}
