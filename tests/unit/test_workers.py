"""Worker processes: what is told when one fails, which signals they heed, and that none is left behind."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import popen_fork
from pathlib import Path

import pytest
import torch
from torch.utils.data import dataloader
from torch.utils.data._utils import signal_handling

from kdignite.data import workers
from kdignite.data.source import StreamedImages
from kdignite.data.workers import WorkerLog, decode_batches
from kdignite.errors import RunFailed, UserError

BAD = 13  # the image over which something happens
COUNT = 40
PIXELS = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(COUNT, 3, 2, 2).clone()


def image(index: int) -> torch.Tensor:
    return PIXELS[index]


def batches(decode: Callable[[int], torch.Tensor], *, size: int = 5, count: int = COUNT) -> Iterator[torch.Tensor]:
    return decode_batches(StreamedImages(range(count), decode), torch.arange(count).split(size), pin_memory=False)


def over_the_bad_one(happens: Callable[[], object]) -> Callable[[int], torch.Tensor]:
    def decode(index: int) -> torch.Tensor:
        if index == BAD:
            happens()
        return image(index)

    return decode


def slowly(index: int) -> torch.Tensor:
    time.sleep(0.05)
    return image(index % COUNT)


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Every test ends without a child."""
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks after its workers each 0.2 seconds of silence, not each five."""
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def ends(code: int) -> Callable[[], object]:
    return lambda: os._exit(code)


def is_sent(number: int) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (
            is_sent(signal.SIGKILL),
            r"was killed by SIGKILL while .*, as the system does when memory runs out: end other",
        ),
        (
            is_sent(signal.SIGBUS),
            r"was killed by SIGBUS while .*, as when shared memory runs out: make /dev/shm larger",
        ),
        (is_sent(signal.SIGSEGV), r"was killed by SIGSEGV while it decoded image 13, counted from 0$"),
        (is_sent(signal.SIGRTMIN + 1), r"was killed by signal \d+ while it decoded image 13, counted from 0$"),
        (ends(3), r"ended with exit code 3 while it decoded image 13, counted from 0$"),
        (ends(0), r"ended with exit code 0 while it decoded image 13, counted from 0$"),
    ],
    ids=["killed", "no shared memory", "crashed", "odd signal", "ended", "ended well"],
)
@pytest.mark.usefixtures("soon")
def test_a_dead_worker_is_named_with_its_image(happens: Callable[[], object], told: str) -> None:
    seen = []
    with pytest.raises(RunFailed) as caught:
        seen.extend(batches(over_the_bad_one(happens)))
    assert re.match(rf"worker \d+ {told}", str(caught.value))
    assert "\n" not in str(caught.value)
    assert "image 13" in str(caught.value)
    assert all(torch.equal(*pair) for pair in zip(seen, PIXELS.split(5), strict=False))


@pytest.mark.usefixtures("soon")
def test_an_image_that_has_a_file_is_named_by_it() -> None:
    files = tuple(Path(f"{index}.png") for index in range(COUNT))
    for happens, told in ((is_sent(signal.SIGKILL), "decoded 13.png"), (lambda: 1 / 0, "decode 13.png: ZeroDivision")):
        decode = over_the_bad_one(happens)
        store = StreamedImages(files, lambda path, decode=decode: decode(int(path.stem)))
        with pytest.raises(RunFailed, match=told):
            list(decode_batches(store, torch.arange(COUNT).split(5), pin_memory=False))


@pytest.mark.skipif(
    workers._num_cores() < 2, reason="a single worker waits for its batches to be taken before image 13"
)
@pytest.mark.usefixtures("soon")
def test_a_worker_that_died_while_the_others_were_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torchs = dataloader._MultiProcessingDataLoaderIter
    start = torchs.__init__

    def started(self: object, loader: object) -> None:
        start(self, loader)
        self._workers[0].join()  # and is no child of this process any more

    monkeypatch.setattr(torchs, "__init__", started)
    with pytest.raises(RunFailed, match=r"was killed by SIGKILL while it decoded image 13"):
        list(batches(over_the_bad_one(is_sent(signal.SIGKILL))))


def test_a_worker_whose_exit_code_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system closes the files of a process a moment before it has an exit code."""

    def poll(self: popen_fork.Popen, flag: int = os.WNOHANG) -> int | None:
        return None if flag and self.returncode is None else waited_for(self, flag)

    waited_for = popen_fork.Popen.poll
    worker = multiprocessing.get_context("fork").Process(target=os._exit, args=(3,))
    worker.start()
    monkeypatch.setattr(popen_fork.Popen, "poll", poll)
    failure = workers._worker_failure(
        [worker], StreamedImages(range(COUNT), image), WorkerLog(1), awaited=torch.arange(5)
    )
    monkeypatch.undo()
    worker.join()
    assert failure is not None
    assert failure.text == f"worker {worker.pid} ended with exit code 3 while it decoded one of the images 0 to 4"


