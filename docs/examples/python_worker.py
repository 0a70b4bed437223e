#!/usr/bin/env python3
"""A TaskForge worker in Python: for handlers that cannot be WebAssembly.

One file, no packages. It asks the server for tasks of the types that it has handlers for, runs them
one at a time, renews the lease of the one that runs, and says how it ended. Copy it, and put your own
functions in the place of `word_count`.

    python3 python_worker.py                  # beside a `taskforge dev` that was started in this folder
    TASKFORGE_URL=https://tasks.example.com TASKFORGE_API_KEY=... python3 python_worker.py

The server must know the types: README.md beside this file says how they are declared.

What it promises is what TaskForge promises: a task runs at least once, and its result is committed
exactly once. So a handler may run again after a crash, and should not mind. SIGTERM and Ctrl-C end the
worker after the task at hand.
"""

import json
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request



def in_data_folder(name):
    """What this user's `taskforge dev` has left in a file of its data folder, if it has."""
    try:
        with open(os.path.join(os.environ.get("TASKFORGE_DATA_DIR", ".taskforge"), name)) as file:
            is_ours = os.fstat(file.fileno()).st_uid == os.geteuid()
            return file.read().strip() if is_ours else None
    except OSError:
        return None


URL = os.environ.get("TASKFORGE_URL") or in_data_folder("address") or "http://127.0.0.1:8000"
URL = URL.rstrip("/")
NAME = os.environ.get("TASKFORGE_WORKER", f"{socket.gethostname()}-{os.getpid()}")
# How long a task is ours without a heartbeat. Short: if this process dies, others get the task that
# much sooner.
LEASE = float(os.environ.get("TASKFORGE_LEASE_SECONDS", "30"))
# How long one request for work waits. Also how long an idle worker may take to end.
WAIT = float(os.environ.get("TASKFORGE_WAIT_SECONDS", "5"))


def find_key():
    """The server's key: the one that is given, or of a `taskforge dev` here the one in its data folder.

    That one is for the address beside it, and is given to nobody else who may listen on this machine.
    """
    key = os.environ.get("TASKFORGE_API_KEY")
    if key is None and in_data_folder("address") == URL:
        key = in_data_folder("key")  # A server that asks for no key has none.
    return key or ""


KEY = find_key()
log = logging.getLogger("worker")
stopping = threading.Event()
HANDLERS = {}


class Retry(Exception):
    """Raised by a handler: another attempt may succeed, after this many seconds if it says so."""

    def __init__(self, message, after=None):
        super().__init__(message)
        self.after = after


class GiveUp(Exception):
    """Raised by a handler: no attempt can succeed."""


class Refused(Exception):
    """The server understood and said no: a 4xx, with its problem document."""

    def __init__(self, status, problem):
        super().__init__(f"the server says {status}: {problem.get('detail', '')}")
        self.status = status


def handles(task_type):
    """Registers a function as the handler of a task type."""

    def register(function):
        HANDLERS[task_type] = function
        return function

    return register


# --- your part ------------------------------------------------------------------------------------


@handles("word_count")
def word_count(task):
    """Input: {"text": "...", "seconds": 0}. `seconds` pretends to be hard work, which shows the heartbeats."""
    text = task.input.get("text")
    if not isinstance(text, str):
        raise GiveUp("the input has no text")
    if text == "not yet" and task.attempt == 1:
        raise Retry("the text is not ready", after=0)
    for _ in range(int(task.input.get("seconds", 0) * 10)):
        time.sleep(0.1)
        if task.lost.is_set():
            raise GiveUp("cancelled")
    task.log(f"read {len(text)} characters")
    return {"words": len(text.split()), "characters": len(text)}


# --- the rest stays as it is ----------------------------------------------------------------------


class Task:
    """What a handler is given."""

    def __init__(self, leased):
        self.id = leased["id"]
        self.type = leased["task_type"]
        self.input = leased["input"]
        self.attempt = leased["attempt"]
        self.max_attempts = leased["max_attempts"]
        # Set when somebody cancelled the task, or its lease is gone: whatever the handler still
        # does is for nothing.
        self.lost = threading.Event()
        self.lines = []
        self._token = leased["lease_token"]

    def log(self, message, level="info"):
        """Adds a line to the task's log, which `GET /tasks/{id}/logs` shows when the attempt has ended."""
        self.lines.append({"level": level, "message": message})

    @property
    def lease(self):
        """What the server wants to see in every request about this task."""
        return {"task_id": self.id, "lease_token": self._token}


