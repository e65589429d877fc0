//! Tests of the gate with real sockets: a session on one side, servers on the other.

mod apt;
mod cached;
mod files;
mod hostile;
mod refused;
mod support;
mod upstream;
