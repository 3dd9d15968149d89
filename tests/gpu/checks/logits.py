"""The part ``logits``: what the shipped models answer to the same images on CPU and device, and in other precisions."""

from functools import partial

import torch
from torch import Tensor

from checks.context import Context, tell
from checks.shell import ROOT
from kdignite import checkpoints
from kdignite.checkpoints import Checkpoint
from kdignite.data.preprocess import preparer
from kdignite.evaluation import predictor
from kdignite.training.model import load_model

CPU = torch.device("cpu")
CHUNK = 500
CLOSE = 1e-4  # share of the largest logit by which float32 on two devices may differ


def check(context: Context) -> None:
    """Compare the three models of the reference, and the teacher's answers in other precisions."""
    images = _images(60 if context.tiny else 1000)
    for name in ("teacher",) if context.tiny else ("teacher", "student", "baseline"):
        path = ROOT / "runs" / "reference" / name / "best.safetensors"
        checkpoint = context.attempt(f"read {path}", partial(checkpoints.load_checkpoint, path))
        if checkpoint is None:
            continue
        context.attempt(f"{name} on both", partial(_devices, context, name, checkpoint, images))
        context.attempt(f"{name} in chunks", partial(_chunks, context, name, checkpoint, images))
        if name == "teacher":
            context.attempt("precisions", partial(_precisions, context, checkpoint, images))


def _images(count: int) -> Tensor:
    """Coarse patterns with noise on them."""
    noise = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    coarse = torch.nn.functional.interpolate(noise[:, :, ::8, ::8].float(), scale_factor=8)
    return (noise.float() * 0.3 + coarse * 0.7).to(torch.uint8)


def _answers(
    checkpoint: Checkpoint, images: Tensor, device: torch.device, *, chunk: int = CHUNK, amp: str = "off"
) -> Tensor:
    model = load_model(checkpoint).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits_of = predictor(model, prepare=preparer(checkpoint.description.preprocessing, device=device), amp=amp)
    return torch.cat([logits_of(one.to(device)).cpu() for one in images.split(chunk)])


def _far(mine: Tensor, right: Tensor) -> tuple[float, str]:
    """The largest difference as a share of the largest logit; the same in words, with the answers that changed."""
    share = ((mine - right).abs().max() / right.abs().max()).item()
    changed = int((mine.argmax(1) != right.argmax(1)).sum())
    return share, f"differ by {share:.1e} of the largest logit, {changed} of {len(right)} answers"


def _devices(context: Context, name: str, checkpoint: Checkpoint, images: Tensor) -> None:
    share, told = _far(_answers(checkpoint, images, context.device), _answers(checkpoint, images, CPU))
    tell(f"{name}: CPU and device, float32", told, ok=share < CLOSE, share=share)


def _chunks(context: Context, name: str, checkpoint: Checkpoint, images: Tensor) -> None:
    """Other chunks may take other kernels; nothing depends on that they do not."""
    right = _answers(checkpoint, images, context.device)
    same = {
        chunk: torch.equal(_answers(checkpoint, images, context.device, chunk=chunk), right)
        for chunk in ((8, 50) if context.tiny else (8, 100, 128, 250))
    }
    told = ", ".join(f"{chunk} {'yes' if one else 'no'}" for chunk, one in same.items())
    tell(f"{name}: same bits in chunks of {CHUNK} and of", told)


def _precisions(context: Context, checkpoint: Checkpoint, images: Tensor) -> None:
    """What ``--teacher_amp`` changes."""
    right = _answers(checkpoint, images, context.device)
    for amp in ("bf16", "tf32") if context.cuda else ("bf16",):
        share, told = _far(_answers(checkpoint, images, context.device, amp=amp), right)
        tell(f"teacher: float32 and {amp}", told, share=share)
    again = torch.equal(_answers(checkpoint, images, context.device), right)
    tell("teacher: float32 afterwards is the float32 before", "yes" if again else "no", ok=again)
