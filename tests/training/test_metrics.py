"""The records of a stage: every step once, and lost time."""

from codellama_jax.config.training import Stage
from codellama_jax.training.metrics.json_lines import JsonLines
from codellama_jax.training.metrics.stage_log import StageLog

STAGE = Stage("code", "local", None, steps=10, batch_tokens=64, sequence_length=32)
METRICS = {"loss": 1.0, "learning_rate": 1e-3, "grad_norm": 1.0, "skipped": False}
METRICS |= {f"stream_{quantity}": [1.0] for quantity in ("losses", "weights", "tokens")}


def test_metrics_have_every_step_once_after_a_crash(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.2}\n{"step": 3, "loss": 0.3}\n{"step": 4, "lo')
    lines = JsonLines(path, last_step=2)
    lines.write({"step": 3, "loss": 1 / 3})
    lines.sync()
    assert [line["step"] for line in lines.lines] == [1, 2, 3]
    assert path.read_text().splitlines()[2] == f'{{"step": 3, "loss": {1 / 3!r}}}'


def test_time_lost_by_a_killed_process_is_recorded_with_the_next_step(tmp_path):
    def log(resumed_step):
        return StageLog(tmp_path, STAGE, ["code"], resumed_step, writes=True)

    first = log(None)
    for step in range(1, 6):
        first.record_step(step, METRICS, 0.5, {})
        first.overhead["save"] += 0.25
    first.close()
    second = log(3)
    second.record_step(4, METRICS, 0.5, {})
    second.record_step(5, METRICS, 0.5, {})
    assert [line["step"] for line in second.steps] == [1, 2, 3, 4, 5]
    assert second.steps[3]["lost_seconds"] == 1.5  # two steps, and the saves before them
    assert "down_seconds" in second.steps[3] and "lost_seconds" not in second.steps[4]
    second.close()
