"""The load that a build is shaped by (`deploy/build`): what a gateway does, each for a second or two."""
import subprocess
from bench import COLD_TOKENS, Bench
from peers import ALGORITHMS


class Options:
    rounds, seconds = 1, 1


def train(binary):
    """Has `binary` at work, and ends it, so that it writes what it counted."""
    bench = Bench(Options())
    field = bench.field
    try:
        bench.prepare_field()
        proxies = field.bearward(binary)
        process, clear = proxies["public"]
        secure, tokens = proxies["tls"][1], bench.tokens
        many = {alg: field.path(f"{alg}.txt", "\n".join(field.mint(alg, COLD_TOKENS[alg] // 2)) + "\n") for alg in ALGORITHMS}
        few = field.path("few.txt", "\n".join(field.mint("RS256", 5_000)) + "\n")
        head, payload, signature = tokens["RS256"].split(".")
        revoked = field.mint("RS256", jti="revoked")[0]
        field.redis_cli("SET", "blacklist:revoked", "1")
        session = bench.session()

        def load(what, url, **more):
            cost, requests = bench.measure(process, url, once=True, **more)
            print(f"{what}: {requests:,} requests", flush=True)

        for alg in ALGORITHMS:
            load(f"{alg}, tracked", clear + "/orders/42", token=tokens[alg], seconds=2)
            load(f"{alg}, not looked for", clear + "/unasked/42", token=tokens[alg])
            load(f"{alg}, every token new", clear + "/unasked/43", script=bench.turns, tokens=many[alg])
        load("tokens in turn, tracked", clear + "/orders/43", script=bench.turns, tokens=few)
        load("asked in Redis", clear + "/asked/42", token=tokens["RS256"])
        load("public", clear + "/open/42")
        load("a session's cookie", clear + "/both/42", cookie=f"SID={session}")
        for size in ("1k", "64k"):
            load(f"an answer of {size}", f"{clear}/orders/{size}", token=tokens["RS256"])
        load("an upload", clear + "/orders/42", token=tokens["RS256"], script=bench.upload)
        load("TLS", secure + "/orders/42", token=tokens["ES256"])
        load("TLS, a connection for each", secure + "/open/42", closing=True)
        for what, token in (("a changed signature", f"{head}.{payload}.{'A' * len(signature)}"), ("revoked", revoked), ("no token", None)):
            load(what, clear + "/orders/42", token=token, expect_ok=False)
        for what, base in (("HTTP/2", clear), ("HTTP/2 over TLS", secure)):
            subprocess.run(["h2load", "-t1", "-n40000", "-c8", "-m8", "-H", f"Authorization: Bearer {tokens['RS256']}", base + "/orders/42"],
                check=True, stdout=subprocess.DEVNULL)
            print(f"{what}: 40,000 requests", flush=True)
        field.stop(process)
    finally:
        field.stop_all()
        subprocess.run(["rm", "-rf", field.dir])


def refuses(binary):
    """Ends the program where `binary` lets a bad token through."""
    bench = Bench(Options())
    try:
        bench.prepare_field()
        bench.proxies["bearward"] = bench.field.bearward(binary)
        bench.refuses()
    finally:
        bench.field.stop_all()
        subprocess.run(["rm", "-rf", bench.field.dir])
