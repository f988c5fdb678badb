"""`seg-every-thing annotate`: exit codes, and one line for what is wrong."""

import argparse
import json
from pathlib import Path
from typing import Any, List

import pytest
from annotating import ellipse, masks_are_ellipses, rle_of, write_data

from seg_every_thing.annotation import annotator
from seg_every_thing.annotation.options import Options
from seg_every_thing.cli import annotate, main

BOX = [10.0, 8.0, 24.0, 18.0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    given = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX))}
    return write_data(tmp_path / "d", [[{"bbox": BOX}], [given], [{"bbox": BOX}]])


def arguments(path: Path, *extra: Any, weights: bool = True) -> List[str]:
    (path.parent / "weights.pth").write_bytes(b"weights")
    trained = ["--opts", "MODEL.WEIGHTS", str(path.parent / "weights.pth")] if weights else []
    return [
        *("annotate", "--annotations", str(path), "--image-root", str(path.parent / "images")),
        *("--output", str(path.parent / "out.json")),
        *(["--config-file", "photos/box_to_mask.yaml"] if weights else []),
        *(*map(str, extra), *trained),
    ]


def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = annotator.annotate_file
    monkeypatch.setattr(annotate, "annotate_file", lambda options: run(options, masks_are_ellipses))


def test_exit_codes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubbed(monkeypatch)
    (data.parent / "images" / "1.png").unlink()
    assert main(arguments(data)) == 2
    assert main(arguments(data)) == 2  # nothing is done, and the images still have no masks
    (data.parent / "images" / "3.png").unlink()
    (data.parent / "images" / "2.png").unlink()
    with pytest.raises(SystemExit) as error:
        main(arguments(data, "--overwrite"))
    assert error.value.code == 1


def test_every_option_arrives(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    seen: List[Options] = []

    def run(options: Options) -> Any:
        seen.append(options)
        return {"failed_images": {}}

    monkeypatch.setattr(annotate, "annotate_file", run)
    extra = [
        "--format",
        "polygon",
        "--parts",
        "largest",
        "--overwrite",
        "--min-score",
        "0.3",
        "--on-empty",
        "drop",
    ]
    extra += ["--tighten-boxes", "--crowd-rle-is-mask", "--reindex-categories", "--report", "page"]
    extra += [
        "--num-gpus",
        "2",
        "--shard",
        "2/3",
        "--holdout",
        "0.2",
        "--allow-partial-checkpoint",
        "--force",
    ]
    assert main(arguments(data, *extra)) == 0
    assert seen == [
        Options(
            annotations=data,
            image_root=data.parent / "images",
            output=data.parent / "out.json",
            config_file="photos/box_to_mask.yaml",
            opts=("MODEL.WEIGHTS", str(data.parent / "weights.pth")),
            allow_partial=True,
            holdout=0.2,
            format="polygon",
            parts="largest",
            overwrite=True,
            min_score=0.3,
            on_empty="drop",
            tighten_boxes=True,
            crowd_rle_is_mask=True,
            reindex_categories=True,
            report=Path("page"),
            num_gpus=2,
            shard=(2, 3),
            force=True,
        )
    ]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--holdout", "1"], "--holdout must be from 0 to below 1, not 1"),
        (["--min-score", "2"], "--min-score must be from 0 to 1, not 2"),
        (["--num-gpus", "0"], "--num-gpus must be at least 1, not 0"),
        (["--minutes", "5"], "--minutes and --rounds are about training"),
        (["--rounds", "-1"], "--rounds must be at least 0, not -1"),
    ],
)
def test_bad_options(
    extra: List[str], message: str, data: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments(data, *extra))
    assert error.value.code == 1
    assert message in capsys.readouterr().err


def test_shards_need_a_trained_model(data: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(arguments(data, "--shard", "1/2", weights=False))
    assert "--shard needs a trained model" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "a", "1"])
def test_bad_shards(text: str, data: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments(data, "--shard", text))
    assert error.value.code == 1
    assert "--shard must be I/N with I from 1 to N" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["images", "boxes.json"])
def test_missing_input(what: str, data: Path, capsys: pytest.CaptureFixture) -> None:
    (data.parent / what).rename(data.parent / "elsewhere")
    with pytest.raises(SystemExit) as error:
        main(arguments(data))
    assert error.value.code == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_dry_run_lists_what_is_missing(
    data: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments(data, "--dry-run")) == 0
    (data.parent / "images" / "1.png").unlink()
    assert main(arguments(data, "--dry-run")) == 2
    assert '"wanted": 2' in capsys.readouterr().out
    assert not (data.parent / "out.json").exists()


def test_arguments_say_what_they_are() -> None:
    parser = argparse.ArgumentParser()
    annotate.add_arguments(parser)
    text = parser.format_help()
    for action in parser._actions:
        assert action.help
    assert "--crowd-rle-is-mask" in text


def test_what_is_written_is_json(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubbed(monkeypatch)
    assert main(arguments(data)) == 0
    after = json.loads((data.parent / "out.json").read_text())["annotations"]
    assert ["attributes" in a for a in after] == [True, False, True]


def test_from_a_table_to_other_formats(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stubbed(monkeypatch)
    table = data.with_name("boxes.csv")
    table.write_text("file_name,label,x,y,width,height\n1.png,cup,10,8,24,18\n")
    options = ["--from", "csv", "--to", "yolo", "--to", "cvat"]
    assert main([*arguments(table, "--dry-run", *options)]) == 0
    assert {path.name for path in data.parent.iterdir()} == {
        *("boxes.json", "boxes.csv", "images", "weights.pth")
    }
    assert main(arguments(table, *options)) == 0
    assert main(arguments(table, *options)) == 0  # changes nothing
    (made,) = json.loads(data.with_name("out.json").read_text())["annotations"]
    assert made["bbox"] == BOX and made["segmentation"]
    (line,) = (data.parent / "out_yolo" / "labels" / "1.txt").read_text().splitlines()
    assert line.startswith("0 ") and len(line.split()) > 9
    assert json.loads((data.parent / "out_cvat" / "annotations.json").read_text())["annotations"]

    table.write_text("file_name,label,x,y,width,height\n1.png,cup,10,8,0,18\n")
    with pytest.raises(SystemExit):
        main(arguments(table, *options))
    assert "boxes.csv', line 2: its box" in capsys.readouterr().err
