"""The torchvision repair, each case in a process of its own; small fake packages stand for other installs."""

import subprocess
import sys
from pathlib import Path

import pytest

import sightline
from sightline.compat import require
from sightline.errors import SightlineError

SOURCE = Path(sightline.__file__).parents[1]
MISMATCH = "operator torchvision::nms does not exist"
REPAIR = "from sightline import compat; compat.repair_torchvision()\n"
# What the real package does while it is imported; torch raises the real error where nobody has defined the operators.
ATTACHES_RULES = """
import torch, torchvision.part
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou: dets)
whole = True
"""


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that looks for packages in `path` first."""
    found_first = f"import sys; sys.path[:0] = {[str(folder) for folder in (*path, SOURCE)]}\n"
    return subprocess.run([sys.executable, "-c", found_first + code], capture_output=True, text=True)


def printed(code: str, *path: Path) -> str:
    done = run(code, *path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, body: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(body)
    (package / "part.py").write_text("")
    return folder


def test_the_installed_torchvision_works_after_the_repair() -> None:
    alone = run("import torchvision")
    if "No module named 'torchvision'" in alone.stderr:
        pytest.skip("torchvision is not installed")
    assert alone.returncode == 0 or MISMATCH in alone.stderr, alone.stderr
    use = "import torch, torchvision; print(*torchvision.models.alexnet()(torch.ones(1, 3, 64, 64)).shape)"
    assert printed(REPAIR + REPAIR + use) == "1 1000"


def test_a_mismatch_is_repaired_once_and_outlives_the_call(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path, ATTACHES_RULES)
    assert MISMATCH in run("import torchvision", fake).stderr
    shape = "torch.ops.torchvision.nms(torch.ones(5, 4, device='meta'), torch.ones(5, device='meta'), 0.5).shape"
    use = f"import gc, torch, torchvision; gc.collect(); print(torchvision.whole, len(compat._kept), *{shape})"
    assert printed(REPAIR + REPAIR + use, fake) == "True 1 5 4"


def test_a_failed_import_before_the_repair_does_no_harm(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path, ATTACHES_RULES)
    failed = "try: import torchvision\nexcept RuntimeError: pass\nstale = sys.modules['torchvision.part']\n"
    use = "import torchvision.part; print(torchvision.whole, torchvision.part is not stale)"
    assert printed(failed + REPAIR + use, fake) == "True True"


def test_a_torchvision_that_works_is_left_alone(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path, "import torchvision.part")
    before = "import torchvision; first = torchvision, torchvision.part\n"
    now = "now = sys.modules['torchvision'], sys.modules['torchvision.part']\n"
    assert printed(before + REPAIR + now + "print(first == now, 'torch' in sys.modules)", fake) == "True False"


def test_a_missing_torchvision_is_no_error() -> None:
    assert printed("sys.modules['torchvision'] = None\n" + REPAIR + "print(compat._kept)") == "[]"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise RuntimeError('another one')", "RuntimeError another one []"),
        ("raise ImportError('half a file')", "ImportError half a file []"),
        ("import nowhere_to_be_found", "ModuleNotFoundError No module named 'nowhere_to_be_found' []"),
    ],
)
def test_any_other_failure_is_raised_unchanged(tmp_path: Path, body: str, expected: str) -> None:
    caught = "except Exception as error: print(type(error).__name__, error, compat._kept)"
    code = REPAIR.replace("; compat", "\ntry: compat") + caught
    assert printed(code, fake_torchvision(tmp_path, body)) == expected


def test_a_repair_that_does_not_help_says_what_torchvision_says(tmp_path: Path) -> None:
    assert MISMATCH in run(REPAIR, fake_torchvision(tmp_path, f"raise RuntimeError('{MISMATCH}')")).stderr


def test_require_returns_the_module() -> None:
    assert require("parquet", "json.decoder").JSONDecoder


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_require_names_the_command_that_installs_a_missing_extra(module: str) -> None:
    with pytest.raises(
        SightlineError, match=r'^no_such_package is not installed. Run: pip install "sightline\[parquet\]"'
    ):
        require("parquet", module)


def test_require_does_not_hide_a_broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        require("timm", "broken_package")
