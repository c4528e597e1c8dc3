"""A process of its own that talks to a hub: HF_ENDPOINT and its like are read once, when huggingface_hub is imported.

It runs any number of `factory` commands (or lines of Python) one after the other, as a person would in a shell, but imports once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Client:
    """env: what the process has beside this one's environment; HOME is a folder of its own."""

    def __init__(self, endpoint: str, token: str, home: Path):
        home.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        env |= {"HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(Path(__file__).parent.parent), "HF_DATASETS_OFFLINE": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=home, text=True
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def start(self, *args: str, code: str = "") -> None:
        """Begin a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"args": args, "code": code}) + "\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[int, str]:
        """(exit code, everything it printed) of the command that was begun; -9 when the process was killed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return self.process.wait(), ""
        answer = json.loads(line)
        return answer["exit"], answer["said"]

    def factory(self, *args: str) -> tuple[int, str]:
        """`factory ARGS`."""
        self.start(*args)
        return self.finish()

    def python(self, code: str) -> Any:
        """Run lines of Python that print one JSON value last."""
        self.start(code=code)
        status, said = self.finish()
        assert status == 0, said
        return json.loads(said.splitlines()[-1])


@contextlib.contextmanager
def _captured() -> Iterator[Any]:
    """Both streams of the process, whoever writes into them, in one file."""
    with tempfile.TemporaryFile("w+") as said:
        before = [os.dup(1), os.dup(2)]
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, old in enumerate(before, 1):
                os.dup2(old, stream)
                os.close(old)


def _serve() -> None:
    import traceback

    from factory import cli

    for line in sys.stdin:
        wanted = json.loads(line)
        status: Any = 0
        with _captured() as said:
            try:
                if wanted["code"]:
                    exec(wanted["code"], {})
                else:
                    sys.argv = ["factory", *wanted["args"]]
                    cli.main()
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            said.seek(0)
            text = said.read()
        print(json.dumps({"exit": status, "said": text}), flush=True)


if __name__ == "__main__":
    _serve()
