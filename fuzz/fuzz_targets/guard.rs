//! What the byte guard lets through does not depend on how the bytes are cut into reads, and the strict
//! reading of it is the only one: the lines of every head end in CRLF, and one framing at most is named.
#![no_main]

use bearward::accept::http1::guard::{Fault, Guard};
use libfuzzer_sys::fuzz_target;

/// The messages, as far as they are whole or under way, and why there are no more.
fn read<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> (Vec<u8>, Option<Fault>) {
    let mut guard = Guard::new(4096);
    let (mut held, mut passed) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let was_head = guard.is_in_head();
            match guard.take(&held) {
                Err(fault) => return (passed, Some(fault)),
                Ok(0) => break,
                Ok(taken) => {
                    let message: Vec<u8> = held.drain(..taken).collect();
                    if was_head {
                        check(&message);
                    }
                    passed.extend(message);
                }
            }
        }
    }
    (passed, None)
}

fn check(message: &[u8]) {
    let end = message.windows(4).position(|part| part == b"\r\n\r\n").expect("a head is let through whole");
    let head = &message[..end + 2];
    assert!(head.windows(2).all(|part| part[1] != b'\n' || part[0] == b'\r'));
    let framings = head.split(|&byte| byte == b'\n').skip(1).filter(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with(b"content-length:") || line.starts_with(b"transfer-encoding:")
    });
    assert!(framings.count() <= 1);
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let (whole, fault) = read(std::iter::once(bytes));
    let (cut, cut_fault) = read(bytes.chunks(usize::from(size) + 1));
    // Of a body that turns bad a part may be through already.
    if fault.is_none() || cut_fault.is_none() {
        assert_eq!((&whole, fault), (&cut, cut_fault));
    } else {
        assert!(cut.starts_with(&whole) || whole.starts_with(&cut));
    }
});
