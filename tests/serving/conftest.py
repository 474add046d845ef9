"""A running server with a small random model, for all tests of its protocols."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.testclient import TestClient

from codellama_jax.config.generation import Serving
from codellama_jax.config.model import Llama
from codellama_jax.config.serving import Server
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.generation.engine import Engine
from codellama_jax.serving.api import Api
from codellama_jax.serving.app import application
from codellama_jax.serving.service import Service
from codellama_jax.tokenizer import Tokenizer
from tests.generation.generation_models import random_params, weights_of


@dataclasses.dataclass
class Running:
    """A server that listens on the loopback interface."""

    url: str
    api: Api


@contextlib.contextmanager
def running_server(model: GenerationModel, settings: Server, **sizes) -> Iterator[Running]:
    serving = Serving(**({"slots": 4, "context": 512, "chunks": (16, 64)} | sizes))
    service = Service(model.tokenizer, Engine(model.weights, model.llama, serving, model.tokenizer.rows), settings)
    api = Api(model, service, settings, "small")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(api), log_config=None, timeout_graceful_shutdown=1))
    service.start()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not (server.started and service.ready):
        assert service.failure is None
        time.sleep(0.02)
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", api)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def small_model(small_tokenizer: Tokenizer) -> GenerationModel:
    rows = small_tokenizer.rows
    llama = Llama(dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, vocab_size=rows, compute_dtype="float32")
    return GenerationModel(llama, weights_of(random_params(llama), llama), small_tokenizer, 512, "random")


@pytest.fixture(scope="session")
def server(small_model: GenerationModel) -> Iterator[Running]:
    """A server with default settings. Tests leave it without requests."""
    with running_server(small_model, Server()) as running:
        yield running


@pytest.fixture
def make_server(small_model: GenerationModel) -> Iterator[Callable[..., Running]]:
    """Starts servers with other settings: make_server(Server(...), slots=1)."""
    with contextlib.ExitStack() as stack:
        yield lambda settings, **sizes: stack.enter_context(running_server(small_model, settings, **sizes))


@pytest.fixture(scope="session")
def client_without_infilling(small_model: GenerationModel) -> TestClient:
    """A client of a server whose model has no infilling ids. Its engine does not run, so nothing can be generated."""
    tokenizer = Tokenizer(small_model.tokenizer.model, infilling=False)
    model = dataclasses.replace(small_model, tokenizer=tokenizer)
    serving = Serving(slots=1, context=512)
    service = Service(tokenizer, Engine(model.weights, model.llama, serving, tokenizer.rows), Server())
    return TestClient(application(Api(model, service, Server(), "plain")), "http://127.0.0.1")
