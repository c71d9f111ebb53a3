//! Clients that prove who they are in the handshake, and tokens that are good in their hands alone.

use std::io::{Read, Write};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::SanType;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::support::gateway::{customer, get, order, token};
use crate::support::h2::H2;
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Client, Gateway, Upstream, config, sign, until};

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: mesh, match: { path: "/mesh/**" }, upstream: echo, auth: [mesh], access: authenticated }
  - { id: orders, match: { path: "/stock/{cn}" }, upstream: echo, auth: [mesh], access: { claims: { cn: "{cn}" } } }
  - { id: spiffe, match: { path: "/spiffe" }, upstream: echo, auth: [mesh], access: { claims: { uri: "spiffe://shop.test/orders" } } }
  - { id: either, match: { path: "/either" }, upstream: echo, auth: [rsa, mesh], access: authenticated }
"#;

struct Mesh {
    upstream: Upstream,
    servers: Authority,
    clients: Authority,
    gateway: Gateway,
}

impl Mesh {
    fn start(auth: &str, keys: &str) -> Self {
        Self::start_on(Upstream::echo(), auth, keys)
    }

    fn start_on(upstream: Upstream, auth: &str, keys: &str) -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let folder = tempfile::tempdir().expect("a folder");
        sign::write_keys(folder.path());
        servers.write(folder.path(), "gw", &["gw.test"]);
        clients.write_own(&folder.path().join("mesh.pem"));
        clients.write_list(&folder.path().join("mesh.crl"), &[]);
        std::fs::write(folder.path().join("gateway.yaml"), yaml(&upstream, auth, keys)).expect("a file");
        // Its clock can be set.
        Self { upstream, servers, clients, gateway: Gateway::start_ahead_in(folder, 0) }
    }

    /// Settings of a client with a certificate of the mesh, that trusts the gateway.
    fn client(&self, cn: &str) -> (Arc<ClientConfig>, CertificateDer<'static>) {
        self.client_of(&self.clients, cn, 30)
    }

    fn client_of(&self, by: &Authority, cn: &str, days: i64) -> (Arc<ClientConfig>, CertificateDer<'static>) {
        let uri = SanType::URI(format!("spiffe://shop.test/{cn}").as_str().try_into().expect("a URI"));
        by.showing(cn, &[uri], days, &self.servers)
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> Option<TlsClient> {
        TlsClient::connect(self.gateway.address, config, "gw.test").ok()
    }

    fn ask(&self, config: &Arc<ClientConfig>, path: &str, token: Option<&str>) -> Option<(u16, String)> {
        let mut client = self.connect(config)?;
        client.try_send(&get(path, token)).map(|(status, _, body)| (status, body))
    }

    fn status(&self, config: &Arc<ClientConfig>, path: &str, token: Option<&str>) -> Option<u16> {
        self.ask(config, path, token).map(|(status, _)| status)
    }

    fn without(&self) -> Arc<ClientConfig> {
        self.servers.client(&[&rustls::version::TLS13])
    }
}

fn yaml(upstream: &Upstream, auth: &str, keys: &str) -> String {
    let tls = format!("certificates: [{{ cert_file: gw.crt, key_file: gw.key }}], client_auth: {{ by: mesh{auth} }}");
    config(upstream.address, ROUTES)
        .replace(r#"{ address: "127.0.0.1:0" }]"#, &format!(r#"{{ address: "127.0.0.1:0", tls: {{ {tls} }} }}]"#))
        .replace("issuers:", &format!("client_certificates:\n  mesh: {{ ca_file: mesh.pem{keys} }}\nissuers:"))
        .replace("X-User-Id: sub", "X-User-Id: sub\n    X-Cert: jti\n    X-Dns: dns\n    X-Uri: uri")
}

/// What a certificate is called where it is taken back: the digest of what is signed of it.
fn id(der: &CertificateDer<'_>) -> String {
    let (_, read) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    let signed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, read.tbs_certificate.as_ref());
    URL_SAFE_NO_PAD.encode(signed)
}

fn thumbprint(der: &CertificateDer<'_>) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der))
}

