"""A loaded model inside of programs that fork, run many threads, handle signals, and end."""

import math
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.runtime import callers, threads
from tests.support import tiny_model

# The tiny model has one parallel loop. "ready" is how the program says that it reached its end.
PRELUDE = """
import atexit, os, signal, sys, threading, time
at_end = []  # called last: functions at exit are called in reverse order
atexit.register(lambda: [function() for function in at_end])
import numpy as np, sbnn_tvm
from sbnn_tvm.runtime import callers
model = sbnn_tvm.load(sys.argv[1], num_threads=int(sys.argv[2]))
arrays = [np.random.default_rng(0).standard_normal((4, 37)).astype(np.float32) for _ in range(2)]
expected = model.run(*arrays)[0]
np.testing.assert_allclose(expected, np.exp(arrays[0]) + arrays[1], rtol=1e-6, atol=1e-6)
def right():
    return np.array_equal(model.run(*arrays)[0], expected)
def os_threads():
    return len(os.listdir("/proc/self/task"))
def run_for_ever():
    while True:
        assert right()
def child(function):
    '''The exit code of a forked process that calls a function; it fails after 30 s.'''
    number = os.fork()
    if number == 0:
        signal.alarm(30)
        os._exit(0 if function() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
"""


@pytest.fixture(scope="module", params=tiny_model.RUNTIMES)
def library(tmp_path_factory, request):
    return tiny_model.write(tmp_path_factory.mktemp("programs") / "tiny.so", request.param)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def run(library, request):
    """Runs a program with the model on one or two threads; it must end by itself, without a word on stderr."""

    def run(program, code=0):
        command = [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(library), str(request.param)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (code, "ready\n", "")

    return run


def test_forks(run):
    """While other threads run the model; in a child of a child; the child's threads; a child that ends by itself."""
    run("""
        for _ in range(2):
            threading.Thread(target=run_for_ever, daemon=True).start()
        def in_thread():
            results = []
            thread = threading.Thread(target=lambda: results.append(right()))
            thread.start()
            thread.join()
            return results == [True] and right()
        for _ in range(4):
            assert child(lambda: right() and in_thread()) == 0
        assert child(lambda: child(right) == 0 and right()) == 0
        number = os.fork()
        if number == 0:
            signal.alarm(30)
            assert right()
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 5
        assert right()
        print("ready")
        """)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(run, tmp_path, method):
    """The workers get the model by pickle, also if they are started without the memory of their parent."""
    (tmp_path / "work_of_pool.py").write_text("def work(model, arrays):\n    return model.run(*arrays)[0]\n")
    run(f"""
        import multiprocessing
        sys.path.insert(0, {str(tmp_path)!r})
        from work_of_pool import work
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            for result in pool.starmap(work, [(model, arrays)] * 4):
                np.testing.assert_array_equal(result, expected)
        print("ready")
        """)


def test_threads_leave_nothing_behind(run):
    run("""
        before = os_threads()
        for _ in range(50):
            thread = threading.Thread(target=right)
            thread.start()
            thread.join()
        for _ in range(100):  # a thread is joined a moment before the system forgets it
            if os_threads() <= before + 1:
                break
            time.sleep(0.05)
        assert os_threads() <= before + 1, os_threads()
        if model.num_threads == 1:
            assert before == 1
        print("ready")
        """)


def test_eight_threads(run):
    """Every result is right, and none changes when others are made."""
    run("""
        wrong = []
        def work(seed):
            rng = np.random.default_rng(seed)
            kept = []
            for _ in range(100):
                x, y = rng.standard_normal((2, 4, 37)).astype(np.float32)
                total, copy = model.run(x, y)
                kept.append((total, copy, total.copy(), y))
            for total, copy, then, y in kept:
                if not (np.array_equal(total, then) and np.array_equal(copy, y)):
                    wrong.append(seed)
            arrays = [a for total, copy, _, _ in kept for a in (total, copy)]
            if len({a.ctypes.data for a in arrays}) != len(arrays):
                wrong.append(seed)
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
        print("ready")
        """)


def test_the_process_ends_while_daemons_run(run):
    run("""
        for _ in range(3):
            threading.Thread(target=run_for_ever, daemon=True).start()
        time.sleep(0.2)
        print("ready")
        """)


def test_the_process_ends_after_its_last_thread(run):
    """Threads that are no daemons go on when the main thread is done; functions at exit may run the model as well."""
    run("""
        def late():
            time.sleep(0.2)
            assert right()
        threading.Thread(target=late).start()
        def last():
            assert right() and child(right) == 0
            print("ready")
        at_end.append(last)
        """)


def test_a_worker_that_is_joined_at_the_end_gets_an_error(run):
    run("""
        callers._END = 0.1
        errors = []
        def work():
            try:
                run_for_ever()
            except sbnn_tvm.errors.LibraryError as error:
                errors.append(str(error))
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        callers._callers.end()
        worker.join()
        assert errors == ["the model cannot run any more: this process is about to end"]
        assert right() and child(right) == 0
        print("ready")
        """)


def test_signal_handlers_run_the_model(run):
    """They interrupt run() anywhere. The next signal comes after the handler."""
    run("""
        results = []
        def handler(*_):
            results.append(right())
            if len(results) % 20 == 0:
                results.append(child(right) == 0)
            if len(results) < 50:  # the last one must not come while the process ends
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while len(results) < 50:
            assert right()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert all(results)
        print("ready")
        """)


def test_interrupts_lose_nothing(run):
    """Exceptions from a signal handler, as Ctrl-C raises them, leave every CPU usable."""
    run("""
        class Stop(Exception):
            pass
        armed, stops = False, 0
        def handler(*_):
            if armed:
                raise Stop
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        while stops < 150:
            try:
                armed = True
                while True:
                    right()
            except Stop:
                armed = False
                stops += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        inside = callers._callers
        assert inside._permits.qsize() == inside._limit and not inside._inside
        assert right()
        print("ready")
        """)


def test_no_thread_can_be_started(run):
    run("""
        def refuse(self):
            raise RuntimeError("can't start new thread")
        from sbnn_tvm.runtime import threads
        threads._pool = threads._Pool()
        threading.Thread.start = refuse
        if model.metadata.runtime == "c" or model.num_threads == 1:
            assert right()
        else:
            try:
                model.run(*arrays)
            except sbnn_tvm.errors.LibraryError as error:
                assert "can't start new thread" in str(error) and "num_threads=1" in str(error)
            else:
                raise AssertionError
        print("ready")
        """)


def test_affinity_and_default_threads_of_the_caller(run):
    """A call changes neither the CPUs of the calling thread nor how many threads TVM uses in it otherwise."""
    run("""
        before = os.sched_getaffinity(0)
        assert right() and os.sched_getaffinity(0) == before
        if model.metadata.runtime == "tvm":
            from sbnn_tvm.runtime import threads
            get, set_ = threads._concurrency()
            set_(7)
            assert right() and get() == 7
        print("ready")
        """)


def test_where_calls_run():
    """A call alone is one on several threads; of as many calls as it has threads, each is on its caller's thread."""
    calls, meet, ways = callers._Callers(4), threading.Barrier(2), []

    def call(num_threads, wait=False):
        def way(name):
            ways.append(name)
            if wait:
                meet.wait(30)
                meet.wait(30)

        calls.call(num_threads, lambda: way(f"{num_threads}: alone"), lambda: way(f"{num_threads}: together"), ())

    call(1)  # does not crowd out the next one
    call(2)
    caller = threading.Thread(target=call, args=(1, True))
    caller.start()
    meet.wait(30)
    call(2)
    call(3)
    meet.wait(30)
    caller.join()
    calls._crowded = -math.inf  # as if some time had passed
    call(2)
    # When 3 threads were asked for, 2 callers had just been busy.
    assert ways == ["1: alone", "2: together", "1: alone", "2: alone", "3: alone", "2: together"]


def test_calls_of_tvm_on_several_threads_run_in_one_thread():
    names = []
    for _ in range(2):
        threads._pool.call(1, lambda: names.append(threading.current_thread().name), ())
    assert names == ["sbnn_tvm pool"] * 2


@pytest.mark.parametrize(("parallel", "expected"), [(True, 2), (False, 1)])
def test_small_models_of_tvm_run_on_one_thread(tmp_path, monkeypatch, parallel, expected):
    counts = []
    model = sbnn_tvm.load(tiny_model.write(tmp_path / "tiny.so", "tvm", parallel=parallel), num_threads=1)
    model._num_threads = 2  # whatever this machine has
    monkeypatch.setattr(threads, "call", lambda count, function, arrays: counts.append(count) or function(arrays))
    model.run(*(np.zeros((4, 37), np.float32) for _ in range(2)))
    assert counts == [expected]
