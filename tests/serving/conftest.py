"""A running server with a small random model, for all tests of its protocols."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from codellama_jax.config.generation import Serving
from codellama_jax.config.model import Llama
from codellama_jax.config.serving import Server
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.generation.engine import Engine
from codellama_jax.serving.api import Api
from codellama_jax.serving.app import application
from codellama_jax.serving.connections import HttpServer
from codellama_jax.serving.service import Service
from codellama_jax.tokenizer import Tokenizer
from tests.generation.generation_models import random_params, weights_of


@dataclasses.dataclass
class Running:
    """A server that listens on the loopback interface."""

    url: str
    api: Api
    http: HttpServer


def small_engine(model: GenerationModel, slots: int) -> Engine:
    serving = Serving(slots=slots, context=512, chunks=(16, 64))
    return Engine(model.weights, model.llama, serving, model.tokenizer.rows)


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
    return GenerationModel(llama, weights_of(random_params(llama), llama), small_tokenizer, 512, "random")


@pytest.fixture(scope="session")
def server(small_model: GenerationModel) -> Iterator[Running]:
    """A server with default settings and four slots. Tests leave it without requests."""
    with running_server(small_model, small_engine(small_model, slots=4), Server()) as running:
        yield running


@pytest.fixture(scope="session")
def second_engine(small_model: GenerationModel) -> Engine:
    """An engine with two slots. Its programs are compiled once."""
    return small_engine(small_model, slots=2)


@pytest.fixture
def make_server(small_model: GenerationModel, second_engine: Engine) -> Iterator[Callable[[Server], Running]]:
    """Starts a server with other settings and two slots: make_server(Server(...)). One at a time."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(running_server(small_model, second_engine, settings))
