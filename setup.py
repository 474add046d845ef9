"""Names the packages of a wheel; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# gin/ is next to the packages in a checkout and inside codellama_jax in a wheel. codellama_jax/config/gin_files.py
# finds it in both.
GIN_FOLDERS = ("gin", "gin/models", "gin/paper")
GIN_PACKAGES = {f"codellama_jax.{folder.replace('/', '.')}": folder for folder in GIN_FOLDERS}

setup(
    packages=[*find_packages(include=["codellama_jax*", "tasks*", "launch*"]), *GIN_PACKAGES],
    package_dir=GIN_PACKAGES,
    package_data={"codellama_jax.serving": ["web/*"], "codellama_jax.kernels": ["*.json"]}
    | {name: ["*.gin"] for name in GIN_PACKAGES},
)