def post(path, body, until=None):
    """Sends JSON and returns JSON. Tries again while the server is away, until `until()` says that it is no use any more."""
    headers = {"Content-Type": "application/json"}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    delay = 0.1
    while True:
        request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers, method="POST")
        try:
            # Longer than the server ever waits, so that an answer on its way is not thrown away.
            with urllib.request.urlopen(request, timeout=WAIT + 70) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise Refused(error.code, problem_of(error)) from None
            reason = f"{error.code} {error.reason}"
        except (OSError, ValueError) as error:
            reason = str(error)
        if until is not None and until():
            raise ConnectionError(reason)
        log.warning("%s: %s; trying again", path, reason)
        # Full jitter: a hundred workers must not come back in the same moment.
        time.sleep(random.uniform(0, delay))
        delay = min(delay * 2, 10)


def problem_of(error):
    try:
        return json.load(error)
    except ValueError:
        return {}


class Heartbeat(threading.Thread):
    """Renews the lease of a task while its handler runs."""

    def __init__(self, task):
        super().__init__(daemon=True)
        self.task = task
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(LEASE / 3):
            try:
                beat = post("/task/heartbeat", self.task.lease, until=self.done.is_set)
                if beat["cancelled"]:
                    self.task.lost.set()
            except Refused:
                # Lost, or ended a moment ago. The answer to /complete_task tells which.
                self.task.lost.set()
            except ConnectionError:
                return
            if self.task.lost.is_set():
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()


def attempt(task):
    """Runs the handler, and says how that ended in the words of POST /complete_task."""
    try:
        output = HANDLERS[task.type](task)
        json.dumps(output)  # What is no JSON is the handler's failure, not the worker's.
        return {"output": output}
    except GiveUp as error:
        return {"failure": {"kind": "permanent", "message": str(error)}}
    except Retry as error:
        failure = {"kind": "retryable", "message": str(error)}
        if error.after is not None:
            failure["retry_after"] = error.after
        return {"failure": failure}
    except Exception as error:  # pylint: disable=broad-except
        log.exception("task %s failed", task.id)
        return {"failure": {"kind": "retryable", "message": f"{type(error).__name__}: {error}"}}


def run(task):
    """One task from lease to commit."""
    with Heartbeat(task):
        ended = attempt(task)
        # Still under the heartbeat: the server may be away for longer than the lease. To repeat it
        # is safe, the first one counts.
        try:
            try:
                done = complete(task, ended)
            except Refused as refused:
                if refused.status != 422:
                    raise
                # The output is not what the type's schema promises, and no attempt will make it so.
                done = complete(task, {"failure": {"kind": "permanent", "message": f"refused: {refused}"}})
            log.info("task %s: %s", task.id, done["status"])
        except Refused as refused:
            log.warning("task %s was not ours to end: %s", task.id, refused)
        except ConnectionError as error:
            log.warning("task %s was lost while the server was away: %s", task.id, error)


def complete(task, ended):
    return post("/complete_task", {**task.lease, **ended, "logs": task.lines}, until=task.lost.is_set)


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    log.info("%s serves %s at %s", NAME, ", ".join(HANDLERS), URL)
    # One task at a time: run several of these for more, or ask for more with `max` and give each a
    # thread.
    ask = {"task_types": list(HANDLERS), "max": 1, "lease": LEASE, "wait": WAIT, "worker": NAME}
    while not stopping.is_set():
        try:
            leased = post("/task/next", ask, until=stopping.is_set)
        except ConnectionError:
            break
        except Refused as refused:
            # A key that is missing or wrong, a type that nobody has declared: waiting mends
            # neither.
            log.error("%s", refused)
            sys.exit(1)
        for task in leased["tasks"]:
            run(Task(task))
    log.info("stopped")


if __name__ == "__main__":
    main()
