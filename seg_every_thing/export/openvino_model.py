"""A model whose layers OpenVINO computes; what lies between them is detectron2's."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import nn

from ..files import printable
from ..modeling.fast.roi_align import FastROIAlign
from ..modeling.mask_geometry import EnlargedROIMasks, box_coordinates
from ..modeling.mask_rois import MaskRoIs
from ..processes import keep_freed_memory
from .bodies import by_class
from .graph_model import ExportedModel
from .layout import ENDINGS, read_manifest
from .optional import optional


class OpenVinoModel(ExportedModel):
    """The parts of a folder, each loaded when it is first needed.

    OpenVINO takes as many threads as PyTorch has at that time.
    """

    def __init__(self, folder: Path, cfg: CfgNode, device: Optional[str] = None) -> None:
        """
        Args:
            folder: with the parts.
            cfg: of the model that was exported.
            device: None or "cpu".

        Raises:
            ValueError: when OpenVINO is not installed, or for another device.
        """
        super().__init__(cfg)
        if device not in (None, "cpu"):
            raise ValueError(f"exports with --format openvino run on the CPU, not on '{device}'")
        keep_freed_memory()
        self._core = optional("openvino", "openvino").Core()
        self._folder = folder
        self._requests: Dict[str, Any] = {}
        parts = read_manifest(folder)["parts"]
        shapes = {name: ShapeSpec(**shape) for name, shape in parts["features"].items()}
        self._stride, self._mean = parts["size_divisibility"], torch.tensor(cfg.MODEL.PIXEL_MEAN)
        heads, mask = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_MASK_HEAD
        strides = [shapes[name].stride for name in heads.IN_FEATURES]
        self._mask_rois, self._by_class = MaskRoIs(cfg), by_class(mask.PREDICTOR)
        self._mask_side = mask.POOLER_RESOLUTION
        self._all_levels = mask.POOLER_LEVELS == "all"
        groups = [[s] for s in strides] if self._all_levels else [strides]
        self._mask_poolers = [_pooler(mask, group) for group in groups]
        if self.finds_boxes:
            self._rpn = build_proposal_generator(cfg, shapes).eval()
            self._box_pooler = _pooler(cfg.MODEL.ROI_BOX_HEAD, strides)
            # For what it does with scores and deltas; its own layers are not used.
            self._output = FastRCNNOutputLayers(cfg, ShapeSpec(channels=1))
        self._levels = len(strides)

    def detected(self, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        found = self._run("detector", self._padded(image))
        features, rest = found[: self._levels], found[self._levels :]
        logits, deltas = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        anchors = self._rpn.anchor_generator([x.permute(0, 3, 1, 2) for x in logits])
        (proposals,) = self._rpn.predict_proposals(
            anchors,
            [x.flatten(1) for x in logits],
            [x.reshape(1, -1, 4) for x in deltas],
            [(image.shape[1], image.shape[2])],
        )
        maps = [x.permute(0, 3, 1, 2) for x in features]
        pooled = self._box_pooler(maps, [proposals.proposal_boxes])
        scores, box_deltas = self._run("box_head", pooled)
        (x,), _ = self._output.inference((scores, box_deltas), [proposals])
        masks = self._masks(maps, x.pred_boxes.tensor, x.pred_classes)
        return x.pred_boxes.tensor, x.scores, x.pred_classes, masks

    def prompted(
        self, image: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        features = self._run("prompted", self._padded(image))
        return self._masks([x.permute(0, 3, 1, 2) for x in features], boxes, classes)

    def _padded(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) -> (1, 3, H', W'), divisible, with the mean about it: zeros to the model."""
        _, height, width = image.shape
        step = max(self._stride, 1)
        size = (-(-height // step) * step, -(-width // step) * step)
        padded = self._mean.view(1, 3, 1, 1).expand(1, 3, *size).contiguous()
        padded[0, :, :height, :width] = image
        return padded

    def _masks(
        self, maps: List[torch.Tensor], boxes: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        side = self._mask_side
        if len(boxes):
            rois = self._mask_rois.around([Boxes(boxes)])
            levels = [[x] for x in maps] if self._all_levels else [maps]
            inputs = [pooler(x, rois) for pooler, x in zip(self._mask_poolers, levels)]
            if self._mask_rois.coordinates:
                inputs.append(box_coordinates(boxes, self._mask_rois.scale, side))
            if self._by_class:
                inputs.append(classes)
            (logits,) = self._run("mask_head", *inputs)
        else:
            logits = boxes.new_zeros(0, 1, 2 * side, 2 * side)
        x = Instances((1, 1), pred_masks=logits.sigmoid())
        masks = self._mask_rois.finish([x])[0].pred_masks
        return masks.tensor if isinstance(masks, EnlargedROIMasks) else masks[:, 0]

    def _run(self, name: str, *inputs: torch.Tensor) -> List[torch.Tensor]:
        """What a part makes of its inputs; valid until it runs again, as memory is shared."""
        request = self._request(name)
        arrays = [x.contiguous().numpy() for x in inputs]
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(found[i]) for i in range(len(found))]

    def _request(self, name: str) -> Any:
        if name not in self._requests:
            path = self._folder / f"{name}{ENDINGS['openvino']}"
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",  # some processors would compute with less
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            }
            try:
                compiled = self._core.compile_model(str(path), "CPU", settings)
            except RuntimeError as e:
                reason = (str(e).strip().splitlines() or [type(e).__name__])[-1]
                raise ValueError(
                    f"OpenVINO cannot load '{printable(path)}': {reason}. Export it again"
                ) from e
            self._requests[name] = compiled.create_infer_request()
        return self._requests[name]


def _pooler(head: CfgNode, strides: List[int]) -> ROIPooler:
    """As detectron2's RoI heads have it, on all threads."""
    pooler = ROIPooler(
        output_size=head.POOLER_RESOLUTION,
        scales=tuple(1.0 / stride for stride in strides),
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )
    pooler.level_poolers = nn.ModuleList(FastROIAlign(x) for x in pooler.level_poolers)
    return pooler
