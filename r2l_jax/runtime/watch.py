"""Ends a process when another process of its run has ended, since it would wait for it forever.

JAX itself notices this as well, and ends the process from C++ with a hundred lines of stack traces. Here each process
keeps a connection to the first one. The operating system closes the connections of a process that ends, however it
ends, and a machine that no longer answers is noticed by its silence. The first process listens on the network of the
coordinator alone, and only until all others have presented the token that it has shared with them through JAX.
"""

import atexit
import contextlib
import hmac
import json
import os
import pathlib
import platform
import secrets
import socket
import sys
import tempfile
import threading
import time
from typing import NoReturn

# Seconds of silence after which a process counts as ended.
TIMEOUT = 100.0

# JAX notices silence after this many seconds more, in case that this module does not.
LATER = 60

_ALIVE, _LEAVES = {"alive": True}, {"leaves": True}


class Watch:
    """Watches the other processes of a run from threads of its own, and tells them when this one ends in good order.

    Args:
        program: the program's name, for the message.
        coordinator: host:port of the first process.
        timeout: seconds of silence after which a process counts as ended.

    Raises:
        OSError: the processes cannot connect, such as through a firewall.
        SharedError: the first process cannot listen where the others reach it.
    """

    def __init__(self, program: str, coordinator: str, timeout: float):
        self._program, self._timeout = program, timeout
        self._peers: dict[int, socket.socket] = {}
        self._hosts: dict[int, str] = {}
        self._left = False
        self._xla_log = _separate_stderr(program)
        for process, connection in self._connect(coordinator).items():
            self._peers[process] = connection
            threading.Thread(target=self._listen, args=(process, connection), daemon=True).start()
        threading.Thread(target=self._speak, daemon=True).start()
        atexit.register(self.leave)

    def leave(self) -> None:
        """Tells the others that this process ends in good order, as it does when Python ends."""
        if not self._left:
            self._left = True
            self._xla_log.unlink(missing_ok=True)
            for connection in self._peers.values():
                _send(connection, _LEAVES)

    def give_up(self, seconds: float) -> NoReturn:
        """Ends this process after an error that it has reported, and thereby the others.

        Python's ordinary exit would wait for the others, which wait for this process.

        Args:
            seconds: how long to wait before: the others may be about to report the same error.
        """
        time.sleep(seconds)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _connect(self, coordinator: str) -> dict[int, socket.socket]:
        """Connects the first process with all others, and returns this one's connections by the others' numbers."""
        # Imported here, since the flags, which are printed without JAX, take TIMEOUT from this module.
        import jax

        from r2l_jax.runtime import hosts

        own, count = jax.process_index(), jax.process_count()
        hello = {"process": own, "host": platform.node()}
        reached = hosts.on_every_process(lambda: _reached(coordinator, self._timeout))
        # As the last process reaches it: a host often resolves its own name to the loopback interface.
        address = hosts.sent(reached.encode(), sender=count - 1).decode()
        listeners = []

        def listen() -> tuple[int, str]:
            listeners.append(_listener(address, count))
            return listeners[0].getsockname()[1], secrets.token_hex()

        port, token = hosts.on_first_process(listen)
        if own > 0:
            connection = socket.create_connection((address, port), timeout=self._timeout)
            connection.sendall(token.encode() + b"\n")
            _send(connection, hello)
            return {0: connection}
        accepted = _accepted(listeners[0], count - 1, token, self._timeout)
        for process, (connection, host) in accepted.items():
            self._hosts[process] = host
            _send(connection, hello)
        return {process: connection for process, (connection, _) in accepted.items()}

    def _speak(self) -> None:
        """Sends a sign of life several times within the timeout."""
        while not self._left:
            for connection in self._peers.values():
                _send(connection, _ALIVE)
            time.sleep(self._timeout / 5)

    def _listen(self, process: int, connection: socket.socket) -> None:
        """Reads what another process sends, until it leaves; ends this process if it ends otherwise."""
        connection.settimeout(self._timeout)
        try:
            with connection.makefile("rb") as lines:
                for line in lines:
                    said = json.loads(line)
                    if "host" in said:
                        self._hosts[process] = said["host"]
                    if "leaves" in said:
                        return
                    if "ended" in said:
                        self._end(said["ended"])
            reason = "has ended"
        except TimeoutError:
            reason = f"has been silent for {self._timeout:g} s"
        except (OSError, ValueError):
            reason = "has ended"
        self._end(f"process {process} on {self._hosts.get(process, 'another host')} {reason}")

    def _end(self, what: str) -> None:
        """Ends this process with one line, and says so to the others, which know only the first process."""
        if self._left:
            return
        for connection in self._peers.values():
            _send(connection, {"ended": what})
        line = f"{self._program}: error: {what}; the same command on all hosts goes on from the last checkpoint "
        line += f"(XLA's own log: {self._xla_log})\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{line}".encode())
        # Other threads wait in XLA, which no exception reaches.
        os._exit(1)


def _reached(coordinator: str, timeout: float) -> str:
    """Returns the IP address at which this process reaches the coordinator, host:port."""
    host, _, port = coordinator.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout) as connection:
        return connection.getpeername()[0]


def _listener(address: str, backlog: int) -> socket.socket:
    """Listens on one IP address, at a free port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=backlog)


def _accepted(listener: socket.socket, others: int, token: str, timeout: float) -> dict[int, tuple[socket.socket, str]]:
    """Waits for the other processes of a run, and closes the listener.

    Args:
        listener: the socket that they connect to.
        others: how many there are.
        token: the line that each must send first. Other connections are closed, and do not count.
        timeout: seconds to wait for each.

    Returns:
        Their connections and hosts, by their numbers.

    Raises:
        OSError: no process has come in time.
    """
    accepted = {}
    listener.settimeout(timeout)
    try:
        while len(accepted) < others:
            connection, _ = listener.accept()
            # Whoever is silent holds up the others.
            connection.settimeout(timeout / 5)
            with contextlib.suppress(OSError), connection.makefile("rb") as lines:
                if hmac.compare_digest(lines.readline(len(token) + 1), token.encode() + b"\n"):
                    said = json.loads(lines.readline())
                    accepted[said["process"]] = connection, said["host"]
                    continue
            connection.close()
    except OSError:
        # Those that did connect are not watched either.
        for connection, _ in accepted.values():
            _send(connection, _LEAVES)
        raise
    finally:
        listener.close()
    return accepted


def _separate_stderr(program: str) -> pathlib.Path:
    """Sends what C++ writes to stderr to a file, and returns its path.

    XLA reports the end of another process in lines of its own, some of which no setting turns off.
    """
    sys.stderr.flush()
    own = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    sys.stderr = sys.__stderr__ = own
    log, path = tempfile.mkstemp(prefix=f"{program}_{os.getpid()}_", suffix=".log")
    os.dup2(log, 2)
    os.close(log)
    return pathlib.Path(path)


def _send(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")
