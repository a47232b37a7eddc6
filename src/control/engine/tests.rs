//! The engine against a recording host.
