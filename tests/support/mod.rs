/*!
The hermetic lab: a client and an internet, in namespaces that end with the test.

[`Lab`] owns the namespaces, [`Test`] runs a command in them and checks what became of
it. Nothing has a name on the host except one cgroup per lab, so that a killed test
process leaves nothing but that, and the next one collects it.
*/

pub mod books;
pub mod bpf;
pub mod cgroup;
pub mod clients;
pub mod collector;
pub mod command;
pub mod dns;
pub mod internet;
pub mod lab;
pub mod namespace;
pub mod sniffer;
pub mod terminal;
pub mod web;

pub use self::lab::Lab;