@pytest.mark.usefixtures("soon")
def test_a_worker_that_dies_before_its_first_image_is_named_with_the_batch_that_was_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdignite.data.workers._init_worker", lambda _: os._exit(7))
    with pytest.raises(
        RunFailed, match=r"worker \d+ ended with exit code 7 while it decoded one of the images 0 to 4$"
    ):
        list(batches(image))


def test_an_exception_is_one_line_that_says_where_and_keeps_its_traceback_for_python() -> None:
    def fails() -> None:
        raise KeyError("x\ny")

    with pytest.raises(RunFailed) as caught:
        list(batches(over_the_bad_one(fails)))
    line = fails.__code__.co_firstlineno + 1
    where = re.escape(f"{__file__}:{line}")
    told = rf"worker \d+ failed to decode image 13, counted from 0: KeyError: 'x\\ny' \(at {where}\)"
    assert re.fullmatch(told, str(caught.value))
    assert "in fails" in str(caught.value.__cause__)


def test_an_image_that_was_readable_when_the_set_was_loaded_fails_the_run_in_its_own_words() -> None:
    def fails() -> None:
        raise UserError("x.png: UserError: is a word\nof its text")

    with pytest.raises(RunFailed) as caught:
        list(batches(over_the_bad_one(fails)))
    assert str(caught.value) == "x.png: UserError: is a word\nof its text"


def test_what_is_no_fault_of_a_worker_is_a_bug_and_keeps_its_type() -> None:
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size") as caught:
        list(batches(lambda index: image(index)[:, : 1 + index % 2]))
    assert not isinstance(caught.value, RunFailed)
    for worker in multiprocessing.active_children():  # torch's error refers to itself, and keeps them for a while
        worker.kill()
        worker.join()


# --- signals


def send(number: int, pid: int) -> None:
    """From another process than the parent, as a terminal or a scheduler does."""
    subprocess.run(["kill", f"-{number}", str(pid)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_a_signal_to_all_processes_to_the_main_one(number: int) -> None:
    running = batches(slowly)
    seen = [next(running)]
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        send(number, worker.pid or 0)
    seen.extend(running)
    assert torch.equal(torch.cat(seen), PIXELS)


def test_workers_end_when_the_main_process_tells_them() -> None:
    running = batches(slowly)
    next(running)
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(2)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    running.close()


def test_signals_and_their_handlers_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # so that torch installs its own
    handled = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for _ in batches(image):
        assert {number: signal.getsignal(number) for number in handled} == handled
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    assert signal_handling._SIGCHLD_handler_set


# --- nobody is left behind


@pytest.mark.parametrize("how", ["close", "collect"])
def test_an_iteration_that_is_left_ends_its_workers_at_once(how: str) -> None:
    """Not after the 500 images of 0.05 seconds each that they have begun."""
    running = decode_batches(
        StreamedImages(range(2000), slowly), (torch.arange(1), *torch.arange(2000).split(500)), pin_memory=False
    )
    next(running)
    started = time.monotonic()
    if how == "close":
        running.close()
    else:
        del running
    assert time.monotonic() - started < 2
    assert multiprocessing.active_children() == []


OPEN = """if True:
    import multiprocessing, sys, time, torch
    from kdignite.data.source import StreamedImages
    from kdignite.data.workers import decode_batches

    def slowly(index):
        time.sleep(0.2)
        return torch.zeros(3, 2, 2, dtype=torch.uint8)

    running = decode_batches(StreamedImages(range(1000), slowly), torch.arange(1000).split(5), pin_memory=False)
    next(running)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


PATIENCE = 60  # seconds, for a busy machine; workers that are left behind wait for ever


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("ending", "code"),
    [("time.sleep(600)", -signal.SIGKILL), ("raise SystemError('a bug')", 1)],
    ids=["killed", "bug"],
)
def test_no_worker_outlives_the_main_process(ending: str, code: int) -> None:
    """Killed, it cannot tell them: torch's watchdog looks each five seconds. A bug leaves the iteration open."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{OPEN}    {ending}\n"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert pids
    if code < 0:
        process.kill()
    assert process.wait(timeout=PATIENCE) == code
    deadline = time.monotonic() + PATIENCE
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    process.communicate()
