"""What is measured, and how it is told."""
import base64, datetime, glob, json, os, platform, re, secrets, socket, statistics, subprocess, sys, tempfile, time, urllib.request
from peers import ALGORITHMS, ROOT, Field, output, versions

# What the host may take of the cores while something is measured, and how often it is measured again at the most.
STOLEN, STOLEN_OF_LATENCY, AGAIN = 0.02, 0.005, 4
RELAY, HYPER, NGINX = "raw relay, no HTTP", "hyper and a socket, nothing checked", "nginx, `proxy_pass`, no auth"
MANY = "RS256, 10,000 tokens"
OFF, TRACKED, ASKED = (f"Bearward, revocation {how}" for how in ("off", "tracked", "asked in Redis"))
PLAIN_OFF, PLAIN_TRACKED = (f"Bearward by `cargo build --release` alone, {how}" for how in ("off", "tracked"))
TABLES = ["auth", "sessions", "tls", "cold", "refused", "bodies", "routes", "revoked", "latency", "idle"]
# More than any of them takes in a second.
COLD_TOKENS = {"HS256": 100_000, "RS256": 50_000, "ES256": 25_000}
UPLOAD = """
wrk.method, wrk.body = "POST", string.rep("x", 65536)
wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN")
"""


def cpu_ns(pids):
    total = 0
    for pid in pids:
        for stat in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            try:
                total += int(open(stat).read().split()[0])
            except OSError:
                pass
    return total


def family(pid):
    return [pid] + [int(kid) for kid in output(["pgrep", "-P", str(pid)]).split()]


def stolen_ticks():
    """Hundredths of a second that the host has taken from the cores."""
    return sum(int(line.split()[8]) for line in open("/proc/stat") if re.match(r"cpu\d", line))


def resident_kib(pids):
    return sum(int(line.split()[1]) for pid in pids for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))


