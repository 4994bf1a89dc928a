//! The proxy on real sockets, in front of a scripted upstream on loopback.

mod changing;
mod hostile;
mod lab;
mod names;
mod passing;
mod refusing;
mod servers;
mod sockets;
