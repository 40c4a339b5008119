#!/usr/bin/env python3
"""Measures the cases of `ccl bench kernels --set paper` in PyTorch, and sets both side by side.

    ccl bench kernels --backend cuda -o ours.json
    python3 benches/gpu/compare.py --ccl ours.json -o theirs.json --svg ratios.svg

Needs PyTorch with CUDA. Times are medians by CUDA events, warm, with inputs rotated through copies that are together larger than the
second-level cache; where it can be done runs are replayed as a CUDA graph, so that launching costs PyTorch nothing. Several ways to compute a
case are tried and the fastest counts. `--theirs F.json` takes times measured before: that needs no PyTorch. `--dry-run` takes tiny
sizes on the processor, to try this program.

`--step` also times a denoising step (joint, two-pass, 14B with 2 layers) of a PyTorch program of the model, `--peer FILE`, which takes --preset, --task,
--guidance, --steps, --repeat, --device, --dtype and --compile and prints a JSON line with `step_s`; `--cases DIR` runs its forward pass in
bf16 on reference cases and says how far it is off. `--ccl-step F.json` is what `ccl bench step --json` printed for the same step.
"""
import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import report  # noqa: E402


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
    p.add_argument("--step", action="store_true", help="time a denoising step of the peer too")
    p.add_argument("--peer", type=pathlib.Path, metavar="FILE", help="PyTorch program of the model, for --step and --cases")
    p.add_argument("--ccl-step", type=pathlib.Path, metavar="F.json", help="what `ccl bench step --json` printed, to compare with")
    p.add_argument("--cases", type=pathlib.Path, metavar="DIR", help="reference cases to run the peer's forward pass on in bf16")
    p.add_argument("--dry-run", action="store_true", help="tiny sizes, on the processor, nothing compiled")
    a = p.parse_args()
    if (a.step or a.cases) and not a.peer:
        p.error("--step and --cases need --peer FILE, a PyTorch program of the model")
    return a


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        fail(f"{path}: is no JSON file that can be read: {str(e).splitlines()[0]}")


