"""Packaging of kdignite."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "kdignite" / "__init__.py").read_text(encoding="utf-8")
SEARCH = ["optuna>=4"]
TEST = [*SEARCH, "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100"]

setup(
    name="kdignite",
    version=re.search(r'__version__ = "([^"]+)"', INIT).group(1),
    description="Knowledge distillation on PyTorch-Ignite that shows what it bought",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["kdignite*"]),
    package_data={"kdignite": ["py.typed", "reports/page/page.*"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.10",
        "torchvision>=0.25",
        "pytorch-ignite>=0.5.5",
        "safetensors>=0.7",
        "tensorboard>=2.21",
        "fire>=0.7",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "matplotlib>=3.9",
        "numpy>=1.26",
        "pillow>=10",
        "tqdm>=4.66",
        "jinja2>=3.1",
    ],
    extras_require={
        "search": SEARCH,
        "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
        "test": TEST,
        "timm": ["timm>=1.0.20"],
        "dev": [*TEST, "timm>=1.0.20", "ruff>=0.9", "mypy>=1.14", "tox>=4"],
    },
    entry_points={"console_scripts": ["kdignite=kdignite.cli:main"]},
)
