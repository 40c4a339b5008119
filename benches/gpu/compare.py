#!/usr/bin/env python3
"""Measures the cases of `ccl bench kernels --set paper` in PyTorch, and sets both side by side.

    ccl bench kernels --backend cuda -o ours.json
    python3 benches/gpu/compare.py --ccl ours.json -o theirs.json --svg ratios.svg

Needs PyTorch with CUDA. Times are medians by CUDA events, warm, with inputs rotated through copies that are together larger than the
second-level cache; where it can be done runs are replayed as a CUDA graph, so that launching costs PyTorch nothing. Several ways to compute a
case are tried and the fastest counts. `--theirs F.json` takes times measured before: that needs no PyTorch. `--dry-run` takes tiny
sizes on the processor, to try this program.

`--turns CCL` measures what is near its bound again, three times by the program CCL and by PyTorch in turns: a GPU's clock depends on what it has just
done, so that two blocks of measuring differ by more than what is asked about.

`--step` also times a denoising step (joint, two-pass, 14B with 2 layers) of a PyTorch program of the model, `--peer FILE`, whose `main` takes --preset,
--task, --guidance, --steps, --repeat, --device, --dtype and --compile and prints a JSON line with `step_s`. It is run with torch.compile, and without where
that fails. `--cases DIR` runs its forward pass in bf16 on reference cases and says how far it is off. `--ccl-step F.json` is what `ccl bench step --json`
printed for the same step, `--ccl-errors F.json` has the errors of the same cases in ccl, by their names.

torch.compile takes minutes for all of this. `--warm` only fills its cache (TORCHINDUCTOR_CACHE_DIR), while the GPU does what no clock watches.

What fails loses nothing else: files are written with what there is, and the exit code is 1.
"""
import argparse
import contextlib
import json
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import measuring  # noqa: E402
import program  # noqa: E402
import report  # noqa: E402
import turns  # noqa: E402
from measuring import first_line  # noqa: E402


def fail(text, code=1):
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ccl", type=pathlib.Path, metavar="F.json", help="what `ccl bench kernels -o F.json` wrote, to compare with")
    p.add_argument("--theirs", type=pathlib.Path, metavar="F.json", help="take PyTorch's times from this file instead of measuring")
    p.add_argument("-o", "--output", type=pathlib.Path, metavar="F.json", help="file for PyTorch's times and the comparison")
    p.add_argument("--svg", type=pathlib.Path, metavar="F.svg", help="file for a picture of the ratios")
    p.add_argument("--filter", default="", metavar="X", help="only cases with this in their id")
    p.add_argument("--dtype", choices=("bf16", "f16"), default="bf16")
    p.add_argument("--time", type=float, default=200, metavar="MS", help="milliseconds to measure each form for [200]")
    p.add_argument("--budget", type=float, default=1e9, metavar="S", help="start no case after this many seconds")
    p.add_argument("--limit", type=float, default=1e5, metavar="S", help="be done after this many seconds, the peer's step included")
    p.add_argument("--step", action="store_true", help="time a denoising step of the peer too")
    p.add_argument("--peer", type=pathlib.Path, metavar="FILE", help="PyTorch program of the model, for --step and --cases")
    p.add_argument("--ccl-step", type=pathlib.Path, metavar="F.json", help="what `ccl bench step --json` printed, to compare with")
    p.add_argument("--cases", type=pathlib.Path, metavar="DIR", help="reference cases to run the peer's forward pass on in bf16")
    p.add_argument("--ccl-errors", type=pathlib.Path, metavar="F.json", help="ccl's errors in bf16 on the same cases, to compare with")
    p.add_argument("--turns", type=pathlib.Path, metavar="CCL", help="measure what is near its bound again, in turns with this program; needs --ccl")
    p.add_argument("--turns-options", default="--backend cuda", metavar="X", help="what `bench kernels` is told in turns [--backend cuda]")
    p.add_argument("--warm", action="store_true", help="measure nothing: compile, so that the next run finds it done")
    p.add_argument("--dry-run", action="store_true", help="tiny sizes, on the processor, nothing compiled")
    a = p.parse_args()
    if (a.step or a.cases) and not a.peer:
        p.error("--step and --cases need --peer FILE, a PyTorch program of the model")
    if a.turns and not a.ccl:
        p.error("--turns needs --ccl F.json: what was measured once says what is near its bound")
    return a


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        fail(f"{path}: is no JSON file that can be read: {str(e).splitlines()[0]}")


def makers(a, torch, device):
    """What makes the cases, the most telling first, with their names."""
    import torch_cases
    sizes = torch_cases.TINY if a.dry_run else torch_cases.PAPER
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[a.dtype]
    streams = [torch_cases.Maker(sizes, s, dtype, "cuda" if device.cuda else "cpu", device.cuda) for s in ("video", "audio")]
    makes = [make for pair in zip(*(maker.cases() for maker in streams)) for make in pair]
    return [(f"{make.__self__.stream}.{make.__name__}", make) for make in makes], sizes


