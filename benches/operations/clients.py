"""Clients and services that the parts of `run` need, each a process of its own.

    clients.py service PORT CONTROL      a service that can be brought into trouble by a word to CONTROL
    clients.py limited PORT              a service that does 400 requests a second and no more
    clients.py polite PORT TOKEN         a client of HTTP/2 that does what a GOAWAY says
    clients.py arrivals PORT RATE SECONDS TOKEN   requests at random moments
    clients.py slow PORT EACH            four kinds of clients that are slow
"""
import asyncio, random, re, signal, socket, struct, sys, threading, time


def service(port, control):
    port, control = int(port), int(control)
    mode = ["good"]

    def control_loop():
        listener = socket.create_server(("127.0.0.1", control))
        while True:
            one, _ = listener.accept()
            word = one.recv(64).decode().strip()
            if word:
                mode[0] = word
            one.sendall(b"ok")
            one.close()

    def serve(one):
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    read = one.recv(65536)
                    if not read:
                        return
                    buffer += read
                _, _, buffer = buffer.partition(b"\r\n\r\n")
                if mode[0] == "slow":
                    time.sleep(3)
                if mode[0] == "resetting":
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if mode[0] == "garbage":
                    one.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
                    return
                head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
                if mode[0] == "huge head":
                    head += b"x-huge: " + b"h" * 300_000 + b"\r\n"
                one.sendall(head + b"\r\nok")
        except OSError:
            pass
        finally:
            one.close()

    threading.Thread(target=control_loop, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    while True:
        one, _ = listener.accept()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(one,), daemon=True).start()


def limited(port):
    """Takes 8 requests at one time, each for 20 ms."""
    port = int(port)
    room = asyncio.Semaphore(8)

    async def serve(reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                async with room:
                    await asyncio.sleep(0.02)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run():
        async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024) as server:
            await server.serve_forever()
    asyncio.run(run())


def polite(port, token):
    """A client of HTTP/2, eight requests at one time: it finishes what it has asked when it is told that the connection ends."""
    port = int(port)
    import hpack, hyperframe.frame as frames
    asked = failed = connections = 0
    goes_on = [True]
    signal.signal(signal.SIGTERM, lambda *_: goes_on.__setitem__(0, False))
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "gw.test"), (":path", "/orders/42"), ("authorization", f"Bearer {token}")]
    while goes_on[0]:
        connections += 1
        encoder, decoder, number, is_ending, waiting = hpack.Encoder(), hpack.Decoder(), 1, False, {}
        stream = socket.create_connection(("127.0.0.1", port))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source = stream.makefile("rb")
        out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.SettingsFrame(0).serialize() + frames.WindowUpdateFrame(0, window_increment=2**30).serialize()
        while True:
            while goes_on[0] and not is_ending and len(waiting) < 8:
                out += frames.HeadersFrame(number, encoder.encode(head), flags=["END_HEADERS", "END_STREAM"]).serialize()
                waiting[number] = None
                number += 2
                asked += 1
            if not waiting:
                break
            stream.sendall(out)
            out, begins = b"", source.read(9)
            if len(begins) < 9:
                failed += len(waiting)
                break
            frame, length = frames.Frame.parse_frame_header(memoryview(begins))
            frame.parse_body(memoryview(source.read(length)))
            if isinstance(frame, frames.HeadersFrame):
                waiting[frame.stream_id] = dict(decoder.decode(frame.data)).get(":status")
            if isinstance(frame, (frames.HeadersFrame, frames.DataFrame)) and "END_STREAM" in frame.flags:
                failed += waiting.pop(frame.stream_id) != "200"
            elif isinstance(frame, frames.RstStreamFrame):
                waiting.pop(frame.stream_id)
                failed += 1
            elif isinstance(frame, frames.SettingsFrame) and "ACK" not in frame.flags:
                out += frames.SettingsFrame(0, flags=["ACK"]).serialize()
            elif isinstance(frame, frames.PingFrame) and "ACK" not in frame.flags:
                out += frames.PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]).serialize()
            elif isinstance(frame, frames.GoAwayFrame):
                # What it has not looked at can be asked again (RFC 9113 §6.8).
                is_ending = True
                for one in [one for one in waiting if one > frame.last_stream_id]:
                    del waiting[one]
                    asked -= 1
        stream.close()
    print(asked, failed, connections)


def arrivals(port, rate, seconds, token):
    """Requests at random moments, whatever has become of those before; prints the status and the milliseconds of each."""
    port, rate, seconds = int(port), float(rate), float(seconds)
    idle, rows = [], []
    request = f"GET /orders/42 HTTP/1.1\r\nhost: gw.test\r\nauthorization: Bearer {token}\r\n\r\n".encode()

    async def one():
        began = time.perf_counter()
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.I)[1]))
        rows.append((int(head[9:12]), (time.perf_counter() - began) * 1000))
        if b"connection: close" in head.lower():
            writer.close()
        else:
            idle.append((reader, writer))

    async def run():
        due, tasks = time.perf_counter(), []
        end = due + seconds
        while due < end:
            due += random.expovariate(rate)
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    asyncio.run(run())
    print("\n".join(f"{status} {millis:.3f}" for status, millis in rows))


def slow(port, each):
    """Four kinds of clients that are slow, each so many: a byte every two seconds. Who is closed comes again."""
    port, each = int(port), int(each)
    post = b"POST /open/42 HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 100000\r\n\r\n"
    ask = b"GET /open/64k HTTP/1.1\r\nhost: gw.test\r\n\r\n" * 3
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    kinds = [(b"GET /open/42 HTTP/1.1\r\nhost: gw.test\r\nx-slow: ", b"x"), (post, b"x"), (ask, None), (preface, b"\x00")]

    def connect(kind):
        one = socket.socket()
        if kinds[kind][1] is None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.connect(("127.0.0.1", port))
        one.sendall(kinds[kind][0])
        one.setblocking(False)
        return one
    clients = [[kind, None] for kind in range(4) for _ in range(each)]
    random.shuffle(clients)
    while True:
        for at, client in enumerate(clients):
            kind, one = client
            try:
                if one is None:
                    client[1] = connect(kind)
                elif kinds[kind][1] is None:
                    client[1] = one if one.recv(8) else one.close()
                else:
                    one.send(kinds[kind][1])
            except BlockingIOError:
                pass
            except OSError:
                client[1] = one and one.close()
            if at % 5 == 0:
                time.sleep(2 * 5 / len(clients))


if __name__ == "__main__":
    kind, *given = sys.argv[1:]
    {"service": service, "limited": limited, "polite": polite, "arrivals": arrivals, "slow": slow}[kind](*given)
