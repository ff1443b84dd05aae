"""TLS to PostgreSQL by each mode, through a proxy that ends it before a real server.

The tests' server is built without TLS; the handshake, the certificates and the checks are real.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from service import postgres as connections
from service.errors import StartError
from service.settings import Settings
from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.engines("postgresql", reason="a file is not reached through a network")

SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # a length of 8, then 80877103


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's certificate for localhost, and a client's, each with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl = part("openssl", "apt-get install openssl")

    def run(*arguments: str) -> None:
        command = [openssl, *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=30)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(*new, "-x509", "-subj", "/CN=Teller's tests", "-keyout", "ca.key", "-out", "ca.pem")
    for name, subject, alternative in (
        ("server", "/CN=localhost", "DNS:localhost"),
        ("client", "/CN=teller", "DNS:teller"),
    ):
        run(*new, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "extensions").write_text(f"subjectAltName = {alternative}\n")
        run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "extensions", "-out", f"{name}.pem"),
        )
    return folder


class Proxy:
    """Takes connections with TLS, if it has a certificate, and hands them to the server without.

    Attributes:
        port: where it listens, on 127.0.0.1 alone.
        encrypted: for each connection that got as far as a login, whether it came with TLS.
    """

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        self._server_port = make_url(url).port
        self._context = context
        self.port = 0
        self.encrypted: list[bool] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listener:
            self.port = listener.sockets[0].getsockname()[1]
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(8)
            secure = first == SSL_REQUEST
            if secure:
                writer.write(b"N" if self._context is None else b"S")
                if self._context is not None:
                    await writer.start_tls(self._context)
                first = await reader.readexactly(8)
            self.encrypted.append(secure and self._context is not None)
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
            back.write(first)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever did not like the certificate hangs up
        finally:
            writer.close()


async def _pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        to.write(data)
    to.close()


async def connect(proxy: Proxy, url: str, *, host: str = "127.0.0.1", **given: Any) -> bool:
    """Connect as the service does; whether it was with TLS. Raises ConnectionError."""
    through = make_url(url).set(host=host, port=proxy.port)
    settings = Settings.load(database_url=through.render_as_string(hide_password=False), **given)
    async with connections.opened(settings) as engine, engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    return proxy.encrypted[-1]


@pytest.fixture
async def proxy(database_url: str, certificates: Path) -> AsyncIterator[Proxy]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    async with Proxy(database_url, context).listening() as proxy:
        yield proxy


async def test_each_mode_encrypts_and_checks_what_it_says(
    proxy: Proxy, database_url: str, certificates: Path
) -> None:
    ours = {"database_tls_ca": str(certificates / "ca.pem")}
    assert await connect(proxy, database_url, database_tls="disable") is False
    assert await connect(proxy, database_url, database_tls="prefer") is True
    assert await connect(proxy, database_url, database_tls="require") is True
    assert await connect(proxy, database_url, database_tls="verify-ca", **ours) is True
    named = {"host": "localhost", "database_tls": "verify-full"}
    assert await connect(proxy, database_url, **named, **ours) is True
    for refused in (
        {"database_tls": "verify-full", **ours},  # the certificate is not for 127.0.0.1
        {"database_tls": "verify-ca"},  # the system does not know the CA
        named,
    ):
        with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(proxy, database_url, **refused)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(
    mode: str, database_url: str
) -> None:
    async with Proxy(database_url, None).listening() as plain:
        with pytest.raises(ConnectionError, match="no server that takes writes"):
            await connect(plain, database_url, database_tls=mode)
        assert plain.encrypted == []
        assert await connect(plain, database_url, database_tls="prefer") is False


async def test_a_server_that_asks_for_a_client_certificate_gets_it(
    database_url: str, certificates: Path
) -> None:
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem")
    )
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    mine = {
        "database_tls_certificate": str(certificates / "client.pem"),
        "database_tls_key": str(certificates / "client.key"),
    }
    async with Proxy(database_url, context).listening() as proxy:
        assert await connect(proxy, database_url, database_tls="require", **mine) is True
        with pytest.raises(ConnectionError):
            await connect(proxy, database_url, database_tls="require")


async def test_a_tls_file_that_cannot_be_read_stops_the_start(database_url: str) -> None:
    settings = Settings.load(
        database_url=database_url, database_tls="verify-full", database_tls_ca="/nowhere/ca.pem"
    )
    with pytest.raises(StartError, match="TELLER_DATABASE_TLS_CA"):
        async with connections.opened(settings):
            pass