def kernels(a, torch, device, theirs, failures):
    """Measures every case into `theirs`, and returns those that can be measured again."""
    import torch_cases
    begin, lines, skipped, cases = time.monotonic(), [], [], {}
    theirs |= {"torch": torch.__version__, "device": device.name, "dtype": a.dtype, "dry_run": a.dry_run, "rotate_bytes": device.rotate,
               "time_ms": a.time, "kernels": lines}
    makes, sizes = makers(a, torch, device)
    for name, make in makes:
        if time.monotonic() - begin > a.budget:
            skipped.append(name)
            continue
        try:
            case = make()
            if a.filter not in case.id:
                continue
            line = measuring.measure(case, device, a.time)
        except Exception as e:  # noqa: BLE001: the other cases may run all the same
            failures.append(name)
            print(f"  {name:<32} failed: {first_line(e)}", flush=True)
            continue
        # What cannot be captured keeps its tensors.
        if case.graph:
            cases[case.id] = case
        lines.append(line | {"flops": torch_cases.flops(case.id, sizes)})
        forms = ", ".join(f"{k} {report.human(v)}" for k, v in line["forms"].items()) or "nothing runs"
        print(f"  {case.id:<32} {forms}", flush=True)
        for name, why in line["refused"].items():
            print(f"  {'':<32} {name} does not run: {why[:100]}", flush=True)
    if skipped:
        print(f"  not measured, the time was up: {' '.join(skipped)}")
    return cases


def again(a, device, cases, ours, theirs, until):
    """Measures what is near its bound in turns."""
    print("near their bounds, three times in turns:", flush=True)
    bounds = report.compare(ours, theirs)["bounds"]
    theirs["turns"] = turns.measured(a, device, cases, bounds, until)


def warm(a, torch, device, failures):
    """Compiles the peer's step, in a process of its own, and all forms of the cases; measures nothing."""
    begin, until = time.monotonic(), time.monotonic() + a.limit
    with program.compiling_step(a, until) if a.step else contextlib.nullcontext() as step:
        for name, make in makers(a, torch, device)[0]:
            if time.monotonic() > until:
                failures.append("the rest, the time being up")
                break
            try:
                measuring.compile_forms(make(), device)
            except Exception as e:  # noqa: BLE001: told again when it is measured
                failures.append(f"{name} ({first_line(e)})")
        print(f"  the forms of all cases, compiled in {time.monotonic() - begin:.0f} s", flush=True)
        if not step:
            return
        why = step()
        if why:
            failures.append(f"the peer's step ({why})")
        else:
            print(f"  the peer's step, compiled in {time.monotonic() - begin:.0f} s", flush=True)


def find_torch(a):
    """PyTorch, with the device that is asked for."""
    try:
        import torch
    except ImportError:
        fail("PyTorch is not installed for this Python, so that there is nothing to compare with", 3)
    if not a.dry_run and not torch.cuda.is_available():
        fail(f"PyTorch {torch.__version__} finds no CUDA device; --dry-run tries this program without one", 3)
    if a.dry_run:
        torch.set_num_threads(1)
    return torch


def measured(a, ours, theirs, failures):
    """Measures all parts into `theirs`; what does not work goes to `failures`."""
    until = time.monotonic() + a.limit
    torch = find_torch(a)
    device = measuring.Device(torch, a.dry_run)
    print(f"PyTorch {torch.__version__}, {device.name}, {a.dtype}", flush=True)

    def part(name, run):
        try:
            return run()
        except Exception as e:  # noqa: BLE001: the other parts may work all the same
            failures.append(name)
            print(f"  {name} failed: {type(e).__name__}: {first_line(e)}", flush=True)
    if a.warm:
        return part("compiling", lambda: warm(a, torch, device, failures))
    cases = part("the kernels", lambda: kernels(a, torch, device, theirs, failures)) or {}
    if a.step:
        part("the peer's step", lambda: theirs.update(step=program.step(a, until)))
        failures += [f"the peer's step ({form})" for form in (theirs.get("step") or {}).get("failed", {})]
    if a.cases:
        print("the peer's forward pass in bf16, relative L2 from the float64 results:", flush=True)
        errors = theirs["errors"] = {}
        part("the peer's forward pass", lambda: program.errors(a, torch, errors, failures))
    if a.turns:
        part("turns", lambda: again(a, device, cases, ours, theirs, until))


class TimeIsUp(BaseException):
    """Someone wants this program to end."""


def main():
    a = options()
    ours, our_step, our_errors = (read_json(path) if path else None for path in (a.ccl, a.ccl_step, a.ccl_errors))
    theirs, failures = {}, []
    if a.theirs:
        theirs = read_json(a.theirs)
    else:
        def up(*_):
            raise TimeIsUp
        signal.signal(signal.SIGTERM, up)
        try:
            measured(a, ours, theirs, failures)
        except TimeIsUp:
            failures.append("the rest, the time being up")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if a.warm:
        if failures:
            fail(f"not everything was compiled: {', '.join(failures)}")
        return
    result = report.compare(ours, theirs, our_step, our_errors)
    if a.output:
        a.output.write_text(json.dumps(theirs | {"failed": failures or theirs.get("failed", []), "comparison": result}, indent=2) + "\n")
    if a.svg:
        a.svg.write_text(report.svg(result))
    print(report.text(result), flush=True)
    if failures:
        fail(f"not everything was compared; failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
