//! Names of unix sockets, in the one form in which they are compared.

/// What bind(2) and connect(2) take: `sun_path` in unix(7).
pub(super) const MAX_LENGTH: usize = 108;

/// The name of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnixSocket {
    /// A path, as [`normal_path`] makes it.
    Path(Vec<u8>),
    /// In the abstract namespace, without the leading zero octet.
    Abstract(Vec<u8>),
}

/// The path of a socket without what makes no difference: `//`, `.` and a final slash. /var/run is the
/// old name of /run (file-hierarchy(7)), which people and programs still use.
///
/// `..` stays: what it leads to, only a file system knows.
pub fn normal_path(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path
        .split(|octet| *octet == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let root: &[u8] = if path.starts_with(b"/") { b"/" } else { b"" };
    if !root.is_empty() && parts.starts_with(&[b"var", b"run"]) {
        parts.remove(0);
    }
    [root, &parts.join(&b'/')].concat()
}
