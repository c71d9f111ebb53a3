use proptest::prelude::*;

use super::*;

/// What a reader makes of bytes that come in pieces: status, body, whether more may follow.
fn read(pieces: &[&[u8]], method: &Method) -> Result<Option<(u16, Vec<u8>, bool)>, Malformed> {
    let (mut buffer, mut reader) = (BytesMut::new(), HeadReader::default());
    let (mut head, mut body): (Option<Head>, Vec<u8>) = (None, Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if head.is_none() {
            head = reader.read(&mut buffer, method)?;
        }
        while let Some(head) = &mut head
            && let Piece::Data(data) = head.framing.next(&mut buffer)?
        {
            body.extend_from_slice(&data);
        }
    }
    let Some(head) = head else { return Ok(None) };
    let is_whole = head.framing.is_over() || matches!(head.framing, Framing::Close);
    Ok(is_whole.then_some((head.status.as_u16(), body, head.is_persistent && buffer.is_empty())))
}

fn get(text: &str) -> Result<Option<(u16, String, bool)>, Malformed> {
    read(&[text.as_bytes()], &Method::GET)
        .map(|read| read.map(|(status, body, goes_on)| (status, String::from_utf8(body).expect("text"), goes_on)))
}

#[test]
fn a_body_ends_where_the_fields_say() {
    for (text, body, goes_on) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", "ok", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x, Close\r\n\r\nok", "ok", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", "ok", true),
        ("HTTP/1.1 200 OK\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\no\r\n01;x=\"y\"\r\nk\r\n0\r\n\r\n", "ok", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\ny: 2\r\n\r\n", "ok", true),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "ok",
            true,
        ),
    ] {
        assert_eq!(get(text), Ok(Some((200, body.to_owned(), goes_on))), "{text}");
    }
    // Where a body may follow that should not be there, nothing else is read from the connection.
    for (status, framing, goes_on) in [
        (204, "content-length: 0", true),
        (204, "content-length: 9", false),
        (204, "transfer-encoding: chunked", false),
        (304, "content-length: 9", true),
        (304, "transfer-encoding: chunked", false),
    ] {
        let answer = get(&format!("HTTP/1.1 {status} X\r\n{framing}\r\n\r\n"));
        assert_eq!(answer, Ok(Some((status, String::new(), goes_on))), "{status} {framing}");
    }
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    assert_eq!(read(&[head], &Method::HEAD), Ok(Some((200, Vec::new(), false))));
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_no_answer() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n";
    let field = |field: &str| format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\nok");
    let body = |body: &str| format!("{chunked}\r\n{body}");
    for text in [
        format!("{chunked}content-length: 2\r\n\r\n0\r\n\r\n"),
        format!("{chunked}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        field("content-length: 2\r\ncontent-length: 3"),
        field("content-length: +2"),
        field("content-length: -2"),
        field("content-length: 2, 2"),
        field("content-length: 0x2"),
        field("content-length: 99999999999999999999"),
        field("content-length:"),
        field("transfer-encoding: gzip, chunked"),
        field("transfer-encoding: identity"),
        field("x : y"),
        field("x: y\r\n folded"),
        field("x: a\0b"),
        field("novalue"),
        field("x: y\nz: w"),
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nok".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned(),
        "HTTP/2 200 OK\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
        "HTTP/1.1 99 X\r\n\r\n".to_owned(),
        body("+2\r\nok\r\n0\r\n\r\n"),
        body("0x2\r\nok\r\n0\r\n\r\n"),
        body("\r\nok\r\n0\r\n\r\n"),
        body(";x\r\nok\r\n0\r\n\r\n"),
        body("2\nok\r\n0\r\n\r\n"),
        body("2;a\nb\r\nok\r\n0\r\n\r\n"),
        body("2\r\nokX\r\n0\r\n\r\n"),
        body("2\r\nok\n0\r\n\r\n"),
        body("00000000000000002\r\nok\r\n0\r\n\r\n"),
        body("0\r\nx\0y: z\r\n\r\n"),
        body("0\r\n\rX"),
        body("g\r\n"),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(17),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)),
    ] {
        assert_eq!(get(&text), Err(Malformed), "{text}");
    }
    assert_eq!(get(&body(&format!("2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(17_000)))), Err(Malformed));
    assert_eq!(get(&body("2\r\nok\r\n0\r\n")), Ok(None), "the last line is missing");
}

#[test]
fn fields_of_one_hop_and_those_that_connection_names_are_dropped() {
    let text = "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\ntrailer: y\r\nupgrade: h2c\r\nproxy-authenticate: x\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n";
    let mut buffer = BytesMut::from(text);
    let head = HeadReader::default().read(&mut buffer, &Method::GET).expect("an answer").expect("a whole one");
    assert!(head.headers.keys().all(|name| !is_hop_by_hop(name.as_str()) && name != "connection" && name != "x-hop"));
    assert_eq!((head.headers.len(), head.headers.get_all("set-cookie").iter().count()), (3, 2));
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        head in "HTTP/1.[01] (200|204|304|500) OK\r\n(content-length: [0-9]\r\n|transfer-encoding: chunked\r\n|connection: close\r\n){0,2}\r\n",
        body in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b'a'), Just(b';')], 0..40),
        cuts in prop::collection::vec(1_usize..9, 1..60),
    ) {
        let bytes = [head.as_bytes(), &body].concat();
        let whole = read(&[&bytes], &Method::GET);
        let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(read(&pieces, &Method::GET), whole);
    }
}