#[test]
fn a_certificate_proves_who_is_calling_where_the_route_takes_it() {
    let mesh = Mesh::start(", mode: optional", "");
    let (orders, der) = mesh.client("orders");
    let (status, told) = mesh.ask(&orders, "/mesh/x", None).expect("an answer");
    assert_eq!(status, 200);
    assert!(
        told.contains("x-user-id: CN=orders%2CO=Shop\r\n") || told.contains("x-user-id: CN=orders,O=Shop\r\n"),
        "{told}"
    );
    assert!(told.contains(&format!("x-cert: {}\r\n", id(&der))), "{told}");
    assert!(told.contains("x-uri: spiffe://shop.test/orders\r\n") && !told.contains("x-dns:"), "{told}");
    let is_named = |line: &serde_json::Value| line["subject"] == "CN=orders,O=Shop";
    until("it is logged", || mesh.gateway.access_lines().iter().any(is_named));
    let none = mesh.without();
    for (client, path, token, status) in [
        (&orders, "/stock/orders", None, 200),
        (&orders, "/stock/payments", None, 403),
        (&orders, "/spiffe", None, 200),
        (&orders, "/either", None, 200),
        (&orders, "/open/x", None, 200),
        // Where tokens alone are taken a certificate is no credential.
        (&orders, "/me/x", None, 401),
        (&orders, "/me/x", Some(customer()), 200),
        // Who sends a token is who the token says.
        (&orders, "/either", Some(customer()), 200),
        (&orders, "/either", Some("rubbish".to_owned()), 401),
        // A token where none is configured (RFC 6750 §3.1), known or not.
        (&orders, "/mesh/x", Some(customer()), 400),
        (&orders, "/mesh/x", Some("rubbish".to_owned()), 400),
        (&none, "/mesh/x", None, 403),
        (&none, "/either", None, 401),
        (&none, "/either", Some(customer()), 200),
        (&none, "/open/x", None, 200),
    ] {
        assert_eq!(mesh.status(client, path, token.as_deref()), Some(status), "{path}");
    }
    // Who sends another scheme means to be whom it names; who comes from a page of another site is not its owner.
    let post = "POST /mesh/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 0\r\n";
    for (request, status) in [
        (get("/either", None).replace("\r\n\r\n", "\r\nauthorization: Basic eDp5\r\n\r\n"), 401),
        (format!("{post}\r\n"), 200),
        (format!("{post}origin: https://evil.test\r\n\r\n"), 403),
        (format!("{post}origin: https://evil.test\r\nsec-fetch-site: cross-site\r\n\r\n"), 403),
        (format!("{post}origin: https://gw.test\r\nsec-fetch-site: same-origin\r\n\r\n"), 200),
    ] {
        let mut client = mesh.connect(&orders).expect("a connection");
        assert_eq!(client.send(&request).0, status, "{request}");
    }
    // Of HTTP/2 in the same way, and what clients say of certificates goes nowhere.
    let mut config = (*orders).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = H2::over_tls(mesh.gateway.address, &Arc::new(config), "gw.test");
    let fields = [("client-cert", ":AAAA:"), ("client-cert-chain", ":AAAA:"), ("x-forwarded-client-cert", "By=x")];
    let answer = client.send(&crate::support::h2::request("GET", "/mesh/x", &fields), None);
    assert_eq!(answer.status, 200);
    let seen = mesh.upstream.last();
    for (name, _) in fields {
        assert!(seen.value(name).is_none(), "{name}");
    }
}

