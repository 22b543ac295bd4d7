# SPDX-License-Identifier: MIT
"""Pytest plugin: run the tests marked `guest` inside booted guest kernels."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from tests import guest

# What the guest sees of the host's environment, besides PYEGRESS_*.
KEPT_ENVIRONMENT = ("CI", "HOME", "LANG", "LC_ALL", "PATH")
LANE_LIMIT_S = 300.0
ITEM_LIMIT_S = 30.0


class Lane(NamedTuple):
    """One flavour of guest: it is booted once, for all its tests."""

    kernel: str
    append: str

    def __str__(self) -> str:
        """Return the id that its tests carry."""
        return f"{self.kernel} {self.append}".strip()


class Outcome(NamedTuple):
    """What came back from a lane: reports by node id, what ended it early, and why it could not start."""

    reports: dict[str, list[dict[str, Any]]]
    trouble: str
    unavailable: str


@pytest.fixture
def guest_kernel(request: pytest.FixtureRequest) -> str:
    """Return the name of the kernel that a guest test runs on."""
    lane: Lane = request.param
    return lane.kernel


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the side of the plugin that this process needs."""
    config.addinivalue_line(
        "markers", "guest(*kernels, append=''): run inside a guest of each of these kernels, not on the host"
    )
    if results := os.environ.get("PYEGRESS_GUEST_RESULTS"):
        config.pluginmanager.register(_Inside(config, Path(results)), "guestlanes-inside")
    elif not os.environ.get("PYEGRESS_GUEST"):
        config.pluginmanager.register(_Host(config), "guestlanes-host")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each lane that the `guest` marks of a test name."""
    lanes: dict[Lane, None] = {}
    for mark in metafunc.definition.iter_markers("guest"):
        if unknown := set(mark.args) - set(guest.KERNELS):
            raise pytest.UsageError(
                f"{metafunc.definition.nodeid}: no guest kernel {', '.join(sorted(unknown))}"
            )
        lanes |= dict.fromkeys(Lane(kernel, mark.kwargs.get("append", "")) for kernel in mark.args)
    if lanes:
        if "guest_kernel" not in metafunc.fixturenames:
            metafunc.fixturenames.append("guest_kernel")
        metafunc.parametrize("guest_kernel", list(lanes), ids=[str(lane) for lane in lanes], indirect=True)


class _Inside:
    """Writes every report of a nested run down, for the host to repeat."""

    def __init__(self, config: pytest.Config, results: Path) -> None:
        self.config = config
        self.file = results.open("a")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        # Flushed line by line, so that what a dying guest had done is known.
        print(json.dumps(data, default=str), file=self.file, flush=True)


class _Host:
    """Boots the lanes in the background and reports their tests as if they had run here."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="guest")
        self.lanes: dict[Lane, Future[Outcome]] = {}
        self.scratch: Path | None = None
        self.told: frozenset[str] = frozenset()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Host tests go first: guests boot meanwhile, and no fixture outlives a test that ran elsewhere.
        items.sort(key=lambda item: _lane_of(item) is not None)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self.config.option.collectonly:
            return
        items: dict[Lane, list[str]] = defaultdict(list)
        for item in session.items:
            if lane := _lane_of(item):
                items[lane].append(item.nodeid)
        if items:
            self.scratch = Path(tempfile.mkdtemp(prefix="pyegress-guest-"))
        for number, (lane, nodeids) in enumerate(items.items()):
            self.lanes[lane] = self.pool.submit(self._run_lane, lane, nodeids, number)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Literal[True] | None:
        lane = _lane_of(item)
        if lane is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, self.lanes[lane].result()):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        guest.stop_all()
        self.pool.shutdown(cancel_futures=True)
        if self.scratch and exitstatus == 0:
            shutil.rmtree(self.scratch)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if self.scratch and exitstatus != 0:
            terminalreporter.write_line(f"guest console logs: {self.scratch}")

    def _run_lane(self, lane: Lane, nodeids: list[str], number: int) -> Outcome:
        assert self.scratch is not None
        work = self.scratch / str(number)
        work.mkdir()
        (work / "nodeids").write_text("".join(f"{nodeid}\n" for nodeid in nodeids))
        (work / "results").touch()
        log = work / "console.log"
        trouble = unavailable = ""
        limit_s = LANE_LIMIT_S + ITEM_LIMIT_S * len(nodeids)
        try:
            # One CPU each: emulated CPUs that wait for each other on fewer real ones are four times slower.
            status = guest.boot(
                lane.kernel,
                self._script(lane, work),
                append=lane.append,
                cpus=1,
                timeout_s=limit_s,
                log=log,
            )
            trouble = f"pytest in guest {lane} exited with {status}; its console:\n{guest.log_tail(log)}"
        except guest.Unavailable as error:
            unavailable = str(error)
        except Exception as error:  # whatever it is, the lane's tests tell it
            trouble = f"{type(error).__name__}: {error}"
        reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in (work / "results").read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # a guest that died while it wrote leaves half a line
                data = json.loads(line)
                reports[data["nodeid"]].append(data)
        return Outcome(reports, trouble, unavailable)

    def _script(self, lane: Lane, work: Path) -> str:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key.startswith("PYEGRESS_") or key in KEPT_ENVIRONMENT
        }
        environment |= {
            "PYEGRESS_GUEST": lane.kernel,
            "PYEGRESS_GUEST_RESULTS": str(work / "results"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # The guest's own memory: sockets and temporary files do not belong on the shared file system.
            "TMPDIR": "/run/scratch",
        }
        pytest_command = [
            *(sys.executable, "-m", "pytest", "-q", "--color=no", f"@{work / 'nodeids'}"),
            *(f"--rootdir={self.config.rootpath}", f"--import-mode={self.config.getoption('importmode')}"),
            f"--tb={self.config.getoption('tbstyle')}",
            *("-p", "no:cacheprovider", "-p", "no:doctest", "-p", "no:junitxml", "-p", "no:pastebin"),
            # The host's options may belong to plugins that are not loaded here.
            *("-o", "addopts=", "-W", "ignore::pytest.PytestConfigWarning"),
        ]
        if self.config.inipath:
            pytest_command += ["-c", str(self.config.inipath)]
        return "\n".join(
            (
                *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
                "mkdir $TMPDIR",
                f"cd {shlex.quote(str(self.config.rootpath))}",
                f"exec {shlex.join(pytest_command)}\n",
            )
        )

    def _reports(self, item: pytest.Item, outcome: Outcome) -> Iterator[pytest.TestReport]:
        strict = bool(os.environ.get("CI"))
        if outcome.unavailable:
            yield self._synthetic(item, "failed" if strict else "skipped", f"no guest: {outcome.unavailable}")
            return
        known = outcome.reports.get(item.nodeid, [])
        for data in known:
            report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
            if report.skipped and not hasattr(report, "wasxfail"):
                report.longrepr = tuple(report.longrepr)  # JSON made a list of it
                if strict:
                    report.outcome = "failed"
                    report.longrepr = f"skipped in the guest, which CI does not allow: {report.longrepr[2]}"
            yield report
        if not known or known[-1]["when"] != "teardown":
            told, self.told = outcome.trouble in self.told, self.told | {outcome.trouble}
            why = outcome.trouble.partition("\n")[0] if told else outcome.trouble
            yield self._synthetic(item, "failed", why)

    def _synthetic(
        self, item: pytest.Item, outcome: Literal["failed", "skipped"], why: str
    ) -> pytest.TestReport:
        path, line, _ = item.location
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome=outcome,
            longrepr=(path, line or 0, f"Skipped: {why}") if outcome == "skipped" else why,
            when="call",
        )


def _lane_of(item: pytest.Item) -> Lane | None:
    """Return the lane that an item runs in, None for one of the host."""
    if item.get_closest_marker("guest") is None:
        return None
    callspec = getattr(item, "callspec", None)
    return callspec.params["guest_kernel"] if callspec else None
