"""The model card: what an exported model is, how good, at what cost, how it was made, and where it ends."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from kdignite.comparison.runs import RunFiles
from kdignite.comparison.teachers import control_note
from kdignite.config import DistillConfig, setting_text, with_role
from kdignite.data.specs import INTERPOLATION
from kdignite.errors import brief
from kdignite.export.check import Parity, parity_text
from kdignite.export.hub import front_matter
from kdignite.export.quantize import kib
from kdignite.metrics.statistics import wilson_interval
from kdignite.reports.tables import evaluation_table
from kdignite.reports.text import NO_SCORE, markdown_table, per_cent

SETTINGS = with_role(DistillConfig, "identity") | {"weights"}
MAKING = {
    "distill": "distilled",
    "adopt": "adopted from weights made elsewhere",
    "baseline": "trained without a teacher",
}


def card(record: Mapping[str, Any], *, run: RunFiles | None, code: str) -> str:
    """A card in Markdown with the head that model hubs read; every number is one of the record."""
    sections = {
        "Accuracy": _accuracy(record, run),
        "Use": _use(record, code),
        "How it was made": _making(record, run),
        "Cost": _cost(record, run),
        "Check": _check(record),
        "Limits": _limits(record),
    }
    body = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([front_matter(record), f"# {record['run']['name']}", _headline(record), *body]) + "\n"


def accuracy_text(test: Mapping[str, Any]) -> str:
    """``83.2 % of 10,000 test images, 95 % interval 82.5 to 84.0``."""
    _, share, interval, _ = _accuracy_row(("", test))
    return f"{share} % of {test['num_images']:,} test images, 95 % interval {interval}"


def data_name(dataset: str) -> str:
    """The name of a data set, without the folders of this machine."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{PurePath(path).name}" if colon and "/" in path else dataset


def _headline(record: Mapping[str, Any]) -> str:
    run, test = record["run"], record["test"]
    taught = f", distilled from `{record['teacher']['name']}`" if record["teacher"] else ""
    return (
        f"An image classifier for {len(test['per_class'])} classes of {run['dataset']}: `{run['arch']}`, "
        f"{run['num_parameters']:,} parameters{taught}. It is right on {per_cent(test['accuracy'])} % of "
        f"{test['num_images']:,} test images of {record['tested_on']}."
    )


def _accuracy(record: Mapping[str, Any], run: RunFiles | None) -> str:
    rows = [("this model", record["test"])]
    if int8 := record["int8"]:
        rows.append((f"quantized to 8 bits{'' if int8['accepted'] else ' (not kept)'}", int8["test"]))
    named = {"baseline": "the same network without a teacher", "teacher": "the teacher"}
    rows += [
        (f"{text}, `{record[key]['name']}`", record[key])
        for key, text in named.items()
        if "num_correct" in (record[key] or {})
    ]
    parts = [
        markdown_table([("model", "accuracy %", "95 % interval", "right of"), *map(_accuracy_row, rows)], num_names=1),
        "Intervals (Wilson) are over test images that could have been drawn, for one trained model each."
        + _unseen(record),
        *([record["verdict"]] if record["verdict"] else []),
        *(control_note(run) if run and run.role == "student" else []),
        evaluation_table(record["test"], title="By class:").strip(),
    ]
    return "\n\n".join(parts)


