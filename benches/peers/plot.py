"""The picture for the README: one bar a proxy, the authenticated RS256 request."""
from xml.sax.saxutils import escape


def bars(bench):
    wanted = [("raw relay, no HTTP", "public", "raw relay (no HTTP, no auth)"), ("hyper and a socket, nothing checked", "public", "hyper alone (no auth)"),
        ("nginx, `proxy_pass`, no auth", "public", "nginx (no auth)"),
        ("Bearward, revocation off", "RS256", "Bearward, revocation off"), ("Bearward, revocation tracked", "RS256", "Bearward, tracked (default)"),
        ("Bearward, revocation asked in Redis", "RS256", "Bearward, Redis per request"),
        ("HAProxy, `jwt_verify`", "RS256", "HAProxy"), ("Envoy, `jwt_authn` with cache, RBAC", "RS256", "Envoy, token cache"), ("Envoy, no token cache", "RS256", "Envoy, no token cache")]
    rows = [(label, bench.median("auth", row, column)) for row, column, label in wanted]
    rows = [(label, value) for label, value in rows if value]
    longest, width, line = max(value for _, value in rows), 460, 30
    height = 56 + line * len(rows)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="780" height="{height}" viewBox="0 0 780 {height}" role="img" font-family="sans-serif" font-size="14">',
        '<title>CPU microseconds per request, RS256 token, one core</title>', f'<rect width="780" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="28" font-weight="bold" fill="#222222">CPU µs per request, RS256 token, one core (less is better)</text>']
    for number, (label, value) in enumerate(rows):
        y = 44 + line * number
        colour = "#b45309" if label.startswith("Bearward") else "#94a3b8"
        parts.append(f'<text x="236" y="{y + 16}" text-anchor="end" fill="#222222">{escape(label)}</text>')
        parts.append(f'<rect x="246" y="{y}" width="{value / longest * width:.0f}" height="22" fill="{colour}"/>')
        parts.append(f'<text x="{252 + value / longest * width:.0f}" y="{y + 16}" fill="#222222">{value:.1f}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"
