"""Python and the packages that every run needs."""

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nas_growclip.doctor.machine import Finding, Place

OPTUNA = ">=4.5,<6"


def check_python(place: Place) -> Finding:
    """Python is new enough."""
    found = ".".join(map(str, place.python_version))
    if place.python_version >= (3, 11):
        return Finding("ok", found)
    return Finding(
        "problem", f"Python must be 3.11 or newer, but is {found}", "Install Python 3.11."
    )


def check_torch(place: Place) -> Finding:
    """Torch is there and can be imported."""
    return _imported(
        place, "torch", "torch", "Install it anew: pip install --force-reinstall torch"
    )


def check_torchvision(place: Place) -> Finding:
    """Torchvision belongs to the installed torch and can be imported beside it."""
    remedy = (
        "Install both anew from one index, CPU or CUDA alike: "
        "pip install --force-reinstall torch torchvision"
    )
    torch = place.version("torch")
    for wanted in map(Requirement, place.requirements("torchvision")):
        if wanted.name == "torch" and torch and not _fits(torch, str(wanted.specifier)):
            found = (
                f"torchvision {place.version('torchvision')} needs {wanted}, but torch is {torch}"
            )
            return Finding("problem", found, remedy)
    return _imported(place, "torchvision", "torchvision", remedy)


def check_timm(place: Place) -> Finding:
    """Timm can be imported."""
    return _imported(place, "timm", "timm", "pip install 'timm>=1.0.20,<2'")


def check_open_clip(place: Place) -> Finding:
    """OpenCLIP can be imported."""
    return _imported(place, "open_clip", "open_clip_torch", "pip install 'open_clip_torch>=3.1,<5'")


def check_optuna(place: Place) -> Finding:
    """Optuna's version is one that we support."""
    return _version_within(place, "optuna", OPTUNA)


def check_threads(place: Place) -> Finding:
    """How many threads a process takes, for whoever starts several."""
    setting = place.environment.get("OMP_NUM_THREADS", "not set")
    threads = place.imports["torch"].get("threads")
    found = (
        f"{place.cores} cores, OMP_NUM_THREADS {setting}, torch's threads {threads or 'unknown'}"
    )
    share = "Give each worker its share: OMP_NUM_THREADS = cores / workers"
    if threads and threads > place.cores:
        return Finding("warning", found, share)
    return Finding("ok", found, share if threads and threads > 1 else "")


def check_cuda(place: Place) -> Finding:
    """Whether there is a GPU that torch can use."""
    torch = place.imports["torch"]
    if torch["error"]:
        return Finding("skipped", "torch cannot be imported")
    if torch.get("devices"):
        return Finding("ok", f"CUDA {torch['cuda']}: {', '.join(torch['devices'])}")
    if not (place.proc / "driver" / "nvidia" / "version").exists():
        return Finding("ok", "no NVIDIA GPU; training runs on the CPU")
    return Finding(
        "warning",
        f"there is an NVIDIA driver, but torch (CUDA build: {torch.get('cuda')}) sees no GPU",
        "Install the CUDA build of torch that this driver supports, or check CUDA_VISIBLE_DEVICES.",
    )


def _imported(place: Place, module: str, package: str, remedy: str) -> Finding:
    version = place.version(package)
    if version is None:
        return Finding("problem", f"{package} is not installed", remedy)
    error = place.imports[module]["error"]
    if not error:
        return Finding("ok", f"{version} imports")
    if module in ("timm", "open_clip") and place.imports["torchvision"]["error"]:
        remedy = "Repair torchvision first."
    return Finding("problem", f"{package} {version} cannot be imported: {error}", remedy)


def _version_within(place: Place, package: str, wanted: str) -> Finding:
    version = place.version(package)
    if version is not None and _fits(version, wanted):
        return Finding("ok", version)
    found = f"{package} must be {wanted}, but is {version or 'not installed'}"
    return Finding("problem", found, f"pip install '{package}{wanted}'")


def _fits(version: str, wanted: str) -> bool:
    return SpecifierSet(wanted).contains(version, prereleases=True)