#[test]
fn certificates_that_are_not_the_authorities_get_no_connection() {
    let mesh = Mesh::start("", ", crl_file: mesh.crl, max_lifetime: 60d, subject: uri");
    let (good, good_der) = mesh.client("orders");
    let (status, told) = mesh.ask(&good, "/mesh/x", None).expect("an answer");
    assert!(status == 200 && told.contains("x-user-id: spiffe://shop.test/orders\r\n"), "{told}");
    let stranger = Authority::new();
    // Nobody without one, nobody else's, none that is over.
    for client in [mesh.without(), mesh.client_of(&stranger, "orders", 30).0, mesh.client_of(&mesh.clients, "x", 0).0] {
        assert_eq!(mesh.status(&client, "/open/x", None), None);
    }
    // One that lives longer than a revocation would.
    assert_eq!(mesh.status(&mesh.client_of(&mesh.clients, "x", 90).0, "/mesh/x", None), Some(401));
    // Another list is read when it changes: for connections that come, and those that are there.
    let mut kept = mesh.connect(&good).expect("a connection");
    assert_eq!(kept.send(&get("/mesh/x", None)).0, 200);
    let mut other_kept = mesh.connect(&mesh.client("payments").0).expect("a connection");
    assert_eq!(other_kept.send(&get("/mesh/x", None)).0, 200);
    mesh.clients.write_list(&mesh.gateway.folder().join("mesh.crl"), &[&good_der]);
    until("the list is read", || mesh.status(&good, "/mesh/x", None).is_none());
    let after = kept.try_send(&get("/mesh/x", None));
    assert!(after.as_ref().is_none_or(|(status, ..)| *status == 403), "{after:?}");
    // Who is not on it notices nothing but the end of a connection, with an answer that says so.
    let after = other_kept.try_send(&get("/mesh/x", None));
    assert!(
        after.as_ref().is_none_or(|(status, head, _)| *status == 200 && head.contains("connection: close")),
        "{after:?}"
    );
    assert_eq!(mesh.status(&mesh.client("payments").0, "/mesh/x", None), Some(200));
}

#[test]
fn threat_36_a_certificate_is_taken_back_like_a_token_in_both_its_spellings() {
    let mesh = Mesh::start("", "");
    let (orders, der) = mesh.client("orders");
    let mut client = mesh.connect(&orders).expect("a connection");
    assert_eq!(client.send(&get("/mesh/x", None)).0, 200);
    let admin = |body: &str| Client::connect(mesh.gateway.admin).send(order("POST", "/revocations", body));
    let pem = sign::pem("CERTIFICATE", &der);
    let beside = json!({ "certificate": &pem, "sub": "x" }).to_string();
    for wrong in [r#"{"certificate":"abc"}"#, r#"{"certificate":7}"#, &beside] {
        assert_eq!(admin(wrong).status, 400, "{wrong}");
    }
    // An ECDSA signature has a second spelling, and so has a certificate: both are one.
    let respelled = mesh.clients.respelled(&orders, &der);
    assert_eq!(mesh.status(&respelled, "/mesh/x", None), Some(200));
    let answer = admin(&json!({ "certificate": pem }).to_string());
    assert_eq!((answer.status, answer.json()["key"].as_str()), (200, Some(&*format!("blacklist:{}", id(&der)))));
    // For as long as a certificate may live.
    let ends = answer.json()["expires_at"].as_i64().expect("a time");
    assert!(ends > crate::support::now() + 398 * 86_400, "{ends}");
    until("it is refused", || client.send(&get("/mesh/x", None)).0 == 401);
    assert_eq!(mesh.status(&respelled, "/mesh/x", None), Some(401));
    // By its id it is taken back for as long.
    let by_id = admin(&json!({ "jti": id(&mesh.client("x").1) }).to_string());
    assert!(by_id.json()["expires_at"].as_i64().expect("a time") > crate::support::now() + 398 * 86_400);
    assert_eq!(mesh.status(&mesh.client("payments").0, "/mesh/x", None), Some(200));
    let revoked = |line: &serde_json::Value| line["outcome"] == "revoked";
    until("it is logged", || mesh.gateway.access_lines().iter().any(revoked));
}

/// RFC 8705 §3: a token that names a certificate is nothing without it; one that is bound to what is not understood
/// here is no bearer token at all (RFC 9449 §7.1).
#[test]
fn a_token_that_is_bound_to_a_certificate_is_good_in_its_hands_alone() {
    let mesh = Mesh::start(", mode: optional", "");
    let ((orders, der), (payments, _)) = (mesh.client("orders"), mesh.client("payments"));
    let bound = token(&json!({ "cnf": { "x5t#S256": thumbprint(&der) } }));
    for _ in 0..2 {
        assert_eq!(mesh.status(&orders, "/me/x", Some(&bound)), Some(200));
        assert_eq!(mesh.status(&payments, "/me/x", Some(&bound)), Some(401));
        assert_eq!(mesh.status(&mesh.without(), "/me/x", Some(&bound)), Some(401));
    }
    // What is taken back of the certificate is taken back of the token.
    let taken_back = json!({ "certificate": sign::pem("CERTIFICATE", &der) }).to_string();
    let answer = Client::connect(mesh.gateway.admin).send(order("POST", "/revocations", &taken_back));
    assert_eq!(answer.status, 200, "{}", answer.text());
    until("it is refused", || mesh.status(&orders, "/me/x", Some(&bound)) == Some(401));
    let dpop = token(&json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }));
    assert_eq!(mesh.status(&orders, "/me/x", Some(&dpop)), Some(401));
    let unproven = |line: &serde_json::Value| line["outcome"] == "unproven_token";
    until("it is logged", || mesh.gateway.access_lines().iter().any(unproven));
}

