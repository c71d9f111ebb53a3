//! The head of a request in HTTP/1 becomes one in HTTP/2, and the head of an answer is looked at.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, Version};

use crate::forward::headers::is_hop_by_hop;

/// Most fields of a head.
const MAX_FIELDS: usize = 256;
/// Most fields of an answer.
const MAX_ANSWERED: usize = 100;

/// The request whose HTTP/1 head this is (RFC 9113 §8.3.1); `None` where it is none.
///
/// `TE: trailers` is always said: trailers of answers are taken (and gRPC services ask for it).
pub fn request(head: &[u8], scheme: Scheme) -> Option<Request<()>> {
    let mut fields = vec![httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(head).ok()?.is_complete() {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 1);
    let mut authority = None;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if name == HOST {
            authority = Some(field.value);
        } else if ![CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(&name) {
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
    }
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let uri = Uri::builder().scheme(scheme).authority(authority?).path_and_query(parsed.path?).build().ok()?;
    let mut request = Request::new(());
    *request.method_mut() = parsed.method?.parse().ok()?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Some(request)
}

/// Takes from an answer's head what belongs to one hop, as of HTTP/1; `None` where it has more fields than are taken.
pub fn fit(parts: &mut Parts) -> Option<()> {
    let headers = &mut parts.headers;
    if headers.len() > MAX_ANSWERED {
        return None;
    }
    let unfit: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    for name in unfit {
        headers.remove(name);
    }
    // 204 has no length (RFC 9110 §8.6).
    if parts.status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_http_1_is_told_in_the_words_of_http_2() {
        let head = b"POST /a/%ED?b=/../c HTTP/1.1\r\nhost: gw.test:8080\r\nx-user-id: kim\r\ncookie: a=1; b=2\r\n\
            transfer-encoding: chunked\r\nx-user-id: lee\r\n\r\n";
        let request = request(head, Scheme::HTTP).expect("a request");
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri().to_string(), "http://gw.test:8080/a/%ED?b=/../c");
        let fields: Vec<(&str, &[u8])> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 4] =
            [("x-user-id", b"kim"), ("x-user-id", b"lee"), ("cookie", b"a=1; b=2"), ("te", b"trailers")];
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_is_no_head_is_no_request() {
        for head in ["", "GET / HTTP/1.1\r\nhost: x\r\n", "GET / HTTP/1.1\r\n\r\n", "GET /\r\n\r\n", "\0"] {
            assert!(request(head.as_bytes(), Scheme::HTTP).is_none(), "{head:?}");
        }
    }
}
