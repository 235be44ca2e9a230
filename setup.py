"""Packaging of gmeta_tf. `bash launch/setup.sh` is the short way to a working environment.

By hand: `pip install -c constraints.txt -e '.[cpu]'`; constraints-current.txt is the newer stack.
The ranges span the two stacks; what lies between them has not been run. An upper bound without a
reason beside it is the next major release (of TensorFlow the next one), which has not been run.
Horovod has no wheels on PyPI and must be built when TensorFlow is already there:
launch/build_horovod.sh does.
"""

from pathlib import Path

from setuptools import find_packages, setup

readme = Path(__file__).parent / "README.md"

# The directory models/ lies at the top of the repository, and would collide with other projects in
# site-packages under that name.
moved = {"gmeta_tf.models": "models"}

tensorflow_range = ">=2.16.2,<2.22"  # 2.16 has no wheels for Python 3.13
x86_linux = "sys_platform == 'linux' and platform_machine == 'x86_64'"
not_x86_linux = "sys_platform != 'linux' or platform_machine != 'x86_64'"

# Remote files by fsspec.
remote = {
    "s3": ["s3fs>=2024.6"],
    "gs": ["gcsfs>=2024.6"],
    "az": ["adlfs>=2024.4"],
    "hdfs": ["fsspec>=2024.6", "pyarrow>=15"],
}

setup(
    name="gmeta_tf",
    version="0.1.0",
    description="Distributed meta-learning for recommenders with TensorFlow and Horovod",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    package_dir=moved,
    packages=find_packages(include=["gmeta_tf", "gmeta_tf.*"]) + list(moved),
    package_data={"gmeta_tf": ["py.typed"], "gmeta_tf.play": ["assets/*.css"]},
    entry_points={"console_scripts": ["gmeta-tf = gmeta_tf.cli.main:main"]},
    # TensorFlow is an extra: its CPU and GPU builds have different names.
    install_requires=[
        "keras>=3.6",
        "numpy>=1.26,<3",
        # Run with 1.3.2, 1.5.6 and 2.0.1; 1.2 has no `lambda x: ...`. A release may give SQL
        # another meaning in silence: the next minor one is tried first (launch/try_newest.sh).
        "duckdb>=1.3,<2.1",
        "safetensors",
        # Checksums of records and hashed keys, for which `prepare` need not wait for TensorFlow.
        "google-crc32c>=1.6",
        # Where it has wheels; elsewhere TensorFlow's op gives the same keys.
        "cityhash>=0.4.10; platform_machine in 'x86_64 aarch64 arm64'",
        "jsonargparse[signatures]>=4.38",
        "PyYAML",
        "tensorboard>=2.16,<2.22",  # TensorFlow 2.16 brings it, 2.21 does not
        # tensorboard 2.16 imports pkg_resources, which setuptools 82 dropped. horovodrun imports
        # distutils, which setuptools brings from Python 3.12 on.
        "setuptools<82",
    ],
    extras_require={
        "cpu": [
            f"tensorflow-cpu{tensorflow_range}; {x86_linux}",
            f"tensorflow{tensorflow_range}; {not_x86_linux}",
        ],
        # SOK is no extra: PyPI's release does not compile with TensorFlow 2.16 (docs/gpu.md).
        "gpu": ["tensorflow[and-cuda]==2.16.2; python_version < '3.13'"],
        "distributed": ["horovod==0.28.1", "cffi", "cloudpickle", "packaging", "psutil"],
        # For the TensorFlow of this Python's default stack: tensorflow-io's last release fits 2.16
        # alone. The extras named after schemes fit every TensorFlow.
        "remote": [
            "tensorflow-io==0.37.1; python_version < '3.13'",
            *(f"{package}; python_version >= '3.13'" for package in remote["s3"]),
        ],
        **remote,
        # Run with 3.5.5 and 4.3.0 on Java 17, which 4 needs at least. The next minor release is
        # tried first, as DuckDB's.
        "spark": ["pyspark>=3.5,<4.4"],
        "report": ["matplotlib>=3.10"],
        # Of the UI libraries the one with the fewest packages, on the Flask that tests have anyway.
        # Beside the pinned packages pip finds Streamlit 1.8 of 2022 and no newer one.
        "play": ["dash>=4.4"],
        "docs": [
            "mkdocs-material>=9.8; python_version >= '3.11'",
            "mkdocstrings[python]>=1.0; python_version >= '3.11'",
        ],
        "bench": ["torch==2.13.0"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
            "types-PyYAML",
            # Tables that `prepare` takes.
            "pandas>=2.2,<3",
            "polars>=1.20,<2",
            "pyarrow>=15",
            "optuna",  # an example's
            "playwright",  # pages in a browser, where there is a Chromium
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
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