class Bench:
    def __init__(self, options):
        self.options, self.field, self.tables, self.skipped = options, Field(tempfile.mkdtemp(prefix="bearward-bench-")), {}, []
        self.proxies, self.left_out, self.kept_all_the_same = {}, 0, 0

    # Getting ready ----------------------------------------------------------------------------

    def prepare_field(self):
        """All but the proxies."""
        field = self.field
        field.keys()
        k = base64.urlsafe_b64encode(field.secret.encode()).decode().rstrip("=")
        field.path("HS256.jwks.json", json.dumps({"keys": [{"kty": "oct", "kid": "HS256", "alg": "HS256", "k": k}]}))
        field.upstream()
        field.redis()
        self.tokens = {alg: field.mint(alg)[0] for alg in ALGORITHMS}
        # Users have the first one as an example.
        self.turns, self.upload = os.path.join(ROOT, "examples/load/many-tokens.lua"), field.path("upload.lua", UPLOAD)

    def prepare(self):
        self.prepare_field()
        field = self.field
        starts = {"relay": field.relay, "hyper": field.hyper, "nginx": field.nginx, "haproxy": field.haproxy, "envoy": field.envoy, "bearward": field.bearward}
        if field.bearward_binary != field.plain_binary:
            starts["plain"] = lambda: field.bearward(field.plain_binary)
        for name, start in starts.items():
            try:
                self.proxies[name] = start()
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                if name in ("relay", "hyper", "bearward", "plain"):
                    raise
                self.skipped.append(f"{name}: {error}")
                print(f"left out: {name}: {error}", file=sys.stderr)
        self.refuses()

    def refuses(self):
        """A gateway that lets a bad token through is not worth timing."""
        for name in ("haproxy", "envoy", "bearward", "plain"):
            for case, (_, base) in self.proxies.get(name, {}).items():
                if case in ("public", "tls"):
                    continue
                good = self.tokens[case.partition("-")[0]]
                head, payload, signature = good.split(".")
                other = self.tokens["ES256" if case.startswith("RS") else "RS256"]
                swapped = ".".join([head, other.split(".")[1], signature])
                alg = case.partition("-")[0]
                bad = [("a changed signature", f"{head}.{payload}.{'A' * len(signature)}"), ("swapped claims", swapped), ("no token", ""), ("another audience", self.field.mint(alg, audience="other")[0])]
                for what, token in [("a good token", good)] + bad:
                    request = urllib.request.Request(base + "/orders/42", headers={"Authorization": f"Bearer {token}"} if token else {})
                    try:
                        status = urllib.request.urlopen(request).status
                    except urllib.error.HTTPError as error:
                        status = error.code
                    if (status == 200) != (what == "a good token"):
                        sys.exit(f"{name}, {case}: answered {status} to {what}")

    # Measuring ----------------------------------------------------------------------------------

    def measure(self, process, url, token=None, script=None, tokens=None, seconds=None, expect_ok=True, cookie=None, closing=False, once=False):
        pids = family(process.pid)
        command = ["taskset", "-c", "1", "wrk", "-t1", "-c64", f"-d{seconds or self.options.seconds}s"]
        command += ["-H", f"Authorization: Bearer {token}"] if token else []
        command += ["-H", f"Cookie: {cookie}"] if cookie else []
        command += ["-H", "Connection: close"] if closing else []
        command += ["-s", script] if script else []
        env = {**os.environ, "TOKENS": tokens or "", "TOKEN": token or ""}
        for turn in range(AGAIN + 1):
            before, stolen, began = cpu_ns(pids), stolen_ticks(), time.monotonic()
            out = subprocess.run(command + [url], capture_output=True, text=True, env=env).stdout
            spent, stolen, took = cpu_ns(pids) - before, stolen_ticks() - stolen, time.monotonic() - began
            requests = int(re.search(r"(\d+) requests in", out).group(1))
            if requests == 0 or "Socket errors" in out or (expect_ok and "Non-2xx" in out):
                raise RuntimeError(f"{url}: errors under load:\n{out}")
            # Of what comes once, as tokens that are new, there is no second time.
            is_quiet = stolen <= STOLEN * took * 100 * os.cpu_count()
            if is_quiet or turn == AGAIN or once:
                self.kept_all_the_same += not is_quiet and not once
                return spent / 1000 / requests, requests
            self.left_out += 1

    def table(self, name, columns, cases, rounds=None):
        """`cases`: {row: {column: a function that measures once}}. All take turns in each round, column by column: what is compared is measured within seconds."""
        figures = {row: {column: [] for column in cells} for row, cells in cases.items()}
        for turn in range((rounds or self.options.rounds) + 1):
            for column in columns:
                for row, cells in cases.items():
                    if column not in cells:
                        continue
                    value = cells[column]()
                    # The first turn warms connections, caches and the allocator.
                    if turn:
                        figures[row][column].append(value)
        self.tables[name] = {"columns": columns, "rows": figures}
        print(self.markdown(name), flush=True)

    def cell(self, proxy, case, path, token=None, **more):
        process, base = self.proxies[proxy][case]
        return lambda: self.measure(process, base + path, token, **more)[0]

    def auth(self):
        many = self.field.path("many.txt", "\n".join(self.field.mint("RS256", 10_000)) + "\n")
        t = self.tokens
        cases = {}
        # They look at no token, and are shown the same ones.
        for proxy, row in (("relay", RELAY), ("hyper", HYPER), ("nginx", NGINX)):
            if proxy in self.proxies:
                cases[row] = {"public": self.cell(proxy, "public", "/orders/42", t["RS256"]), MANY: self.cell(proxy, "public", "/orders/42", script=self.turns, tokens=many)}
        for proxy, row, suffix in (("haproxy", "HAProxy, `jwt_verify`", ""), ("envoy", "Envoy, `jwt_authn` with cache, RBAC", ""), ("envoy", "Envoy, no token cache", "-uncached")):
            if proxy in self.proxies:
                cells = {} if suffix else {"public": self.cell(proxy, "public", "/orders/42", t["RS256"])}
                cells |= {alg: self.cell(proxy, alg + suffix, "/orders/42", t[alg]) for alg in ALGORITHMS}
                cells[MANY] = self.cell(proxy, "RS256" + suffix, "/orders/42", script=self.turns, tokens=many)
                cases[row] = cells
        for row, path in ((OFF, "/unasked/42"), (TRACKED, "/orders/42"), (ASKED, "/asked/42")):
            cells = {alg: self.cell("bearward", alg, path, t[alg]) for alg in ALGORITHMS}
            cells[MANY] = self.cell("bearward", "RS256", path, script=self.turns, tokens=many)
            cases[row] = ({"public": self.cell("bearward", "public", "/open/42", t["RS256"])} if "off" in row else {}) | cells
        if "plain" in self.proxies:
            cells = {"public": self.cell("plain", "public", "/open/42", t["RS256"])} | {alg: self.cell("plain", alg, "/orders/42", t[alg]) for alg in ALGORITHMS}
            cells[MANY] = self.cell("plain", "RS256", "/orders/42", script=self.turns, tokens=many)
            cases[PLAIN_TRACKED] = cells
        self.table("auth", ["public", "RS256", MANY, "HS256", "ES256"], cases)

    def session(self):
        """The id of a session as a service writes it."""
        session = secrets.token_urlsafe(32)
        self.field.redis_cli("SET", f"session:{session}", json.dumps({"sub": "kim", "roles": ["customer"], "name": "kim", "iat": int(time.time())}), "EX", "3600")
        return session

    def sessions(self):
        """A browser's cookie and an app's token, of one caller, on one route that takes both."""
        session = self.session()
        cells = {"RS256 token": self.cell("bearward", "RS256", "/both/42", self.tokens["RS256"]), "session cookie": self.cell("bearward", "RS256", "/both/42", cookie=f"SID={session}")}
        self.table("sessions", list(cells), {"Bearward, revocation tracked": cells}, 3 * self.options.rounds)

    def handshakes(self, process, url, count=3000):
        """Each client of h2load is a new one, which has nothing to resume; wrk resumes."""
        pids = family(process.pid)
        for turn in range(AGAIN + 1):
            before = cpu_ns(pids)
            out = output(["taskset", "-c", "1", "h2load", "--h1", "-t1", f"-n{count}", f"-c{count}", "-r1500", url])
            # Where the host takes a core away so many wait at once that some are refused.
            if f" {count} succeeded" in out:
                return (cpu_ns(pids) - before) / 1000 / count
            self.left_out += 1
        raise RuntimeError(f"{url}: errors under load:\n{out}")

    def tls(self):
        """A public route: what TLS costs beside it, with connections that stay and with a new one for each request."""
        cases = {}
        for proxy, row, path in (("nginx", "nginx, OpenSSL, no auth", "/orders/42"), ("haproxy", "HAProxy, OpenSSL, no auth", "/orders/42"), ("bearward", "Bearward, rustls", "/open/42")):
            if proxy in self.proxies:
                cases[row] = {"connections that stay": self.cell(proxy, "tls", path), "a resumed one for each": self.cell(proxy, "tls", path, closing=True),
                    "a new one for each": lambda proxy=proxy, path=path: self.handshakes(self.proxies[proxy]["tls"][0], self.proxies[proxy]["tls"][1] + path)}
        self.table("tls", ["connections that stay", "a resumed one for each", "a new one for each"], cases)

    def cold(self):
        files = {alg: self.field.path(f"cold-{alg}.txt", "\n".join(self.field.mint(alg, COLD_TOKENS[alg])) + "\n") for alg in ALGORITHMS}

        filling = self.field.path("filling.txt", "\n".join(self.field.mint("HS256", 80_000)) + "\n")

        def fresh(alg, binary):
            # A process that knows none of these tokens, its cache full of others, as it is after a
            # while; the run ends before the first of them comes round again.
            for turn in range(AGAIN + 1):
                process, base = self.field.bearward(binary)["public"]
                self.measure(process, base + "/unasked/42", script=self.turns, tokens=filling, seconds=3, once=True)
                stolen, began = stolen_ticks(), time.monotonic()
                value, requests = self.measure(process, base + "/unasked/42", script=self.turns, tokens=files[alg], seconds=1, once=True)
                is_quiet = stolen_ticks() - stolen <= STOLEN * (time.monotonic() - began) * 100 * os.cpu_count()
                self.field.stop(process)
                if is_quiet or turn == AGAIN:
                    self.kept_all_the_same += not is_quiet
                    break
                self.left_out += 1
            if requests > COLD_TOKENS[alg]:
                raise RuntimeError(f"every token new, {alg}: {requests} requests with {COLD_TOKENS[alg]} tokens")
            return value

        cases = {}
        if "haproxy" in self.proxies:
            cases["HAProxy"] = {alg: self.cell("haproxy", alg, "/orders/42", script=self.turns, tokens=files[alg], seconds=1) for alg in ALGORITHMS}
        if "envoy" in self.proxies:
            cases["Envoy, no token cache"] = {alg: self.cell("envoy", f"{alg}-uncached", "/orders/42", script=self.turns, tokens=files[alg], seconds=1) for alg in ALGORITHMS}
        builds = {OFF: self.field.bearward_binary}
        if "plain" in self.proxies:
            builds[PLAIN_OFF] = self.field.plain_binary
        for row, binary in builds.items():
            cases[row] = {alg: (lambda alg=alg, binary=binary: fresh(alg, binary)) for alg in ALGORITHMS}
        self.table("cold", ALGORITHMS, cases)

    def refused(self):
        head, payload, signature = self.tokens["RS256"].split(".")
        changed = f"{head}.{payload}.{'A' * len(signature)}"
        revoked = self.field.mint("RS256", jti="revoked")[0]
        self.field.redis_cli("SET", "blacklist:revoked", "1")
        cases = {}
        for proxy, row in (("haproxy", "HAProxy"), ("envoy", "Envoy with cache"), ("bearward", "Bearward")):
            if proxy in self.proxies:
                cases[row] = {"bad signature": self.cell(proxy, "RS256", "/orders/42", changed, expect_ok=False)}
        cases["Bearward"]["revoked"] = self.cell("bearward", "RS256", "/orders/42", revoked, expect_ok=False)
        self.table("refused", ["bad signature", "revoked"], cases)

    def bodies(self):
        cases = {}
        for proxy, case, row in (("relay", "public", "raw relay"), ("nginx", "public", "nginx, no auth"), ("haproxy", "RS256", "HAProxy"), ("envoy", "RS256", "Envoy with cache"), ("bearward", "RS256", "Bearward, revocation off")):
            if proxy in self.proxies:
                path, t = "/unasked" if proxy == "bearward" else "/orders", self.tokens["RS256"]
                cases[row] = {"1 KiB answer": self.cell(proxy, case, path + "/1k", t), "64 KiB answer": self.cell(proxy, case, path + "/64k", t),
                    "64 KiB upload": self.cell(proxy, case, path + "/42", t, script=self.upload)}
        self.table("bodies", ["1 KiB answer", "64 KiB answer", "64 KiB upload"], cases)

    def routes(self):
        cells, started = {}, []
        for more in (5, 995, 9_995):
            process, base = self.field.bearward(routes=more)["public"]
            started.append(process)
            cells[f"{more + 5:,} routes"] = lambda process=process, base=base, more=more: self.measure(process, f"{base}/more/{more - 1}/42", self.tokens["RS256"])[0]
        # A twentieth is what is to be told apart, and what three rounds do not.
        self.table("routes", list(cells), {"Bearward, revocation tracked": cells}, 3 * self.options.rounds)
        for process in started:
            self.field.stop(process)

    def revoked(self):
        def populated(count):
            self.field.redis_cli("FLUSHALL")
            if count:
                self.field.redis_cli("DEBUG", "POPULATE", str(count), "blacklist")
            return self.cell("bearward", "RS256", "/orders/42", self.tokens["RS256"])()
        columns = {f"{count:,} revoked": (lambda count=count: populated(count)) for count in (0, 100_000, 1_000_000)}
        self.table("revoked", list(columns), {"Bearward, revocation tracked": columns}, 3 * self.options.rounds)
        self.field.redis_cli("FLUSHALL")

    def latency(self):
        """At a fixed rate of arrival, half of what the proxy can do; added to what the upstream itself takes."""
        capacity = {}
        cases = {"nginx, no auth": ("nginx", "public", "/orders/42"), "HAProxy": ("haproxy", "RS256", "/orders/42"),
            "Envoy with cache": ("envoy", "RS256", "/orders/42"), "Bearward, revocation tracked": ("bearward", "RS256", "/orders/42")}
        cases = {row: case for row, case in cases.items() if case[0] in self.proxies}
        for row, (proxy, case, path) in cases.items():
            capacity[row] = 1e6 / self.cell(proxy, case, path, self.tokens["RS256"], seconds=1)()
        straight = f"http://127.0.0.1:{self.field.upstream_port}/orders/42"

        def quantiles(url, rate):
            log = self.field.path("h2load.log")
            if os.path.exists(log):
                os.unlink(log)
            subprocess.run(["taskset", "-c", "1", "h2load", "--h1", "-c16", "-t1", f"-D{self.options.seconds}", f"--rps={max(1, round(rate / 16))}",
                "-H", f"Authorization: Bearer {self.tokens['RS256']}", f"--log-file={log}", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times = sorted(int(line.split("\t")[2]) for line in open(log) if line.split("\t")[1] == "200")
            return times[len(times) // 2], times[len(times) * 99 // 100]

        def pair(url, rate):
            for turn in range(AGAIN + 1):
                stolen, began = stolen_ticks(), time.monotonic()
                own, base = quantiles(url, rate), quantiles(straight, rate)
                # One core that is gone for a moment is all of the hundredth that is slowest.
                is_quiet = stolen_ticks() - stolen <= STOLEN_OF_LATENCY * (time.monotonic() - began) * 100 * os.cpu_count()
                if is_quiet or turn == AGAIN:
                    self.kept_all_the_same += not is_quiet
                    return own, base
                self.left_out += 1

        rows = {}
        for _ in range(self.options.rounds):
            for row, (proxy, case, path) in cases.items():
                rate = capacity[row] / 2
                own, base = pair(self.proxies[proxy][case][1] + path, rate)
                cells = rows.setdefault(row, {"p50 added, µs": [], "p99 added, µs": [], "p99, µs": [], "requests/s": []})
                for name, value in zip(cells, (own[0] - base[0], own[1] - base[1], own[1], rate)):
                    cells[name].append(value)
        self.tables["latency"] = {"columns": ["p50 added, µs", "p99 added, µs", "p99, µs", "requests/s"], "rows": rows}
        print(self.markdown("latency"), flush=True)

    def idle(self, count=5_000):
        rows = {}
        for row, (proxy, case) in {"nginx": ("nginx", "public"), "HAProxy": ("haproxy", "RS256"), "Envoy": ("envoy", "RS256"), "Bearward": ("bearward", "RS256")}.items():
            if proxy not in self.proxies:
                continue
            # A new process: one that was busy before has memory left for them.
            process, base = getattr(self.field, proxy)()[case]
            port, pids = int(base.rsplit(":", 1)[1]), family(process.pid)
            request = f"GET /orders/42 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.tokens['RS256']}\r\n\r\n".encode()
            before, sockets = resident_kib(pids), []
            for _ in range(count):
                one = socket.create_connection(("127.0.0.1", port))
                one.sendall(request)
                one.recv(4096)
                sockets.append(one)
            time.sleep(3)
            rows[row] = {"KiB per connection": [(resident_kib(pids) - before) / count], "KiB in all": [resident_kib(pids)]}
            for one in sockets:
                one.close()
            self.field.stop(process)
        self.tables["idle"] = {"columns": ["KiB per connection", "KiB in all"], "rows": rows}
        print(self.markdown("idle"), flush=True)

    # Telling ------------------------------------------------------------------------------------

    def median(self, table, row, column):
        values = self.tables.get(table, {}).get("rows", {}).get(row, {}).get(column)
        return statistics.median(values) if values else None

    def markdown(self, name):
        title = {"auth": "CPU µs per request, by what is verified", "sessions": "CPU µs per request, by what a caller shows", "tls": "CPU µs per request over TLS 1.3, ECDSA P-256", "cold": "CPU µs per request, every token new", "refused": "CPU µs per refusal",
            "bodies": "CPU µs per request, larger bodies", "routes": "CPU µs per request, by number of routes", "revoked": "CPU µs per request, by number of revoked tokens in Redis",
            "latency": "Latency at half of its own capacity, fixed rate of arrival", "idle": "Memory of 5,000 keep-alive connections, idle for 3 s"}[name]
        table = self.tables[name]
        lines = [f"| {title} | " + " | ".join(table["columns"]) + " |", "|---|" + "---|" * len(table["columns"])]
        for row, cells in table["rows"].items():
            texts = []
            for column in table["columns"]:
                values = cells.get(column)
                whole = values and statistics.median(values) >= 100
                show = (lambda value: f"{value:,.0f}") if whole else (lambda value: f"{value:.1f}")
                texts.append("–" if not values else show(values[0]) if len(values) == 1 else f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))})")
            lines.append(f"| {row} | " + " | ".join(texts) + " |")
        return "\n".join(lines) + "\n"

    def goals(self):
        """What was aimed at, and what came: the median of the ratios of the rounds, whose figures were taken within a quarter of a minute."""
        tracked, off, asked = TRACKED, OFF, ASKED
        m = lambda table, row, column: self.tables.get(table, {}).get("rows", {}).get(row, {}).get(column)
        rivals = lambda column: min((values for values in (m("auth", "HAProxy, `jwt_verify`", column), m("auth", "Envoy, `jwt_authn` with cache, RBAC", column)) if values), default=None, key=statistics.median)
        rows = []

        def goal(text, values, bases, limit):
            # What was added to nothing is no ratio.
            if values and bases and min(bases) > 0:
                ratio = statistics.median(value / base for value, base in zip(values, bases, strict=True))
                rows.append(f"| {text} | – | {ratio:.3f} | – |" if limit is None else f"| {text} | ≤ {limit:.2f} | {ratio:.3f} | {'yes' if ratio <= limit else 'no'} |")

        for column, shown in (("RS256", "public"), (MANY, MANY)):
            goal(f"{column}, hyper and a socket, nothing checked / raw relay", m("auth", HYPER, shown), m("auth", RELAY, shown), None)
            for row, what in ((off, "revocation off"), (tracked, "tracked"), (PLAIN_TRACKED, "tracked, by cargo alone"), (asked, "asked in Redis")):
                goal(f"{column}, {what} / better of HAProxy and Envoy with cache", m("auth", row, column), rivals(column), 0.33)
                goal(f"{column}, {what} / nginx without auth", m("auth", row, column), m("auth", NGINX, shown), 1.0)
                goal(f"{column}, {what} / raw relay", m("auth", row, column), m("auth", RELAY, shown), 1.25)
        for row, what in ((off, "revocation off"), (tracked, "tracked"), (asked, "asked in Redis")):
            goal(f"RS256, {what} / public route", m("auth", row, "RS256"), m("auth", off, "public"), 1.05)
        goal("RS256, tracked, by cargo alone / public route", m("auth", PLAIN_TRACKED, "RS256"), m("auth", PLAIN_TRACKED, "public"), 1.05)
        goal("RS256, tracked / revocation off", m("auth", tracked, "RS256"), m("auth", off, "RS256"), 1.02)
        goal("a session's cookie / a token", m("sessions", tracked, "session cookie"), m("sessions", tracked, "RS256 token"), 1.1)
        for column in ("connections that stay", "a resumed one for each", "a new one for each"):
            goal(f"TLS, {column} / nginx with OpenSSL", m("tls", "Bearward, rustls", column), m("tls", "nginx, OpenSSL, no auth", column), 1.0)
        for alg in ALGORITHMS:
            for row, what in ((off, ""), (PLAIN_OFF, ", by cargo alone")):
                goal(f"every token new, {alg}{what} / HAProxy", m("cold", row, alg), m("cold", "HAProxy", alg), 0.75)
        goal("10,000 routes / 10 routes", m("routes", tracked, "10,000 routes"), m("routes", tracked, "10 routes"), 1.05)
        goal("1,000,000 revoked / 0 revoked", m("revoked", tracked, "1,000,000 revoked"), m("revoked", tracked, "0 revoked"), 1.05)
        goal("p99 added at half capacity / HAProxy's", m("latency", tracked, "p99 added, µs"), m("latency", "HAProxy", "p99 added, µs"), 1.0)
        goal("an idle connection / 10 KiB", m("idle", "Bearward", "KiB per connection"), [10], 1.0)
        return "\n".join(["| goal | at most | came | met |", "|---|---|---|---|"] + rows) + "\n"

    def report(self):
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
        about = ", ".join(f"{name} {version}" for name, version in versions().items())
        head = f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, Linux {platform.release()}; {about}; `benches/peers/run --rounds {self.options.rounds} --seconds {self.options.seconds}{' --plain' if self.field.bearward_binary == self.field.plain_binary else ''}`\n"
        if self.left_out:
            head += (f"\n{self.left_out} measurements in which the host took more than {STOLEN:.0%} of the cores were left out and made again; "
                f"{self.kept_all_the_same} were kept, since it did so {AGAIN + 1} times.\n")
        parts = [head] + [self.markdown(name) for name in TABLES if name in self.tables] + [self.goals()] + [f"Left out: {text}\n" for text in self.skipped]
        return "\n".join(parts)
