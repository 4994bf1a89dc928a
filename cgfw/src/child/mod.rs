/*!
The wrapped command: started inside the cgroup, as if it ran bare.

It is the last thing that is made, and it is in the cgroup from its first instruction.
This stage knows neither policies nor cgroup paths; it is handed an open directory.
*/

mod clone;
mod confinement;
mod inherited;
mod inside;
mod limits;
mod masked;
mod orphans;
mod rights;
mod seccomp;
mod signals;
mod spawn;
mod steps;
mod strict;
mod trial;
mod user;

pub use self::confinement::Confinement;
pub use self::inherited::{
    ForeignSocket, close_beyond_stderr, close_network_sockets, network_sockets, unix_descriptors,
    unix_standard_descriptors,
};
pub use self::limits::OpenFiles;
pub use self::masked::name_service_sockets;
pub use self::orphans::{adopt_orphans, reap_orphans};
pub use self::rights::{missing_capabilities, sudo_command};
pub use self::signals::{Inherited, Listener, Received, Signals};
pub use self::spawn::{Child, Command, Ended, MaskedFile, SpawnError};
pub use self::strict::Unix;
pub use self::trial::prove_isolation;
pub use self::user::{Identity, as_user, caller, choose_identity, take_file_rights};
