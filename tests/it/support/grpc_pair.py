"""A gRPC service and its client, by grpcio: bytes in, bytes out, no generated code.

    grpc_pair.py serve                      prints its port
    grpc_pair.py call ADDRESS TOKEN [CA]    prints one JSON line for each call
"""
import json
import sys
from concurrent import futures

import grpc


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        told = dict(details.invocation_metadata)
        user = told.get("x-user-id", "nobody")

        def unary(request, context):
            context.set_trailing_metadata((("x-after", "trailer"), ("x-saw", user)))
            return user.encode() + b":" + request

        def refuses(request, context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today, 홍길동")

        def counts(request, context):
            for number in range(int(request)):
                yield str(number).encode()

        def collects(requests, context):
            return b",".join(requests)

        def echoes(requests, context):
            for request in requests:
                yield user.encode() + b":" + request

        return {
            "/shop.Orders/Get": grpc.unary_unary_rpc_method_handler(unary),
            "/shop.Orders/Admin": grpc.unary_unary_rpc_method_handler(unary),
            "/shop.Orders/Refuse": grpc.unary_unary_rpc_method_handler(refuses),
            "/shop.Orders/Count": grpc.unary_stream_rpc_method_handler(counts),
            "/shop.Orders/Collect": grpc.stream_unary_rpc_method_handler(collects),
            "/shop.Orders/Echo": grpc.stream_stream_rpc_method_handler(echoes),
        }.get(details.method)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((Service(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def call(address, token, ca=None):
    if ca:
        credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
        channel = grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "gw.test")])
    else:
        channel = grpc.insecure_channel(address)
    bearer = (("authorization", "Bearer " + token),)

    def tell(name, do):
        try:
            print(json.dumps({"call": name, "said": do()}), flush=True)
        except grpc.RpcError as error:
            told = {"call": name, "code": error.code().value[0], "details": error.details()}
            print(json.dumps(told), flush=True)

    def unary(method, metadata, body=b"7"):
        answer, ended = channel.unary_unary(method).with_call(body, metadata=metadata, timeout=20)
        trailers = {key: value for key, value in ended.trailing_metadata() if key in ("x-after", "x-saw")}
        return [answer.decode(), trailers]

    tell("unary", lambda: unary("/shop.Orders/Get", bearer))
    tell("large", lambda: len(unary("/shop.Orders/Get", bearer, b"x" * 900_000)[0]))
    tell("refused by the service", lambda: unary("/shop.Orders/Refuse", bearer))
    tell("no token", lambda: unary("/shop.Orders/Get", ()))
    tell("a bad token", lambda: unary("/shop.Orders/Get", (("authorization", "Bearer x.y.z"),)))
    tell("no role", lambda: unary("/shop.Orders/Admin", bearer))
    tell("no method of the service", lambda: unary("/shop.Orders/Nothing", bearer))
    tell("no route", lambda: unary("/shop.Members/Get", bearer))
    tell("no service", lambda: unary("/away.Orders/Get", bearer))
    count = channel.unary_stream("/shop.Orders/Count")
    tell("stream", lambda: sum(1 for _ in count(b"1000", metadata=bearer, timeout=20)))
    collect = channel.stream_unary("/shop.Orders/Collect")
    pieces = (str(number).encode() for number in range(100))
    tell("collect", lambda: len(collect(pieces, metadata=bearer, timeout=20).split(b",")))

    def talk():
        import queue

        words, heard = queue.SimpleQueue(), []
        answers = channel.stream_stream("/shop.Orders/Echo")(iter(words.get, None), metadata=bearer, timeout=20)
        for word in (b"one", b"two", b"three"):
            words.put(word)
            heard.append(next(answers).decode())
        words.put(None)
        return heard + [left.decode() for left in answers]

    tell("talk", talk)


if sys.argv[1] == "serve":
    serve()
else:
    call(*sys.argv[2:])
