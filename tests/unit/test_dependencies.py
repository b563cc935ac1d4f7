"""What `pip install .` brings is enough: without the extras, the daemon and both tools import all that they need."""

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""
IMPORT_ALL = """
from importlib import import_module
from pkgutil import walk_packages
import txninsightd

names = [m.name for m in walk_packages(txninsightd.__path__, "txninsightd.")]
for name in names:
    if not name.startswith(("txninsightd.tools.stack", "txninsightd.tools.watch", "txninsightd.tools.receivers")):
        import_module(name)
"""
RUN = """
sys.argv = {arguments}
from {module} import main
main()
"""


def modules_of_extras() -> set[str]:
    """The packages of all extras, by the names that are imported."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = "\n".join(setup["options.extras_require"].values()).split("\n")
    packages = {line.split()[0] for line in lines if line}
    return {package.replace("-", "_") for package in packages} | {"grimp", "importlinter", "xdist"}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = BLOCK.format(missing=modules_of_extras()) + code
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_the_extras_are_missing_in_these_tests() -> None:
    assert "supervisor" in modules_of_extras()
    assert "ModuleNotFoundError: supervisor" in run("import supervisor").stderr


def test_all_modules_but_those_of_the_local_stack_are_imported() -> None:
    assert run(IMPORT_ALL).stderr == ""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("txninsightd.cli", ["txninsightd", "--help"]),
        ("txninsightd.cli", ["txninsightd", "--config", "conf/txninsight.yaml", "--check-config"]),
        ("txninsightd.tools.sim", ["txninsight-sim", "--help"]),
        ("txninsightd.tools.replay", ["txninsight-replay", "--help"]),
    ],
)
def test_the_daemon_and_both_tools_run(module: str, arguments: list[str]) -> None:
    done = run(RUN.format(module=module, arguments=arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
