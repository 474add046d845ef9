"""Whatever answers the problems of benchmarks: a local model, endpoints, or the benchmark's own solutions."""

import abc
import dataclasses
import threading
from collections.abc import Iterator, Mapping

from codellama_jax.config.generation import Sampling
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.sample import Answer


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer that is wanted.

    Attributes:
        problem: what is asked.
        sample: index of the answer among those to the problem.
        sampling: how it is sampled, with the seed.
    """

    problem: Problem
    sample: int
    sampling: Sampling


class Client(abc.ABC):
    """Answers requests.

    Attributes:
        name: of the model.
        identity: what the answers depend on, besides the requests. Evaluations of another identity are not mixed.
        chooses_order: whether the order of infilling prompts (Infilling.order) is the endpoint's choice.
    """

    name: str
    identity: Mapping[str, str]
    chooses_order: bool = False

    @abc.abstractmethod
    def answers(self, requests: Iterator[Request], stop: threading.Event) -> Iterator[tuple[Request, Answer]]:
        """Answers all requests, in any order.

        Args:
            requests: taken one after another, as there is room for them. Taking one may block.
            stop: when it is set, the iterator ends soon; requests that are not answered then stay so.

        Raises:
            UserError: the client cannot answer any more. What was yielded stays valid.
        """