class Device:
    """Where PyTorch runs, and its clock."""

    def __init__(self, torch, dry):
        self.torch, self.cuda = torch, not dry
        self.name = torch.cuda.get_device_name() if self.cuda else "the processor"
        cache = torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 0
        self.rotate = 2 * cache if self.cuda else 1 << 14

    def copies(self, read):
        most = 256
        if self.cuda:
            most = min(most, int(self.torch.cuda.mem_get_info()[0] * 0.4) // max(read, 1))
        return max(1, min(-(-self.rotate // max(read, 1)), most))

    def runs(self, run, milliseconds):
        """Seconds of each of several runs."""
        if not self.cuda:
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            return times
        event = lambda: self.torch.cuda.Event(enable_timing=True)

        def timed():
            begin, end = event(), event()
            begin.record()
            run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3
        first = timed()
        count = int(min(max(milliseconds / 1e3 / max(first, 1e-7), 5), 1000))
        return [timed() for _ in range(count)]

    def captured(self, run):
        """The runs as a CUDA graph, or as they are where they cannot be captured."""
        if not self.cuda:
            return run
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                run()
            graph.replay()
            self.torch.cuda.synchronize()
            return graph.replay
        except RuntimeError:
            self.torch.cuda.synchronize()
            return run


def agree(first, got, name):
    """Takes the first form's result, and refuses others that are not the same but for rounding."""
    got = got[0] if isinstance(got, tuple) else got
    if got is None or first is None:
        return got
    off = ((got.double() - first.double()).norm() / first.double().norm()).item()
    if not off < 3e-2:
        raise ValueError(f"{name} computes something else: relative L2 {off:.1e}")
    return first


def measure(case, device, milliseconds):
    """Seconds of each form of a case; what does not run here is left out, with the reason."""
    torch = device.torch
    sets = [case.make() for _ in range(device.copies(case.read))]
    times, refused, first = {}, {}, None
    for name, form in case.forms.items():
        def run():
            for inputs in sets:
                form(*inputs)
        try:
            first = agree(first, form(*sets[0]), name)
            for _ in range(2):
                run()
            measured = device.captured(run) if case.graph else run
            times[name] = statistics.median(device.runs(measured, milliseconds)) / len(sets)
        except Exception as e:  # noqa: BLE001: a form that this PyTorch lacks is no failure of the comparison
            refused[name] = (str(e).splitlines() or [type(e).__name__])[0]
    del sets
    if device.cuda:
        torch.cuda.empty_cache()
    best = min(times, key=times.get) if times else None
    return {"id": case.id, "best": best, "best_s": times.get(best), "forms": times, "refused": refused}


def kernels(a, torch):
    import torch_cases
    device = Device(torch, a.dry_run)
    sizes = torch_cases.TINY if a.dry_run else torch_cases.PAPER
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[a.dtype]
    begin, lines, skipped = time.monotonic(), [], []
    with torch.no_grad():
        makers = [torch_cases.Maker(sizes, s, dtype, "cuda" if device.cuda else "cpu", device.cuda) for s in ("video", "audio")]
        for make in [m for pair in zip(*(maker.cases() for maker in makers)) for m in pair]:
            if time.monotonic() - begin > a.budget:
                skipped.append(f"{make.__self__.stream}.{make.__name__}")
                continue
            case = make()
            if a.filter not in case.id:
                continue
            with torch.enable_grad() if case.id.endswith("gradient") else torch.no_grad():
                line = measure(case, device, a.time)
            lines.append(line | {"flops": torch_cases.flops(case.id, sizes)})
            forms = ", ".join(f"{k} {report.human(v)}" for k, v in line["forms"].items()) or "nothing runs"
            print(f"  {case.id:<32} {forms}", flush=True)
            for name, why in line["refused"].items():
                print(f"  {'':<32} {name} does not run: {why[:100]}", flush=True)
    if skipped:
        print(f"  not measured, the time was up: {' '.join(skipped)}")
    return {"torch": torch.__version__, "device": device.name, "dtype": a.dtype, "dry_run": a.dry_run,
            "rotate_bytes": device.rotate, "kernels": lines}


def peer_step(a):
    """Seconds of a step of the peer."""
    size = ["--preset", "bench", "--device", "cpu", "--steps", "1", "--repeat", "1"] if a.dry_run else [
        "--preset", "wan14b-2layers", "--device", "cuda", "--dtype", "bfloat16", "--compile", "--steps", "2", "--repeat", "3"]
    command = [sys.executable, str(a.peer), "--task", "joint", "--guidance", "two-pass", *size]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        why = (done.stderr.strip().splitlines() or ["no result"])[-1]
        print(f"  the peer's step failed: {why[:200]}")
        return None
    return json.loads(lines[-1])


def peer_errors(a, torch):
    """How far PyTorch's forward pass in bf16 is from the float64 results of the reference cases, relative L2."""
    from safetensors.torch import load_file
    spec = importlib.util.spec_from_file_location("peer", a.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    device, errors = "cpu" if a.dry_run else "cuda", {}
    for folder in sorted(p for p in a.cases.iterdir() if (p / "config.json").exists()):
        try:
            cfg = peer.CclConfig.from_json(folder / "config.json")
            w, x, want = (load_file(folder / f"{n}.safetensors") for n in ("weights", "inputs", "expected"))
        except (TypeError, OSError):
            continue  # A form of the model that the peer does not have, or no whole case.
        if cfg.image_dim or "velocity.joint.video" not in want:
            continue
        half = lambda t: t.to(device, torch.bfloat16) if t.is_floating_point() else t.to(device)
        w, x = {k: half(v) for k, v in w.items()}, {k: half(v) for k, v in x.items()}
        grid = tuple(n // p for n, p in zip(x["video"].shape[2:], cfg.video.patch))
        model, worst = peer.TorchCcl(cfg, w, grid, x["audio"].shape[2]), {}
        with torch.no_grad():
            for task, route in peer.ROUTES.items():
                zero = torch.zeros_like(x["t"])
                got = model.forward(task, x["t"] if route.video else zero, x["t"] if route.audio else zero,
                                    x["video"], x["audio"], x["text"])
                for stream, value in zip(("video", "audio"), got):
                    if value is not None and f"velocity.{task}.{stream}" in want:
                        worst[f"{task}.{stream}"] = peer.relative(value, want[f"velocity.{task}.{stream}"])
        errors[folder.name] = max(worst.values())
        print(f"  {folder.name:<32} {errors[folder.name]:.2e}")
    return errors


def main():
    a = options()
    ours = read_json(a.ccl) if a.ccl else None
    our_step = read_json(a.ccl_step) if a.ccl_step else None
    if a.theirs:
        theirs = read_json(a.theirs)
    else:
        try:
            import torch
        except ImportError:
            fail("PyTorch is not installed for this Python, so that there is nothing to compare with", 3)
        if not a.dry_run and not torch.cuda.is_available():
            fail(f"PyTorch {torch.__version__} finds no CUDA device; --dry-run tries this program without one", 3)
        if a.dry_run:
            torch.set_num_threads(1)
        print(f"PyTorch {torch.__version__}, {Device(torch, a.dry_run).name}, {a.dtype}")
        theirs = kernels(a, torch)
        if a.step:
            theirs["step"] = peer_step(a)
        if a.cases:
            print("the peer's forward pass in bf16, relative L2 from the float64 results:")
            theirs["errors"] = peer_errors(a, torch)
    result = report.compare(ours, theirs, our_step)
    print(report.text(result))
    if a.output:
        a.output.write_text(json.dumps(theirs | {"comparison": result}, indent=2) + "\n")
    if a.svg:
        a.svg.write_text(report.svg(result))


if __name__ == "__main__":
    main()
