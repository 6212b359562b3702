"""Work done in processes of their own: to be killed, to be measured, or to live in another environment.

They are forked from a server that has imported the package and none of the references, so that each costs a fraction
of a second and little memory.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["stablediff", "torch"])


def in_child(work: Callable[..., Any], *args: Any, environment: Mapping[str, str] | None = None) -> Any:
    """-> what `work` returns; what it raises is raised here."""
    process, answers = _start(work, args, environment or {})
    with answers:
        try:
            error, answer = answers.recv()
        except EOFError:
            process.join()
            raise AssertionError(f"the child died with exit code {process.exitcode}") from None
    process.join()
    if error is not None:
        raise error
    return answer


def in_group(work: Callable[..., Any], *args: Any, size: int = 2) -> list[Any]:
    """Runs `work` in `size` processes that find each other as those of torchrun do. -> what each returns."""
    results: dict[int, Any] = {}
    with meeting_point(size) as environments:
        started = [_start(work, args, environment) for environment in environments]
        try:
            while len(results) < size:
                open_ones = {answers: i for i, (_, answers) in enumerate(started) if i not in results}
                ready = wait(list(open_ones), timeout=600)
                assert ready, f"the processes {sorted(open_ones.values())} wait for each other"
                for answers in ready:
                    rank = open_ones[answers]  # type: ignore[index]
                    try:
                        error, results[rank] = answers.recv()  # type: ignore[union-attr]
                    except EOFError:
                        raise AssertionError(f"process {rank} died") from None
                    if error is not None:
                        raise error
        finally:
            for process, answers in started:
                if len(results) < size:
                    process.kill()
                process.join()
                answers.close()
    return [results[i] for i in range(size)]


@contextmanager
def meeting_point(size: int) -> Iterator[list[dict[str, str]]]:
    """The environments of `size` processes, in which they find each other as under torchrun.

    They meet at a port of this process, so that nobody else can take it meanwhile.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    yield [{**common, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(size)]


def start_child(work: Callable[..., Any], *args: Any) -> multiprocessing.Process:
    process, answers = _start(work, args, {})
    answers.close()
    return process


def _start(
    work: Callable[..., Any], args: tuple[Any, ...], environment: Mapping[str, str]
) -> tuple[multiprocessing.Process, Connection]:
    answers, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(theirs, dict(environment), work, args), daemon=True)
    process.start()
    theirs.close()
    return process, answers


def _run(answers: Connection, environment: dict[str, str], work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        message = None, work(*args)
    except BaseException as error:
        message = error, None
    try:
        answers.send(message)
    except OSError:
        pass  # nobody is listening
    except Exception:  # an error that does not travel
        answers.send((AssertionError(repr(message)), None))


# --- what they do -----------------------------------------------------------------------------------------------------


def save_for_ever(folder: str, source: str, started: str) -> None:
    """Overwrites `folder` again and again, with each time another number in every tensor of the autoencoder."""
    from stablediff import load

    pipeline = load(source, device="cpu", dtype="float32")
    number = 0
    while True:
        number += 1
        for part in (pipeline.unet, pipeline.vae):
            part.load_state_dict({key: t.detach() * 0 + number for key, t in part.state_dict().items()}, assign=True)
        pipeline.save(folder, overwrite=True)
        Path(started).touch()


def memory_to_load(path: str, small: str) -> tuple[int, int, int]:
    """-> how much the peak of this process's memory grew, the model's size, and its largest tensor's, in bytes.

    A small model is loaded first, so that what all loading needs (modules, the vocabulary) is not counted.
    """
    from stablediff import load

    load(small, device="cpu", dtype="float32")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now
    before = _peak_memory()
    pipeline = load(path, device="cpu", dtype="float32")
    grown = _peak_memory() - before
    sizes = [
        p.nbytes for part in (*pipeline.text_encoders, pipeline.unet, pipeline.vae) for p in part.state_dict().values()
    ]
    return grown, sum(sizes), max(sizes)


def _peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def download(name: str) -> str:
    from stablediff.checkpoints.hub import download

    return str(download(name))


def download_settings(name: str) -> None:
    """As other programs do: parts of a model, through the hub's library."""
    from huggingface_hub import snapshot_download

    snapshot_download(name, allow_patterns="*.json")


def describe(name: str) -> str:
    from stablediff import load

    return load(name, device="cpu", dtype="float32").describe()
