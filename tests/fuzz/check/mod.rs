//! What must hold for every input of a fuzz target; a panic says that it does not.

mod baseline;
mod dns;
mod files;
mod labels;
mod policy;
mod records;
mod reference;

pub use self::baseline::baseline;
pub use self::dns::dns;
pub use self::files::files;
pub use self::labels::labels;
pub use self::policy::policy;
pub use self::records::records;
