//! HTTP/2 to a target: requests beside each other on one connection, each a stream.
//!
//! 1. The frames are the `h2` crate's; each stream is driven by its request's own task, so that no body
//!    crosses a channel. One task a connection moves the frames.
//! 2. The request is the one that HTTP/1 would send, told in the words of HTTP/2 (`head`): there is one way to
//!    write it.
//! 3. A connection has as many requests as its target allows, at most a hundred; then there is another one.
//! 4. One that is closed, on which an answer was late, or that is some minutes old gets no more.
//!
//! What it does not do: take promised streams, or change protocols (RFC 8441).
//!
//! Sources: RFC 9113.

pub mod answer;
pub mod exchange;
mod head;
pub mod session;
