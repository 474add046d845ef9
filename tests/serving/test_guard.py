"""Whom the server answers: Host, Origin, CORS, API keys, and the limits of sizes."""

import logging
import socket

import httpx
import pytest

from codellama_jax.config.serving import Server
from codellama_jax.serving.guard import SiteGuard

KEY = "a-secret-key-of-a-client"


def get(server, path: str = "/v1/models", **headers) -> httpx.Response:
    return httpx.get(server.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def raw(server, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 5) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8000", "localhost.", "127.0.0.1:1", "[::1]:8000", "[::1]", "192.168.1.2:80", "a:1"]
)
def test_names_and_addresses_that_cannot_be_made_to_point_here_are_allowed(host):
    assert SiteGuard(None, Server(allowed_hosts=("A",)))._problem([host], []) is None


@pytest.mark.parametrize(
    "host",
    ["evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "a@localhost", "localhost:80:80", "[::1", "", "[evil]"],
)
def test_other_names_are_refused(host):
    assert SiteGuard(None, Server())._problem([host], []).status == 403


def test_a_page_of_another_site_is_refused_without_cors_headers(make_server):
    server = make_server(Server())
    for origin in ("http://evil.com", "null", "http://localhost:1", "http://127.0.0.1"):
        answer = get(server, Origin=origin)
        assert answer.status_code == 403 and "allowed_origin" in answer.text
        assert not [name for name in answer.headers if name.startswith("access-control")]
    own = get(server, Origin=server.url)
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    assert get(server, Host="evil.com").status_code == 403
    assert httpx.options(server.url + "/v1/models").status_code == 405


def test_an_allowed_site_may_read_answers_also_those_that_refuse_it(make_server):
    site = "http://localhost:8888"
    server = make_server(Server(allowed_origins=(site,), api_keys=(KEY,)))
    asked = {"Origin": site, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type"
    preflight = httpx.options(server.url + "/v1/completions", headers=asked)
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == site
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    refused = get(server, Origin=site)
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == site
    assert "access-control-allow-credentials" not in refused.headers
    other = httpx.options(server.url + "/v1/completions", headers=asked | {"Origin": "http://evil.com"})
    assert other.status_code == 403 and "access-control-allow-origin" not in other.headers


def test_requests_without_host_and_with_a_whole_url(make_server):
    server = make_server(Server())
    assert raw(server, "GET /v1/models HTTP/1.0\n").startswith(b"HTTP/1.1 200")
    assert raw(server, "GET http://localhost/v1/models HTTP/1.1\nHost: localhost\n").startswith(b"HTTP/1.1 200")
    assert raw(server, "GET http://evil.com/v1/models HTTP/1.1\nHost: localhost\n").startswith(b"HTTP/1.1 403")
    assert raw(server, "GET /v1/models HTTP/1.1\n").startswith(b"HTTP/1.1 400")
    assert raw(server, "GET / HTTP/1.1\nHost: localhost\nHost: evil.com\n").startswith(b"HTTP/1.1 400")
    two = "GET /v1/models HTTP/1.1\nHost: localhost\nOrigin: http://localhost\nOrigin: http://evil.com\n"
    assert raw(server, two).startswith(b"HTTP/1.1 403")


def test_an_api_key_in_any_of_the_usual_headers(make_server, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("codellama_jax"), "propagate", True)
    server = make_server(Server(api_keys=("another-key", KEY)))
    for given in ({"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X_API_Key": KEY}):
        assert get(server, **given).status_code == 200
    assert get(server, Api_Key=KEY, Authorization="Bearer").status_code == 200
    for given in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {KEY}"}, {"X_API_Key": KEY + "x"}):
        refused = get(server, **given)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert KEY not in refused.text
    assert raw(server, "GET /v1/models HTTP/1.1\nHost: localhost\nX-Api-Key: \xe9\xff\n").startswith(b"HTTP/1.1 401")
    assert get(server, "/livez").status_code == get(server, "/readyz").status_code == 200
    assert get(server, "/metrics").status_code == 401
    assert KEY not in caplog.text and KEY not in repr(server.api.settings)


def test_an_empty_key_is_accepted_where_no_keys_are_set(make_server):
    head = "GET /v1/models HTTP/1.1\nHost: localhost\nAuthorization: Bearer \n"
    assert raw(make_server(Server()), head).startswith(b"HTTP/1.1 200")


def test_bodies_have_a_limit(make_server):
    server = make_server(Server(body=1000))
    body = b'{"prompt": "' + b"x" * 2000 + b'"}'
    assert httpx.post(server.url + "/v1/completions", content=body).status_code == 413
    parts = httpx.post(server.url + "/v1/completions", content=iter([body[:900], body[900:]]))  # without a length
    assert parts.status_code == 413 and "1,000 bytes" in parts.text


def test_a_host_that_other_machines_reach_needs_keys_or_consent():
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com"):
        with pytest.raises(ValueError, match="without_keys"):
            Server(host=host)
        assert not Server(host=host, without_keys=True).is_local
        assert not Server(host=host, api_keys=(KEY,)).is_local
    assert all(Server(host=host).is_local for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"))
    with pytest.raises(ValueError) as short:
        Server(api_keys=("abc123",))
    assert "abc123" not in str(short.value)


def test_the_log_has_a_line_without_content_for_each_request(make_server, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging.getLogger("codellama_jax"), "propagate", True)
    server = make_server(Server())
    for log_prompts in (False, True):
        caplog.clear()
        server.api.settings = Server(log_prompts=log_prompts)
        body = {"prompt": "a secret text", "max_tokens": 2}
        assert httpx.post(server.url + "/v1/completions?q=secret", json=body, timeout=60).status_code == 200
        get(server, "/v1/%0Asecond line%1B[0m")
        lines = [record.getMessage() for record in caplog.records if record.name.endswith("request_log")]
        assert [line for line in lines if "POST /v1/completions 200" in line and "+ 2 tokens" in line]
        assert all(line.isprintable() for line in lines)
        assert any("secret" in line for line in lines) == log_prompts


def test_a_refusal_has_the_form_of_the_protocol(make_server):
    server = make_server(Server(api_keys=(KEY,)))
    assert isinstance(httpx.post(server.url + "/api/chat").json()["error"], str)
    assert httpx.post(server.url + "/v1/fim/completions").json()["object"] == "error"
    assert httpx.post(server.url + "/infill").json()["error"]["type"] == "authentication_error"
    missing = httpx.get(server.url + "/api/nothing", headers={"Authorization": f"Bearer {KEY}"})
    assert missing.status_code == 404 and "no such path" in missing.json()["error"]
