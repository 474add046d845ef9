"""A process that makes no progress ends itself."""

import subprocess
import sys
import textwrap


def test_a_process_that_hangs_writes_its_stacks_and_exits(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from codellama_jax.training.watchdog import Watchdog
        with Watchdog(0.02, Path(sys.argv[1])) as watchdog:
            for _ in range(10):  # longer in total than the limit
                time.sleep(0.2)
                watchdog.reset()
            print("alive", flush=True)
            def in_a_collective(): time.sleep(60)
            in_a_collective()
    """)
    stacks = tmp_path / "stacks.txt"
    run = subprocess.run([sys.executable, "-c", program, stacks], capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stdout) == (75, "alive\n")
    assert run.stderr.startswith("error: no step for 0.02 minutes") and "same command resumes" in run.stderr
    assert "in_a_collective" in stacks.read_text()
