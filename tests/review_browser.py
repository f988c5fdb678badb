"""Objects to review, drawn from a seed, and a browser without a window to review them in."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator, List

import cv2
import numpy as np
import pytest

from seg_every_thing.annotation.review_items import (
    CHANGED_BY_POLYGON,
    EMPTY,
    CropMask,
    ReviewItem,
)

CLASSES = ("heron", "kite", "lantern", "sailing boat", "teapot")
HEIGHT, WIDTH = 240, 320


def made_up_items(
    folder: Path, num_images: int, per_image: int, scale: int = 1
) -> Iterator[ReviewItem]:
    """Ellipses on a sky, with masks that miss them the more the lower their score is.

    Images are HEIGHT x WIDTH, times the scale.

    Annotation ids begin at 100; every seventh object is changed by its polygon, every 40th is
    empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(num_images):
        path = folder / f"picture_{number:05d}.jpg"
        image = np.linspace((226, 190, 160), (160, 200, 215), scale * HEIGHT)
        image = image[:, None].repeat(scale * WIDTH, 1)
        image = (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
        objects = [_ellipse(rng, image, scale) for _ in range(per_image)]
        cv2.imwrite(str(path), image)
        for i, (box, mask, score) in enumerate(objects):
            index = number * per_image + i
            flags: List[str] = [CHANGED_BY_POLYGON] if index % 7 == 0 else []
            if index % 40 == 39:
                mask, flags, score = np.zeros_like(mask), [*flags, EMPTY], 0.0
            x, y, width, height = box
            yield ReviewItem(
                annotation_id=100 + index,
                image_id=number,
                file_name=path.name,
                image_path=path,
                class_name=CLASSES[index % len(CLASSES)],
                box=box,
                score=score,
                fill=float(mask.sum() / (width * height)),
                flags=tuple(flags),
                mask=CropMask.of(mask[y : y + height, x : x + width], x, y),
            )


def _ellipse(rng: np.random.Generator, image: np.ndarray, scale: int) -> Any:
    """Paint one; its box, its mask, and the score of the mask."""
    radii = scale * rng.integers(12, 50, 2)
    sides = image.shape[1::-1]
    x, y = (int(rng.integers(r + 2, side - r - 2)) for r, side in zip(radii, sides))
    color = tuple(int(v) for v in rng.integers(20, 220, 3))
    score = float(np.round(rng.beta(5, 2), 2))
    cv2.ellipse(image, (x, y), tuple(map(int, radii)), 0, 0, 360, color, -1, cv2.LINE_AA)
    mask = np.zeros(image.shape[:2], np.uint8)
    start = int(rng.integers(360))
    cv2.ellipse(mask, (x, y), tuple(map(int, radii)), 0, start, start + int(360 * score), 1, -1)
    rx, ry = map(int, radii)
    return (x - rx, y - ry, 2 * rx + 1, 2 * ry + 1), mask.astype(bool), score


@contextlib.contextmanager
def chromium(width: int = 1400, height: int = 900, downloads: str = "") -> Iterator[Any]:
    """Chromium without a window, driven by selenium; skips the test where there is none.

    Args:
        width, height: of the page.
        downloads: folder for downloads.
    """
    driver = shutil.which("chromedriver")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not browser:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in (
            *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
            *("disable-background-networking", "disable-component-update", "disable-sync"),
            *("disable-dev-shm-usage", f"user-data-dir={profile}"),
        ):
            options.add_argument(f"--{argument}")
        options.add_experimental_option("prefs", {"download.default_directory": downloads})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(executable_path=driver)
        page = webdriver.Chrome(options=options, service=service)
        try:
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics(width, height))
            yield page
        finally:
            page.quit()


def metrics(width: int, height: int) -> Any:
    """What to tell Chromium of a screen."""
    return {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