/// An answer that lasts is over when its authorities are not believed any more.
#[test]
fn an_answer_that_lasts_ends_with_the_authorities_that_it_was_permitted_by() {
    let upstream = Upstream::trickles();
    let mesh = Mesh::start_on(upstream, ", mode: optional", "");
    let (orders, _) = mesh.client("orders");
    let mut client = mesh.connect(&orders).expect("a connection");
    client.0.write_all(get("/mesh/x", None).as_bytes()).expect("it is sent");
    let mut piece = [0; 512];
    assert!(client.0.read(&mut piece).expect("a piece") > 0);
    Authority::new().write_own(&mesh.gateway.folder().join("mesh.pem"));
    until("it is cut", || matches!(client.0.read(&mut piece), Ok(0) | Err(_)));
    let cut = |line: &serde_json::Value| line["outcome"] == "taken_back";
    until("it is logged", || mesh.gateway.access_lines().iter().any(cut));
}

/// So is one that was permitted by a token that is bound to a certificate, when that is taken back.
#[test]
fn an_answer_that_lasts_ends_with_the_certificate_that_its_token_is_bound_to() {
    let mesh = Mesh::start_on(Upstream::trickles(), ", mode: optional", "");
    let (orders, der) = mesh.client("orders");
    let bound = token(&json!({ "cnf": { "x5t#S256": thumbprint(&der) } }));
    let mut client = mesh.connect(&orders).expect("a connection");
    client.0.write_all(get("/me/x", Some(&bound)).as_bytes()).expect("it is sent");
    let mut piece = [0; 512];
    assert!(client.0.read(&mut piece).expect("a piece") > 0);
    let taken_back = json!({ "certificate": sign::pem("CERTIFICATE", &der) }).to_string();
    let answer = Client::connect(mesh.gateway.admin).send(order("POST", "/revocations", &taken_back));
    assert_eq!(answer.status, 200, "{}", answer.text());
    until("it is cut", || matches!(client.0.read(&mut piece), Ok(0) | Err(_)));
    let cut = |line: &serde_json::Value| line["outcome"] == "taken_back";
    until("it is logged", || mesh.gateway.access_lines().iter().any(cut));
}

/// What was proved to one listener is nothing to another one, whatever is resumed.
#[test]
fn threat_89_a_session_of_one_listener_is_resumed_at_no_other() {
    let (upstream, servers, mesh, partners) = (Upstream::echo(), Authority::new(), Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    servers.write(folder.path(), "gw", &["gw.test"]);
    mesh.write_own(&folder.path().join("mesh.pem"));
    partners.write_own(&folder.path().join("partners.pem"));
    let listener = |by: &str| {
        let tls = format!("certificates: [{{ cert_file: gw.crt, key_file: gw.key }}], client_auth: {{ by: {by} }}");
        format!(r#"{{ address: "127.0.0.1:0", tls: {{ {tls} }} }}"#)
    };
    let both = format!("{}, {}]", listener("mesh"), listener("partners"));
    let yaml = config(upstream.address, ROUTES).replacen(r#"{ address: "127.0.0.1:0" }]"#, &both, 1).replace(
        "issuers:",
        "client_certificates: { mesh: { ca_file: mesh.pem }, partners: { ca_file: partners.pem } }\nissuers:",
    );
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let gateway = Gateway::start_in(folder, &[]);
    let addresses = gateway.listening();
    let (orders, _) = mesh.showing("orders", &[], 30, &servers);
    for _ in 0..3 {
        let mut client = TlsClient::connect(addresses[0], &orders, "gw.test").expect("a connection");
        assert_eq!(client.send(&get("/mesh/x", None)).0, 200);
        let elsewhere = TlsClient::connect(addresses[1], &orders, "gw.test").ok();
        assert!(elsewhere.and_then(|mut client| client.try_send(&get("/open/x", None))).is_none());
    }
}

/// The name constraints of an authority whose certificates are for URIs of this host alone.
fn uris_of(host: &str) -> rcgen::CustomExtension {
    let tagged =
        |tag: u8, content: Vec<u8>| [vec![tag, u8::try_from(content.len()).expect("it is short")], content].concat();
    let subtree = tagged(0x30, tagged(0x86, host.as_bytes().to_vec()));
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], tagged(0x30, tagged(0xa0, subtree)));
    extension.set_criticality(true);
    extension
}

