"""Python and the packages that every run needs."""

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nas_growclip.doctor.machine import PACKAGE, Environment, Finding


def check_python(environment: Environment) -> Finding:
    """Python is new enough."""
    found = ".".join(map(str, environment.python_version))
    if fits(found, environment.required_python):
        return Finding("ok", found)
    wanted = environment.required_python
    return Finding("problem", f"Python must be {wanted}, but is {found}", "Install such a Python.")


def check_torch(environment: Environment) -> Finding:
    """Torch is there and can be imported."""
    return check_import(
        environment, "torch", "torch", "Install it again: pip install --force-reinstall torch"
    )


def check_torchvision(environment: Environment) -> Finding:
    """Torchvision belongs to the installed torch and can be imported beside it."""
    remedy = (
        "Install both again from one index, CPU or CUDA alike: "
        "pip install --force-reinstall torch torchvision"
    )
    torch = environment.version("torch")
    for wanted in map(Requirement, environment.requirements("torchvision")):
        if wanted.name == "torch" and torch and not fits(torch, str(wanted.specifier)):
            version = environment.version("torchvision")
            found = f"torchvision {version} needs {wanted}, but torch is {torch}"
            return Finding("problem", found, remedy)
    return check_import(environment, "torchvision", "torchvision", remedy)


def check_timm(environment: Environment) -> Finding:
    """Timm can be imported."""
    return check_import(environment, "timm", "timm", environment.pip_install("timm"))


def check_open_clip(environment: Environment) -> Finding:
    """OpenCLIP can be imported."""
    remedy = environment.pip_install("open_clip_torch")
    return check_import(environment, "open_clip", "open_clip_torch", remedy)


def check_optuna(environment: Environment) -> Finding:
    """Optuna's version is one that we support."""
    return check_version(environment, "optuna")


def check_threads(environment: Environment) -> Finding:
    """How many threads a process takes, for whoever starts several."""
    setting = environment.variables.get("OMP_NUM_THREADS", "not set")
    threads = environment.imports["torch"].get("threads")
    cores = f"{environment.cores} cores, OMP_NUM_THREADS {setting}"
    found = f"{cores}, torch's threads {threads or 'unknown'}"
    share = "Give each worker its share: OMP_NUM_THREADS = cores / workers"
    if threads and threads > environment.cores:
        return Finding("warning", found, share)
    return Finding("ok", found, share if threads and threads > 1 else "")


def check_cuda(environment: Environment) -> Finding:
    """Whether there is a GPU that torch can use."""
    torch = environment.imports["torch"]
    if torch["error"]:
        return Finding("skipped", "torch cannot be imported")
    if torch.get("devices"):
        return Finding("ok", f"CUDA {torch['cuda']}: {', '.join(torch['devices'])}")
    if not (environment.proc / "driver" / "nvidia" / "version").exists():
        return Finding("ok", "no NVIDIA GPU; training runs on the CPU")
    return Finding(
        "warning",
        f"there is an NVIDIA driver, but torch (CUDA build: {torch.get('cuda')}) sees no GPU",
        "Install the CUDA build of torch that this driver supports, or check CUDA_VISIBLE_DEVICES.",
    )


def check_import(environment: Environment, module: str, package: str, remedy: str) -> Finding:
    """A package is installed, and its module can be imported."""
    version = environment.version(package)
    if version is None:
        return Finding("problem", f"{package} is not installed", remedy)
    error = environment.imports[module]["error"]
    if not error:
        return Finding("ok", f"{version} imports")
    if module in ("timm", "open_clip") and environment.imports["torchvision"]["error"]:
        remedy = "Repair torchvision first."
    return Finding("problem", f"{package} {version} cannot be imported: {error}", remedy)


def check_version(environment: Environment, package: str, by: str = PACKAGE) -> Finding:
    """A package's version is one that this package asks for, or another one that needs it."""
    wanted = environment.wanted(package, by)
    version = environment.version(package)
    if version is not None and fits(version, wanted):
        return Finding("ok", version)
    found = f"{package} must be {wanted}, but is {version or 'not installed'}"
    return Finding("problem", found, environment.pip_install(package, by))


def fits(version: str, wanted: str) -> bool:
    """Whether a version is among those that a specifier allows."""
    return SpecifierSet(wanted).contains(version, prereleases=True)
