/*!
Reports: what a digest says, in a form that people or other tools read. Pure.
*/

mod style;
mod text;

pub use self::style::{Paint, Style};
pub use self::text::text;

/// Lines that could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub stderr: u64,
    pub audit_log: u64,
}
