"""Label Studio's tasks."""

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from annotating import ellipse
from format_files import BOX, drawn, iou, objects_of, picture, read_as, write_masks


def region(kind: str, **value: Any) -> Any:
    size = {"original_width": 50, "original_height": 40}
    return {"id": "r1", "type": kind, "value": {kind: ["cup"], **value}, **size}


def export(folder: Path, *regions: Any, url: str = "/data/upload/1/0123abcd-a.png") -> Path:
    path = folder / "export.json"
    cancelled = {"was_cancelled": True, "result": []}
    task = {"id": 5, "data": {"image": url}, "annotations": [cancelled, {"result": regions}]}
    path.write_text(json.dumps([task]))
    return path


BOX_REGION = region("rectanglelabels", x=10, y=25, width=20, height=50, rotation=0)


@pytest.mark.parametrize(
    "url",
    [
        "/data/upload/1/0123abcd-a.png",
        "/data/local-files/?d=my%20set/a.png",
        "s3://bucket/a.png",
        "https://example.org/x/a.png?key=1",
    ],
)
def test_percent_become_pixels(tmp_path: Path, url: str) -> None:
    images = picture(tmp_path, "a.png")
    outline = region("polygonlabels", points=[[0, 0], [100, 0], [100, 50]])
    choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
    source = export(tmp_path, BOX_REGION, choice, outline, url=url)
    content = read_as("label-studio", source, images)
    assert objects_of(content) == [
        ("a.png", "cup", [5, 10, 10, 20]),
        ("a.png", "cup", [0, 0, 50, 20]),
    ]
    assert content["annotations"][1]["segmentation"] == [[0, 0, 50, 0, 50, 20]]


@pytest.mark.parametrize(
    "bad, what",
    [
        (region("rectanglelabels", x=1, y=1, width=2, height=2, rotation=30), "turned by 30"),
        (region("rectanglelabels", x=1, y=1, width=2), "'height' is missing"),
        (region("rectanglelabels", x=1, y=1, width=0, height=2), "no area"),
        (region("polygonlabels", points="here"), "could not convert"),
        (region("ellipselabels", x=1, y=1, radiusX=2, radiusY=3), "type ellipselabels is no rect"),
        (region("keypointlabels", x=1, y=1, width=1), "type keypointlabels is no rectangle"),
        ({"id": "r1", "value": {}}, "type None is no rectangle"),
        ({**BOX_REGION, "type": "rectangle"}, "its label must be text, not None"),
    ],
)
def test_bad_regions_are_named(tmp_path: Path, bad: Any, what: str) -> None:
    images = picture(tmp_path, "a.png")
    with pytest.raises(ValueError, match=what) as error:
        read_as("label-studio", export(tmp_path, bad), images)
    assert "export.json', task 5: region 'r1': " in str(error.value)


def test_shapes_with_labels_of_their_id(tmp_path: Path) -> None:
    """As <Rectangle> or <Polygon> with <Labels> gives them."""
    images = picture(tmp_path, "a.png")
    place = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0}
    size = {"original_width": 50, "original_height": 40}
    regions = [
        {"id": "b", "type": "labels", "value": {**place, "labels": ["dog"]}, **size},
        {"id": "a", "type": "rectangle", "value": place, **size},
        {"id": "a", "type": "labels", "value": {**place, "labels": ["cup"]}, **size},
        {"id": "a", "type": "textarea", "value": {**place, "text": ["a cup"]}, **size},
        {"id": "b", "type": "polygon", "value": {"points": [[0, 0], [100, 0], [100, 50]]}, **size},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    ]
    content = read_as("label-studio", export(tmp_path, *regions), images)
    assert objects_of(content) == [
        ("a.png", "cup", [5, 10, 10, 20]),
        ("a.png", "dog", [0, 0, 50, 20]),
    ]


def test_regions_of_two_images_are_refused(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    source = export(tmp_path, {**BOX_REGION, "to_name": "x"}, {**BOX_REGION, "to_name": "y"})
    with pytest.raises(ValueError, match=r"task 5: its regions lie in several images \(x, y\)"):
        read_as("label-studio", source, images)


def test_other_json_is_refused(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    path = tmp_path / "export.json"
    for content in (
        '{"images": []}',
        "[3]",
        '[{"id": 1}]',
        '[{"data": {}}]',
        '[{"data": {"a": 3}}]',
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match="export.json'"):
            read_as("label-studio", path, images)
    path.write_text('[{"data": {"image": "a.png"}, "annotations": [{"result": [5]}]}]')
    with pytest.raises(ValueError, match="task 1: region '1': "):
        read_as("label-studio", path, images)


def test_predictions_fit_their_interface(tmp_path: Path) -> None:
    path = write_masks(tmp_path, "label-studio") / "tasks.json"
    first, second = json.loads(path.read_text())
    assert first["data"] == {"image": "/data/local-files/?d=1.png"}
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.75 and second["predictions"][0]["result"] == []
    regions = prediction["result"]
    assert [r["id"] for r in regions] == ["10-1", "10-2", "20-1", "30-1"]
    assert all((r["original_width"], r["original_height"]) == (64, 48) for r in regions)
    polygon = np.array(regions[2]["value"]["points"]) / 100 * [64, 48]
    assert iou(drawn(polygon.ravel()), ellipse(BOX)) > 0.95
    box = regions[3]["value"]
    assert np.allclose([box["x"], box["width"]], [50 / 0.64, 10 / 0.64])

    view = ElementTree.parse(path.with_name("interface.xml")).getroot()
    controls = {tag.get("name"): tag for tag in view if tag.tag.endswith("Labels")}
    for r in regions:
        control = controls[r["from_name"]]
        assert control.tag.lower() == r["type"] and control.get("toName") == r["to_name"]
        assert set(r["value"][r["type"]]) <= {label.get("value") for label in control}


def test_brush_without_its_package_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_sdk.converter", None)
    with pytest.raises(ValueError, match="pip install label-studio-sdk"):
        write_masks(tmp_path, "label-studio-brush")