/// Chains that are none, as x509-limbo has them: each gets no connection, and nobody else notices.
#[test]
fn threat_88_a_chain_that_breaks_a_rule_anywhere_gets_no_connection() {
    type Shape<'s> = dyn Fn(&mut rcgen::CertificateParams) + 's;
    let mesh = Mesh::start("", ", subject: uri");
    let uri = |text: &str| SanType::URI(text.try_into().expect("a URI"));
    let dns = |text: &str| SanType::DnsName(text.try_into().expect("a name"));
    let named = |more: Vec<SanType>| {
        move |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names =
                [vec![SanType::URI("spiffe://shop.test/a".try_into().expect("a URI"))], more.clone()].concat();
        }
    };
    let plain = named(Vec::new());
    let day = |days: i64| {
        let seconds = u64::try_from(crate::support::now() + days * 86_400).expect("after 1970");
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds)
    };
    let only_below = |permitted: &'static str, excluded: &'static str| {
        move |params: &mut rcgen::CertificateParams| {
            let names = |text: &str| match text {
                "" => Vec::new(),
                text => vec![rcgen::GeneralSubtree::DnsName(text.to_owned())],
            };
            params.name_constraints = Some(rcgen::NameConstraints {
                permitted_subtrees: names(permitted),
                excluded_subtrees: names(excluded),
            });
        }
    };
    let critical = |params: &mut rcgen::CertificateParams| {
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let usual = |_: &mut rcgen::CertificateParams| {};
    let no_authority = |params: &mut rcgen::CertificateParams| params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let last = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    };
    let over = |params: &mut rcgen::CertificateParams| (params.not_before, params.not_after) = (day(-9), day(-1));
    let of_servers = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    let uris = |params: &mut rcgen::CertificateParams| params.custom_extensions.push(uris_of("shop.test"));
    let with = |name: SanType| named(vec![name]);
    let (inside, outside, wild) = (with(dns("a.shop.test")), with(dns("evil.test")), with(dns("*.shop.test")));
    let foreign = with(uri("spiffe://evil.test/a"));
    let both = |one: &dyn Fn(&mut rcgen::CertificateParams), params: &mut rcgen::CertificateParams| {
        plain(params);
        one(params);
    };
    let (leaf_over, leaf_early, leaf_of_servers, leaf_critical) = (
        |params: &mut rcgen::CertificateParams| both(&over, params),
        |params: &mut rcgen::CertificateParams| {
            plain(params);
            (params.not_before, params.not_after) = (day(1), day(9));
        },
        |params: &mut rcgen::CertificateParams| both(&of_servers, params),
        |params: &mut rcgen::CertificateParams| both(&critical, params),
    );
    let (shop, not_bad) = (only_below("shop.test", ""), only_below("", "bad.shop.test"));
    let cases: [(&str, &Shape<'_>, Vec<&Shape<'_>>, bool); 18] = [
        ("none between", &plain, vec![], true),
        ("four between", &plain, vec![&usual, &usual, &usual, &usual], true),
        ("too many between", &plain, vec![&usual; 12], false),
        ("signed by who is no authority", &plain, vec![&no_authority], false),
        ("below the last authority", &plain, vec![&last, &usual], false),
        ("below one, which is the last", &plain, vec![&usual, &last], true),
        ("an authority that is over", &plain, vec![&over], false),
        ("one that is over", &leaf_over, vec![], false),
        ("one that is early", &leaf_early, vec![], false),
        ("one of a server", &leaf_of_servers, vec![], false),
        ("an authority of servers", &plain, vec![&of_servers], false),
        ("what is critical and not known", &leaf_critical, vec![], false),
        ("the same of an authority", &plain, vec![&critical], false),
        ("a name inside", &inside, vec![&shop], true),
        ("a name outside", &outside, vec![&shop], false),
        ("a wildcard over what is excluded", &wild, vec![&not_bad], false),
        ("another host's URI", &foreign, vec![&uris], false),
        ("another host's URI, farther below", &foreign, vec![&uris, &usual], false),
    ];
    for (what, own, middles, is_taken) in cases {
        let (client, _) = mesh.clients.showing_chain(own, &middles, &mesh.servers);
        assert_eq!(mesh.status(&client, "/mesh/x", None).is_some(), is_taken, "{what}");
    }
    // Many that could be above one another, none of which leads anywhere.
    let same = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "the same");
    };
    let stranger = Authority::new();
    let mut many = Vec::new();
    for _ in 0..60 {
        many.push(stranger.showing_chain(&plain, &[&same], &mesh.servers).1.remove(1));
    }
    let (_, chain) = stranger.showing_chain(&plain, &[&same], &mesh.servers);
    many.insert(0, chain[0].clone());
    assert_eq!(mesh.status(&stranger.showing_as(many, &mesh.servers), "/mesh/x", None), None);
    // Whatever bits are changed in one that is good.
    let (_, chain) = mesh.clients.showing_chain(&plain, &[&usual], &mesh.servers);
    for number in 0..chain[0].len() {
        if number % 3 == 0 {
            let mut changed = chain.clone();
            let mut bytes = chain[0].to_vec();
            bytes[number] ^= 1 << (number % 8);
            changed[0] = bytes.into();
            let status = mesh.status(&mesh.clients.showing_as(changed, &mesh.servers), "/mesh/x", None);
            assert_eq!(status, None, "bit {number}");
        }
    }
    // And in a list of what was taken back: it is read, or refused with its place.
    let folder = mesh.gateway.folder();
    let list = folder.join("mesh.crl");
    mesh.clients.write_list(&list, &[&chain[0]]);
    let text = std::fs::read_to_string(&list).expect("PEM");
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(text.as_bytes());
    let der: rustls::pki_types::CertificateRevocationListDer<'_> = der.expect("a list");
    let yaml = std::fs::read_to_string(folder.join("gateway.yaml")).expect("text");
    let other = folder.join("other.yaml");
    std::fs::write(&other, yaml.replace("subject: uri", "subject: uri, crl_file: changed.crl")).expect("a file");
    for number in (0..der.len()).step_by(7) {
        let mut bytes = der.to_vec();
        bytes[number] ^= 1 << (number % 8);
        std::fs::write(folder.join("changed.crl"), sign::pem("X509 CRL", &bytes)).expect("a file");
        let checked = std::process::Command::new(crate::support::gateway::PROGRAM).arg("check").arg(&other).output();
        let code = checked.expect("it runs").status.code();
        assert!([Some(0), Some(78)].contains(&code), "bit {number}: {code:?}");
    }
    let (good, _) = mesh.client("orders");
    assert_eq!(mesh.status(&good, "/mesh/x", None), Some(200));
}

// A list that is over says nothing of what was taken back since: not to connections that are there, either.
#[test]
fn a_certificate_is_believed_no_longer_than_the_list_that_it_is_not_on() {
    let mesh = Mesh::start("", ", crl_file: mesh.crl");
    let (good, _) = mesh.client("orders");
    let mut kept = mesh.connect(&good).expect("a connection");
    assert_eq!(kept.send(&get("/mesh/x", None)).0, 200);
    // The list is over after a day, the certificate after a month.
    mesh.gateway.set_ahead(2 * 86_400);
    until("it is believed no more", || match kept.send(&get("/mesh/x", None)).0 {
        200 => false,
        401 | 403 => true,
        other => panic!("{other}"),
    });
    assert_eq!(mesh.status(&good, "/mesh/x", None), None, "nor is a new connection");
}
