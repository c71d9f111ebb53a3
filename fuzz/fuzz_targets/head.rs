//! No field makes the readers of `Host`, `Authorization`, `traceparent` and `X-Request-Id` panic.
#![no_main]

use bearward::admit::host;
use bearward::authenticate::bearer::Bearer;
use bearward::forward::trace;
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let request = Request::builder().uri("/").header("host", &value).header("authorization", &value).header("x-request-id", &value);
    let Ok(request) = request.header("traceparent", &value).body(()) else { return };
    let (parts, ()) = request.into_parts();
    if let Ok(host) = host::of(&parts) {
        assert!(!host.is_empty() && !host.bytes().any(|b| b.is_ascii_uppercase() || b == b'/' || b == b'@'));
    }
    let _ = Bearer::of(&parts);
    let _ = trace::given_id(&parts.headers);
    assert!(trace::traceparent(&[&value]).iter().all(|b| (b'!'..=b'~').contains(b)));
});
