"""Faults of an installation are planted where Python finds modules, and named with their mend."""

import ast
import collections
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
import torch

from seg_every_thing import diagnosis
from seg_every_thing.diagnosis import Finding, diagnose
from seg_every_thing.symptoms import REQUIRED

Plant = Callable[[str, BaseException], None]

ROOT = Path(__file__).resolve().parents[1]
SYMBOL = "/x/_C.cpython-310-x86_64-linux-gnu.so: undefined symbol: _ZN3c105ErrorC2ENS_14Source"


@pytest.fixture()
def plant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Plant]:
    """Let the import of a module fail; all else is as it should be, on a machine without a GPU."""
    faults: Dict[str, BaseException] = {}

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name in faults:
                raise faults[name]

    def fail(module: str, error: BaseException) -> None:
        faults[module] = error
        for name in [n for n in sys.modules if n == module or n.startswith(f"{module}.")]:
            monkeypatch.delitem(sys.modules, name)

    for module in [*REQUIRED, "detectron2._C"]:
        if diagnosis._fault(module) is not None:  # say, upstream detectron2 without compiled ops
            monkeypatch.setitem(sys.modules, module, type(sys)(module))
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(diagnosis, "_has_nvidia_driver", lambda: False)
    monkeypatch.setattr(diagnosis, "_check_shared_memory", lambda: iter(()))
    monkeypatch.setattr(diagnosis, "EXTRAS", {})
    yield fail