def _accuracy_row(row: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
    name, scores = row
    right, total = scores["num_correct"], scores["num_images"]
    low, high = (per_cent(end) for end in wilson_interval(right, total))
    return name, per_cent(right / total), f"{low} to {high}", f"{right:,} of {total:,}"


def _unseen(record: Mapping[str, Any]) -> str:
    return "" if record["notes"] else " The test images were used neither for training nor for any choice."


def _use(record: Mapping[str, Any], code: str) -> str:
    feed, preprocessing = record["input"], record["preprocessing"]
    size, kept = preprocessing["size"], preprocessing["image_size"]
    then = "" if kept == size else f", resize it to {size} ({preprocessing['interpolation']})"
    then += " - without the first step pictures are sharper than any that it has seen -" if kept < size else ""
    given = (
        f"`{feed['name']}`: uint8, shape (N, {size}, {size}, 3), RGB; the model normalizes by itself"
        if feed["inside"]
        else f"`{feed['name']}`: float32, shape (N, 3, {size}, {size}), RGB, `(pixels / 255 - mean) / std` with mean "
        f"{record['preprocessing']['mean']} and std {record['preprocessing']['std']}"
    )
    answers = "logits (N, C)" if record["format"] == "safetensors" else "`logits` and `probabilities`, (N, C) each"
    return "\n".join(
        [
            f"- Input {given}. N is free.",
            f"- Output {answers}; the classes are those of `config.json`, in their order.",
            f"- Pictures of other sizes: resize the shorter side to {kept} pixels ({INTERPOLATION}) and crop the "
            f"central square{then}, after turning them upright as EXIF says and laying transparent ones on white. "
            "Others than RGB (OpenCV reads BGR) give wrong answers.",
            "",
            "In this folder, on any picture files:",
            "",
            f"```python\n{code}\n```",
        ]
    )


def _making(record: Mapping[str, Any], run: RunFiles | None) -> str:
    source, lines = record["run"], []
    lines.append(f"- {MAKING.get(source['command'], 'trained').capitalize()} on {source['dataset']} with kdignite.")
    if teacher := record["teacher"]:
        accuracy = per_cent(teacher["val_accuracy"], digits=2)
        lines.append(f"- Teacher: `{teacher['name']}`, {accuracy} % on validation images.")
    if run is None:
        unknown = "The settings of its run are not known: only its file was at hand."
        early = f"Its run had not finished: {source['unfinished']}." if source["unfinished"] else ""
        return "\n".join([*lines, f"- {early or unknown}"])
    used = {key: value for key, value in run.config.items() if key in SETTINGS and value not in (None, False)}
    used |= {"weights": PurePath(str(used["weights"])).name} if "weights" in used else {}
    if used:
        words = (f"{key}={brief(setting_text(value))}" for key, value in used.items())
        lines.append(f"- Settings: {', '.join(words)}.")
    if "epochs" in run.result:
        best, epochs, took = (run.result.get(key) for key in ("best_epoch", "epochs", "train_seconds"))
        time = f"; training took {took:,.0f} s" if took else ""
        lines.append(f"- Epoch {best} of {epochs}, chosen on validation images, seed {run.seed}{time}.")
    with_versions = [
        f"{name} {run.computed_with(name)[0]}" for name in ("kdignite", "torch") if run.computed_with(name)
    ]
    return "\n".join([*lines, f"- Trained with {', '.join(with_versions)}."])


def _cost(record: Mapping[str, Any], run: RunFiles | None) -> str:
    rows = [("file", "KiB", "ms for one image, one thread")]
    for name, one in record["files"].items():
        latency = one["latency_ms"]
        rows.append((f"`{name}`", kib(one["num_bytes"]), NO_SCORE if latency is None else f"{latency:.2f}"))
    lines = [markdown_table(rows, num_names=1)]
    if any(one["latency_ms"] for one in record["files"].values()):
        lines.append(f"Times are medians in onnxruntime on {record['processor'] or 'a CPU'}, measured in turn.")
    measured = (run.result.get("cost") if run else None) or {}
    if adds := measured.get("multiply_adds"):
        lines.append(f"{adds / 1e6:,.1f} M multiply-adds for one image.")
    return "\n\n".join([*lines, *([f"{record['int8']['text']}."] if record["int8"] else [])])


def _check(record: Mapping[str, Any]) -> str:
    files = ", ".join(f"`{name}` {one['sha256']}" for name, one in record["files"].items())
    found = parity_text(Parity(**record["check"]))
    return f"Compared with the model of the run: {found}.\n\nSHA-256: {files}"


def _limits(record: Mapping[str, Any]) -> str:
    test = record["test"]
    names = [row["class"] for row in test["per_class"]]
    worst = min((row for row in test["per_class"] if row["support"]), key=lambda row: row["recall"])
    lines = [
        f"- It always answers with one of its {len(names)} classes, also for a picture of something else.",
        f"- The accuracy holds for images like those of {record['tested_on']}, seen at "
        f"{record['preprocessing']['image_size']} pixels; on others it was not measured.",
        f"- Its probabilities are off by {per_cent(test['ece'])} points on average (expected calibration error).",
        f"- Weakest class: {worst['class']}, of which it finds {per_cent(worst['recall'])} %.",
    ]
    if test["confusions"]:
        most = test["confusions"][0]
        lines.append(
            f"- Most frequent mistake: {names[most['true']]} taken for {names[most['predicted']]} "
            f"({per_cent(most['share'])} % of that class)."
        )
    return "\n".join([*lines, *(f"- {note[:1].upper()}{note[1:]}." for note in record["notes"])])
