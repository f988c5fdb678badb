"""What a library that does not load says, what is wrong then, and how to mend it."""

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Optional, Tuple


@dataclass
class Finding:
    """Something that is wrong.

    Attributes:
        error: something does not work; else it is a limit to know of.
        what: is wrong.
        mend: what to do about it.
    """

    error: bool
    what: str
    mend: str


REQUIRED = {  # module: what to install
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "pycocotools.mask": "pycocotools",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "ijson": "ijson",
    "matplotlib": "matplotlib",
    "shapely": "shapely",
    "tabulate": "tabulate",
    "termcolor": "termcolor",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
    "detectron2": "detectron2",
    "detectron2.model_zoo": "detectron2",
}
"""In the order in which they need each other: the first fault is the cause of those that follow."""

DETECTRON2_MEND = (
    "git clone https://github.com/facebookresearch/detectron2 && "
    "pip install --no-build-isolation --no-deps --force-reinstall ./detectron2 "
    "(needs g++; on Python 3.10 with torch 2.3.1: pip install sal-detectron2==0.7.2)"
)
_SYMPTOMS: Tuple[Tuple[str, str, str, str], ...] = (
    # pattern of the module, pattern of its error, what is wrong, its mend
    (
        r"detectron2",
        r"undefined symbol|cannot open shared object|DLL load failed|symbol not found",
        "detectron2's compiled ops are built for another torch than {torch}",
        DETECTRON2_MEND,
    ),
    (
        r"torchvision",
        r"undefined symbol|torchvision::nms|cannot open shared object|partially initialized",
        "torchvision is built for another torch than {torch}",
        "pip install --force-reinstall torch=={torch} torchvision=={torchvision_for_torch}, "
        "both of one index: builds for the CPU and for CUDA do not mix",
    ),
    (
        r"cv2",
        r"lib(GL|EGL|gthread|SM|Xext|Xrender)\b",
        "OpenCV needs a library of the desktop that is not there",
        "apt-get install libgl1 libglib2.0-0, or: pip uninstall -y opencv-python && "
        "pip install opencv-python-headless",
    ),
    (
        r"",
        r"numpy\.dtype size changed|compiled using NumPy 1|_ARRAY_API|Numpy is not available|"
        r"numpy\.core\.multiarray failed|numpy.* has no attribute|No module named 'numpy\.",
        "{module} is built for another numpy than {numpy}",
        'pip install "numpy<2", or a newer {package}: pip install -U {package}',
    ),
    (
        r"",
        r"No module named 'pkg_resources'",
        "{module} needs pkg_resources, which new setuptools lack",
        'pip install "setuptools<81"',
    ),
    (
        r"",
        r"PIL\.Image.* has no attribute",
        "{module} is written for an older Pillow",
        'pip install "pillow<10", or a newer {package}',
    ),
    (
        r"detectron2$",
        r"No module named 'detectron2'",
        "detectron2 is not installed",
        DETECTRON2_MEND,
    ),
    (r"", r"No module named", "{missing} is not installed", "pip install {missing_package}"),
    (r"", r"", "{module} cannot be imported", "pip install --force-reinstall {package}"),
)


def explained(module: str, package: str, error: BaseException) -> Finding:
    """The first symptom that fits, with its mend."""
    text = " ".join(str(error).split()) or type(error).__name__
    missing = (getattr(error, "name", None) or module).split(".")[0]
    packages = {name.split(".")[0]: wanted for name, wanted in REQUIRED.items()}
    torch = (version_of("torch") or "?").split("+")[0]
    names = {
        **{"module": module, "package": package},
        **{"missing": missing, "missing_package": packages.get(missing, missing)},
        **{"torch": torch, "torchvision_for_torch": _torchvision_for(torch)},
        "numpy": version_of("numpy") or "?",
    }
    what, mend = next(
        (what, mend)
        for of_module, of_error, what, mend in _SYMPTOMS
        if re.match(of_module, module) and re.search(of_error, text)
    )
    return Finding(True, f"{what.format_map(names)} ({text})", mend.format_map(names))


def _torchvision_for(torch: str) -> str:
    """torch 2.N goes with torchvision 0.(N+15)."""
    match = re.match(r"2\.(\d+)\.(\d+)", torch)
    return f"0.{int(match[1]) + 15}.{match[2]}" if match else "?"


def version_of(module: str) -> Optional[str]:
    """What a module says of itself, else what it was installed as."""
    said = getattr(sys.modules.get(module), "__version__", None)
    if said is not None:
        return str(said)
    try:
        return metadata.version(REQUIRED.get(module, module))
    except metadata.PackageNotFoundError:
        return None
