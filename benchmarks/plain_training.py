"""The step that `training.py` measures ours against: Safe-CLIP as its reference trainer takes it.

transformers' CLIP towers with PEFT adapters on the same layers, float32, captions padded to the context,
the teacher run at every step, safe and unsafe inputs in forwards of their own, Adam. Two of the reference's
habits are left out because they would only slow it down or spoil it: dropout on the adapters, and a teacher
that shares the student's modules.
"""

from __future__ import annotations

import copy

import torch
from open_clip.model import CLIP
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.export import to_clip_model
from safeclip.training.objectives import Batch
from safeclip.training.objectives.safe_clip import OBJECTIVE
from safeclip.training.rows import Rows

TARGETS = ["k_proj", "v_proj", "out_proj", "fc1", "fc2", "patch_embedding"]


class PlainTrainer:
    """Student and teacher of the weights of an open_clip model."""

    def __init__(self, model: CLIP, rank: int, learning_rate: float) -> None:
        self.teacher = to_clip_model(model)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, bias="none")
        self.student = get_peft_model(copy.deepcopy(self.teacher), config).base_model.model
        factors = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(factors, lr=learning_rate)

    def step(self, rows: Rows) -> float:
        """One step on all rows; its total loss."""
        safe, generated = _text_inputs(rows.tokens_safe), _text_inputs(rows.tokens_generated)
        pictures = torch.from_numpy(rows.pixels)
        student = Quadruplets(
            _text(self.student, safe),
            _text(self.student, generated),
            _image(self.student, pictures[0]),
            _image(self.student, pictures[1]),
        )
        with torch.no_grad():
            teacher_text, teacher_image = _text(self.teacher, safe), _image(self.teacher, pictures[0])
        teacher = Quadruplets(teacher_text, teacher_text, teacher_image, teacher_image)
        everything = torch.ones(len(rows), dtype=torch.bool)
        batch = Batch(student, teacher, teacher_text, teacher_image, everything, everything, teacher_text[0])
        loss = sum(OBJECTIVE.weights[name] * value for name, value in OBJECTIVE.losses(batch).items())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _text_inputs(tokens: Tensor) -> dict[str, Tensor]:
    ends = tokens.argmax(dim=1, keepdim=True)
    return {"input_ids": tokens, "attention_mask": (torch.arange(tokens.shape[1]) <= ends).long()}


def _text(model: CLIPModel, inputs: dict[str, Tensor]) -> Tensor:
    pooled = model.text_model(**inputs).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def _image(model: CLIPModel, pixels: Tensor) -> Tensor:
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    return F.normalize(model.visual_projection(pooled), dim=-1)
