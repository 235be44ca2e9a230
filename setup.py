"""Packaging of gmeta_tf. `bash launch/setup.sh` is the short way to a working environment.

By hand: `pip install -c constraints.txt -e '.[cpu]'`. Horovod has no wheels on PyPI and must be
built when TensorFlow is already there, so `launch/setup.sh` holds its recipe.
"""

from pathlib import Path

from setuptools import find_packages, setup

readme = Path(__file__).parent / "README.md"

# The directory models/ lies at the top of the repository, and would collide with other projects in
# site-packages under that name.
moved = {"gmeta_tf.models": "models"}

x86_linux = "sys_platform == 'linux' and platform_machine == 'x86_64'"
not_x86_linux = "sys_platform != 'linux' or platform_machine != 'x86_64'"

setup(
    name="gmeta_tf",
    version="0.1.0.dev0",
    description="Distributed meta-learning for recommenders with TensorFlow and Horovod",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    package_dir=moved,
    packages=find_packages(include=["gmeta_tf", "gmeta_tf.*"]) + list(moved),
    package_data={"gmeta_tf": ["py.typed"]},
    entry_points={"console_scripts": ["gmeta-tf = gmeta_tf.cli.main:main"]},
    # TensorFlow is an extra: its CPU and GPU builds have different names.
    install_requires=[
        "keras>=3.6",
        "numpy<2",
        "duckdb>=1.2,<2.1",  # run with 1.5.6 and 2.0.0
        "safetensors",
        "jsonargparse[signatures]>=4.38",
        "PyYAML",
        "tensorboard>=2.16,<2.17",
        "setuptools<82",  # tensorboard 2.16 imports pkg_resources, which setuptools 82 dropped
    ],
    extras_require={
        "cpu": [
            f"tensorflow-cpu==2.16.2; {x86_linux}",
            f"tensorflow==2.16.2; {not_x86_linux}",
        ],
        # SOK is no extra: PyPI's release does not compile with TensorFlow 2.16 (docs/gpu.md).
        "gpu": ["tensorflow[and-cuda]==2.16.2"],
        "distributed": ["horovod==0.28.1", "cffi", "cloudpickle", "packaging", "psutil"],
        "remote": ["tensorflow-io==0.37.1"],
        "spark": ["pyspark>=3.5,<4"],  # 3.5 runs on Java 17; 4 needs Java 17 or 21
        "report": ["matplotlib>=3.10,<4"],
        "bench": ["torch==2.13.0"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
            "types-PyYAML",
            # Moto's own extra for a server brings thirty packages that S3 does not need.
            "moto",
            "flask",
            "flask-cors",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