def missing(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named '{module}'", name=module)


def the_finding() -> Finding:
    findings = diagnose().findings
    assert len(findings) == 1, findings
    return findings[0]


def test_nothing_is_found_where_nothing_is_wrong(plant: Plant, tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    found = diagnose()
    assert found.findings == []
    assert found.compiled_ops == "present"
    assert found.versions["torch"] == torch.__version__
    assert found.versions["PIL"] and found.versions["seg_every_thing"]
    assert found.data_root == {"path": str(tmp_path), "set": True, "folders": ["coco"]}
    assert found.devices[0].startswith("cpu (")


FAULTS: List[Tuple[str, BaseException, bool, str, str]] = [
    # module, its error; whether it is an error, what is said, the mend
    ("detectron2", ImportError(SYMBOL), True, "for another torch than 2", "--no-build-isolation"),
    ("detectron2._C", ImportError(SYMBOL), True, "for another torch than 2", "--force-reinstall"),
    (
        *("detectron2._C", ImportError("libcudart.so.11.0: cannot open shared object file"), True),
        *("compiled ops are built for another torch", "--no-build-isolation"),
    ),
    ("detectron2._C", missing("detectron2._C"), False, "no compiled ops", "--no-build-isolation"),
    ("detectron2", missing("detectron2"), True, "detectron2 is not installed", "git clone"),
    (
        *("torchvision", RuntimeError("operator torchvision::nms does not exist"), True),
        *("torchvision is built for another torch", r"torch==2\S+ torchvision==0\.\d+\.\d, both"),
    ),
    (
        *("pycocotools.mask", ValueError("numpy.dtype size changed, may indicate binary"), True),
        *(r"built for another numpy than \d", r'"numpy<2", or .* install -U pycocotools'),
    ),
    (
        *("detectron2", AttributeError("module 'numpy' has no attribute 'bool'."), True),
        *(r"detectron2 is built for another numpy", '"numpy<2"'),
    ),
    (
        *("detectron2", AttributeError("module 'PIL.Image' has no attribute 'LINEAR'"), True),
        *("written for an older Pillow", '"pillow<10"'),
    ),
    ("pkg_resources", missing("pkg_resources"), True, "needs pkg_resources", '"setuptools<81"'),
    (
        *("cv2", ImportError("libGL.so.1: cannot open shared object file: No such file"), True),
        *("OpenCV needs a library of the desktop", "opencv-python-headless"),
    ),
    ("pycocotools.mask", missing("pycocotools"), True, "pycocotools is not", "pip install pycoco"),
    ("cv2", missing("cv2"), True, "cv2 is not installed", "pip install opencv-python"),
    ("yaml", missing("yaml"), True, "yaml is not installed", "pip install pyyaml"),
    (
        "shapely",
        OSError("no geos_c"),
        True,
        "shapely cannot be imported .no g",
        "reinstall shapely",
    ),
]


@pytest.mark.parametrize("module, error, is_error, what, mend", FAULTS)
def test_library_that_does_not_load(
    plant: Plant, module: str, error: BaseException, is_error: bool, what: str, mend: str
) -> None:
    if module == "pkg_resources":  # of which some builds of detectron2 have no need
        plant("detectron2.model_zoo", error)
    plant(module, error)
    found = the_finding()
    assert found.error == is_error
    assert re.search(what, found.what), found.what
    assert re.search(mend, found.mend), found.mend


def test_what_follows_from_a_fault_is_no_fault_of_its_own(plant: Plant) -> None:
    for module in ("torch", "torchvision", "detectron2", "detectron2.model_zoo"):
        plant(module, missing("torch"))
    found = the_finding()
    assert found.what.startswith("torch is not installed")
    assert found.mend == "pip install torch"


def test_torch_without_numpy(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(size: int) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "zeros", zeros)
    found = the_finding()
    assert found.error and "torch is built for another numpy" in found.what
    assert '"numpy<2"' in found.mend


@pytest.mark.parametrize(
    "said, driver, is_error, what, mend",
    [
        ("Found no NVIDIA driver on your system", False, False, "there is no GPU", "MODEL.DEVICE"),
        (
            "driver on your system is too old (11040)",
            True,
            True,
            "too old for the CUDA 12.1",
            "upd",
        ),
        ("CUDA unknown error", True, True, "a GPU that torch cannot use .CUDA unk", "nvidia-smi"),
    ],
)
def test_gpu_that_torch_does_not_get(
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    driver: bool,
    is_error: bool,
    what: str,
    mend: str,
) -> None:
    def init() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.version, "cuda", "12.1")
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(diagnosis, "_has_nvidia_driver", lambda: driver)
    found = the_finding()
    assert found.error == is_error
    assert re.search(what, found.what) and mend in found.mend


def test_torch_without_cuda_beside_a_gpu(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_has_nvidia_driver", lambda: True)
    found = the_finding()
    assert found.error and "torch is built without" in found.what


@pytest.mark.parametrize("targets, fits", [(["sm_80", "sm_90"], True), (["sm_70", "sm_80"], False)])
def test_gpu_newer_than_torch(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, targets: List[str], fits: bool
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    for name, result in {
        **{"init": None, "device_count": 1, "get_device_name": "H100"},
        **{"get_device_capability": (9, 0), "get_arch_list": targets},
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, result=result: result)
    monkeypatch.setitem(sys.modules, "detectron2._C", _Ops("detectron2._C"))
    found = diagnose()
    assert found.devices[1:] == ["cuda:0 (H100)"]
    whats = [f.what for f in found.findings]
    assert any("built without CUDA" in what for what in whats)
    assert any("no code for this GPU (sm_90; it has sm_70, sm_80)" in w for w in whats) == (
        not fits
    )


class _Ops(type(sys)):  # type: ignore[misc]
    @staticmethod
    def has_cuda() -> bool:
        return False


@pytest.mark.parametrize("value, is_error", [(None, False), ("no_such_folder", True)])
def test_data_root(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, value: Optional[str], is_error: bool
) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS")
    if value:
        monkeypatch.setenv("DETECTRON2_DATASETS", value)
    found = the_finding()
    assert found.error == is_error
    assert "DETECTRON2_DATASETS" in found.what and found.mend.startswith("export DETECTRON2_")


def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total")
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(64 << 20))
    (found,) = diagnosis._check_shared_memory()
    assert found.error and found.what.startswith("64 MiB of shared memory")
    assert "--shm-size" in found.mend
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30))
    assert not list(diagnosis._check_shared_memory())


def test_missing_extra(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "EXTRAS", {"timm": (("timm",), "backbones of timm")})
    plant("timm", missing("timm"))
    assert diagnose().extras == {"timm": False}
    found = the_finding()
    assert not found.error and found.what == "the extra 'timm' is missing: backbones of timm"
    assert found.mend == 'pip install "seg_every_thing[timm]"'


def test_fault_in_the_package_itself(plant: Plant) -> None:
    plant("seg_every_thing.engine.trainer", ImportError("cannot import name 'x' from 'detectron2'"))
    found = the_finding()
    assert found.error and "seg_every_thing cannot be imported (cannot import name" in found.what


def test_packages_are_those_of_setup() -> None:
    calls = [n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if _is_setup(n)]
    words = {k.arg: k.value for k in calls[0].keywords}  # type: ignore[attr-defined]
    wanted = {re.split("[<>=]", w)[0] for w in ast.literal_eval(words["install_requires"])}
    assert wanted == {*REQUIRED.values()} - {"detectron2", "torchvision"}
    extras = ast.literal_eval(words["extras_require"])
    assert {*extras} - {"dev"} == diagnosis.EXTRAS.keys()
    for name, (modules, _) in diagnosis.EXTRAS.items():
        assert {re.split("[<>=]", w)[0].replace("-", "_") for w in extras[name]} == {*modules}


def _is_setup(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
