//! What an upstream's bytes mean does not depend on how they are cut into reads, and no field of one
//! hop survives.
#![no_main]

use bearward::forward::answer::{Framing, HeadReader, Piece};
use bearward::forward::headers::is_hop_by_hop;
use bytes::BytesMut;
use http::Method;
use libfuzzer_sys::fuzz_target;

type Read = Option<(u16, Vec<u8>, bool)>;

fn read<'b>(pieces: impl Iterator<Item = &'b [u8]>, method: &Method) -> Result<Read, ()> {
    let (mut buffer, mut reader) = (BytesMut::new(), HeadReader::default());
    let (mut head, mut body) = (None, Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if head.is_none() {
            head = reader.read(&mut buffer, method).map_err(|_| ())?;
        }
        let Some(head) = &mut head else { continue };
        while let Piece::Data(data) = head.framing.next(&mut buffer).map_err(|_| ())? {
            assert!(!data.is_empty());
            body.extend_from_slice(&data);
        }
    }
    let Some(head) = head else { return Ok(None) };
    assert!(head.headers.keys().all(|name| !is_hop_by_hop(name.as_str())));
    assert!(!head.status.is_informational());
    assert!(!(head.is_persistent && matches!(head.framing, Framing::Close)));
    Ok(Some((head.status.as_u16(), body, head.framing.is_over())))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (seed, bytes) = input;
    let method = if seed & 0x80 == 0 { Method::GET } else { Method::HEAD };
    let whole = read(std::iter::once(bytes), &method);
    assert_eq!(read(bytes.chunks(usize::from(seed & 0x7f) + 1), &method), whole);
});
