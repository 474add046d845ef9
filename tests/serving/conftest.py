"""A running server with a small random model, for all tests of its protocols."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from codellama_jax.config.generation import Serving
from codellama_jax.config.model import Llama
from codellama_jax.config.serving import Server
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.generation.engine import Engine
from codellama_jax.serving.api import Api
from codellama_jax.serving.app import application
from codellama_jax.serving.connections import HttpServer
from codellama_jax.serving.service import Service
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tests.generation.generation_models import random_params, weights_of


@pytest.fixture(scope="module", autouse=True)
def _no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No connection is encrypted, so clients read no certificates: this would take every new client 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@dataclasses.dataclass
class Running:
    """A server that listens on the loopback interface."""

    url: str
    api: Api
    http: HttpServer


@contextlib.contextmanager
def running_server(model: GenerationModel, engine: Engine, settings: Server) -> Iterator[Running]:
    service = Service(model.tokenizer, engine, settings)
    api = Api(model, service, settings, "small")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = HttpServer(application(api), service, settings)
    service.start()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not (server.started and service.ready):
        assert service.failure is None
        time.sleep(0.02)
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", api, server)
    finally:
        server.should_exit = True
        thread.join()
        service.stop()
        listener.close()


@pytest.fixture(scope="session")
def small_model(small_tokenizer: Tokenizer) -> GenerationModel:
    rows = small_tokenizer.rows
    llama = Llama(dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, vocab_size=rows, compute_dtype="float32")
    weights = weights_of(random_params(llama), llama)
    return GenerationModel(llama, weights, small_tokenizer, 512, "random", "small", "inst", dialogues=False)


@pytest.fixture(scope="session")
def small_engine(small_model: GenerationModel) -> Engine:
    """The engine of all tests: its programs are compiled once. One server at a time can use it."""
    serving = Serving(slots=2, context=512, chunks=(16, 64))
    return Engine(small_model.weights, small_model.llama, serving, small_model.tokenizer.rows)


@pytest.fixture(scope="module")
def server(small_model: GenerationModel, small_engine: Engine) -> Iterator[Running]:
    """A server with default settings and two slots. Tests leave it without requests."""
    with running_server(small_model, small_engine, Server()) as running:
        yield running


@pytest.fixture
def make_server(small_model: GenerationModel, small_engine: Engine) -> Iterator[Callable[[Server], Running]]:
    """Starts a server with other settings: make_server(Server(...)). A module that uses it cannot use `server`."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(running_server(small_model, small_engine, settings))


@pytest.fixture(scope="session")
def client_without_infilling(small_model: GenerationModel) -> TestClient:
    """A client of a server whose model has no infilling ids. Its engine does not run, so nothing can be generated."""
    tokenizer = SentencePieceTokenizer(small_model.tokenizer.model, infilling=False)
    model = dataclasses.replace(small_model, tokenizer=tokenizer)
    serving = Serving(slots=1, context=512)
    service = Service(tokenizer, Engine(model.weights, model.llama, serving, tokenizer.rows), Server())
    return TestClient(application(Api(model, service, Server(), "plain")), "http://127.0.0.1")
