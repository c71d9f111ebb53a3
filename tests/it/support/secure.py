"""A service that speaks TLS (OpenSSL): answers with who asks, and on which connection; /a/more with more than was asked for.

usage: secure.py CERT KEY [CLIENT_CA]   prints its port
"""
import http.server, itertools, json, ssl, sys, threading

count = itertools.count(1)


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.number = next(count)

    def do_GET(self):
        if self.path == "/a/more":
            # Two answers in one record, of which the first is as long as what is read at once.
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
            body = b"x" * (8192 - len(head % 8000))
            self.wfile.write(head % len(body) + body + head % 6 + b"unasked"[:6])
            return
        peer = self.connection.getpeercert() or {}
        names = [value for part in peer.get("subject", ()) for name, value in part if name == "commonName"]
        alternatives = [value for _, value in peer.get("subjectAltName", ())]
        body = json.dumps({"connection": self.number, "client": names + alternatives, "version": self.connection.version(),
            "host": self.headers["host"], "user": self.headers["x-user-id"]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def get_request(self):
        socket, address = super().get_request()
        return self.context.wrap_socket(socket, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
if len(sys.argv) > 3:
    context.load_verify_locations(sys.argv[3])
    context.verify_mode = ssl.CERT_REQUIRED
server = Server(("127.0.0.1", 0), Service)
server.context = context
print(server.server_address[1], flush=True)
server.serve_forever()
