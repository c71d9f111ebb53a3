//! The PROXY protocol: no bytes make its reader panic, and an address comes of whole headers alone.
#![no_main]

use bearward::accept::proxy_protocol::{version_1, version_2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, family, bytes) = input;
    if let Ok(Some(_)) = version_1(bytes) {
        assert!(bytes.starts_with(b"PROXY TCP") && bytes.ends_with(b"\r\n"));
    }
    if let Ok(Some(address)) = version_2(kind, family, bytes) {
        assert_eq!((kind, address.is_ipv4()), (0x21, family == 0x11));
    }
});
